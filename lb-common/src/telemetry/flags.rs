//! The flags about traces, which all processes have.

use http::Uri;

use super::sampling::Ratio;

/// Whether requests are traced, and how many.
#[derive(Clone, Debug, Default, PartialEq, Eq, clap::Args)]
pub struct TraceFlags {
    /// Send traces to this OpenTelemetry collector, by OTLP over gRPC: http://127.0.0.1:4317
    #[arg(long, env = "LB_OTLP", value_name = "URL", value_parser = endpoint)]
    pub otlp: Option<Uri>,

    /// How many of the requests that come without a trace begin one, from 0 to 1
    ///
    /// Those that come with one, in a traceparent header, are recorded if that says so.
    #[arg(long, env = "LB_TRACE_RATIO", value_name = "RATIO", default_value = "1")]
    pub trace_ratio: Ratio,
}

impl TraceFlags {
    /// `None` if nothing is to be traced.
    pub fn ratio(&self) -> Option<Ratio> {
        self.otlp.as_ref().map(|_| self.trace_ratio)
    }
}

fn endpoint(text: &str) -> Result<Uri, String> {
    let invalid = || "give a URL like http://127.0.0.1:4317".to_owned();
    let uri: Uri = text.trim().parse().map_err(|_| invalid())?;
    match (uri.scheme_str(), uri.host(), uri.path(), uri.query()) {
        (Some("http"), Some(host), "/", None) if !host.is_empty() => Ok(uri),
        (Some("https"), ..) => Err("https is not supported; give an http:// URL, of a collector \
                                    beside this process for instance"
            .into()),
        _ => Err(invalid()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Args {
        #[command(flatten)]
        trace: TraceFlags,
    }

    fn parse(args: &[&str]) -> Result<TraceFlags, String> {
        let args = std::iter::once("test").chain(args.iter().copied());
        Args::try_parse_from(args).map(|args| args.trace).map_err(|error| error.to_string())
    }

    #[test]
    fn nothing_is_traced_unless_it_is_said_where_to() {
        assert_eq!(parse(&[]).expect("no flag is needed").ratio(), None);
        let on = parse(&["--otlp=http://collector:4317"]).expect("it is valid");
        assert_eq!(on.ratio(), Some(Ratio::ALL));
        let some = parse(&["--otlp=http://[::1]:4317/", "--trace-ratio=0.25"]).expect("is valid");
        assert_eq!(some.ratio().expect("it is on").to_string(), "0.25");
    }

    #[test]
    fn an_error_says_what_would_be_valid() {
        #[rustfmt::skip]
        let cases = [
            ("--otlp=127.0.0.1:4317",     "give a URL like http://127.0.0.1:4317"),
            ("--otlp=http://a/v1/traces", "give a URL like http://127.0.0.1:4317"),
            ("--otlp=https://a",          "https is not supported"),
            ("--trace-ratio=2",           "give a number from 0 to 1, like 0.01"),
        ];
        for (arg, expected) in cases {
            let error = parse(&[arg]).expect_err(arg);
            assert!(error.contains(expected), "{error}");
        }
    }
}
