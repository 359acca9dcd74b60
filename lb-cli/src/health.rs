//! `lb health`: asks an admin port whether its process is ready. It is the health check of a
//! container, in which there is no other program that could ask.

use std::process::ExitCode;

use anyhow::Context;
use http::Uri;

use crate::http_client;

/// Say whether a controller or a proxy is ready
///
/// Asks /readyz of its admin port: a proxy is ready once it has a routing table and until it drains,
/// a controller once it has read its store and until it ends.
#[derive(Debug, clap::Args)]
#[command(after_long_help = AFTER_HELP)]
pub struct Args {
    /// An admin port, as HOST:PORT or as http://HOST:PORT; with a path, that is asked for instead
    #[arg(value_name = "ADDR|URL", value_parser = target)]
    target: Target,
}

const AFTER_HELP: &str = "\
Exit codes:
  0  ready
  1  not ready, or not there
  2  wrong usage

Examples:
  lb health 127.0.0.1:7101
  lb health http://127.0.0.1:7001/healthz";

/// What to ask whom.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Target {
    /// With a port.
    authority: String,
    path: String,
}

/// # Errors
/// If there is no answer.
pub fn main(args: Args) -> anyhow::Result<ExitCode> {
    let Target { authority, path } = args.target;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (status, body) = runtime
        .block_on(async {
            let mut answer = Err(anyhow::anyhow!("the name has no address"));
            // `localhost` has two, and the process listens at one of them.
            for address in tokio::net::lookup_host(&authority).await? {
                answer = http_client::get(address, &path).await;
                if answer.is_ok() {
                    break;
                }
            }
            answer
        })
        .with_context(|| format!("http://{authority}{path} does not answer"))?;
    let text = String::from_utf8_lossy(&body);
    let said = text.lines().next().unwrap_or_default().trim();
    if status.is_success() {
        crate::print(&format!("{}\n", if said.is_empty() { "ready" } else { said }));
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!("lb: http://{authority}{path} answers {}: {said}", status.as_u16());
    Ok(ExitCode::FAILURE)
}

fn target(text: &str) -> Result<Target, String> {
    let invalid = || "give an address like 127.0.0.1:7101, or http://127.0.0.1:7101".to_owned();
    let rest = text.trim();
    let rest = rest.strip_prefix("http://").unwrap_or(rest);
    let uri: Uri = format!("http://{rest}").parse().map_err(|_| invalid())?;
    let authority = uri.authority().filter(|authority| !authority.as_str().contains('@'));
    let authority = authority.filter(|authority| authority.port_u16().is_some_and(|p| p > 0));
    let path = match uri.path_and_query().map_or("/", |path| path.as_str()) {
        "/" => "/readyz",
        path => path,
    };
    Ok(Target { authority: authority.ok_or_else(invalid)?.to_string(), path: path.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_asked_for_its_readiness_and_a_url_for_what_it_says() {
        let cases = [
            ("127.0.0.1:7101", "127.0.0.1:7101", "/readyz"),
            ("http://127.0.0.1:7101", "127.0.0.1:7101", "/readyz"),
            ("http://127.0.0.1:7101/", "127.0.0.1:7101", "/readyz"),
            ("http://[::1]:7101/healthz", "[::1]:7101", "/healthz"),
            ("proxy:7101/a?b", "proxy:7101", "/a?b"),
        ];
        for (text, authority, path) in cases {
            let expected = Target { authority: authority.into(), path: path.into() };
            assert_eq!(target(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_asked_is_refused_with_what_could_be() {
        for text in ["", "7101", "127.0.0.1", "127.0.0.1:0", "https://a:1", "http://u@a:1", "a b:1"]
        {
            let error = target(text).expect_err(text);
            assert!(error.contains("127.0.0.1:7101"), "{text}: {error}");
        }
    }
}
