//! A real OpenTelemetry collector (rotel), and what it got.

use std::{collections::BTreeMap, net::SocketAddr};

use tempfile::TempDir;

use crate::{
    eventually::{eventually, holds},
    ports::Port,
    process::Process,
    tools::tool,
};

/// It takes traces by OTLP over gRPC, and prints them.
#[derive(Debug)]
pub struct Collector {
    process: Process,
    grpc: Port,
    _http: Port,
    _dir: TempDir,
}

/// One span as the collector got it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// Of its resource: `service.name` and the like.
    pub resource: BTreeMap<String, String>,
    pub trace_id: String,
    pub span_id: String,
    /// Empty if it has none.
    pub parent_id: String,
    pub name: String,
    /// Like `SERVER`.
    pub kind: String,
    /// Like `ERROR`.
    pub status: String,
    pub status_message: String,
    /// In nanoseconds of the epoch.
    pub start: u64,
    pub end: u64,
    pub attributes: BTreeMap<String, String>,
}

// === impl Collector ===

impl Collector {
    /// # Panics
    /// If it does not start.
    pub async fn start() -> Self {
        let dir = tempfile::tempdir().expect("the system has a place for temporary files");
        let (grpc, http) = (Port::reserve(), Port::reserve());
        let file = |name: &str| dir.path().join(name).display().to_string();
        let args = [
            "start".into(),
            format!("--otlp-grpc-endpoint={}", grpc.address()),
            format!("--otlp-http-endpoint={}", http.address()),
            "--exporter=blackhole".into(),
            "--debug-log=traces".into(),
            "--debug-log-verbosity=detailed".into(),
            format!("--pid-file={}", file("rotel.pid")),
            format!("--log-file={}", file("rotel.log")),
        ];
        let process = Process::start(dir.path(), "collector", &tool("rotel-agent"), &args);
        let collector = Self { process, grpc, _http: http, _dir: dir };
        collector.process.listens(collector.address()).await;
        collector
    }

    pub fn address(&self) -> SocketAddr {
        self.grpc.address()
    }

    /// The flag that has a process send its traces here.
    pub fn flag(&self) -> String {
        format!("--otlp=http://{}", self.address())
    }

    /// Waits until the spans that it got are enough, and returns them in the order of their starts.
    ///
    /// # Panics
    /// If they do not come to be.
    pub async fn spans(&self, what: &str, enough: impl Fn(&[Span]) -> bool) -> Vec<Span> {
        let mut before = String::new();
        eventually(&format!("the collector has {what}"), async || {
            let text = self.process.log();
            // Nothing is half written any more.
            let settled = text == before;
            let mut spans = parse(&text);
            before = text;
            spans.sort_by_key(|span| span.start);
            holds(settled && enough(&spans), || format!("{spans:#?}"))?;
            Ok::<_, String>(spans)
        })
        .await
    }

    /// Waits for so many spans of a trace.
    ///
    /// # Panics
    /// If there are fewer or more.
    pub async fn trace(&self, id: &str, count: usize) -> Vec<Span> {
        let of_it = |spans: &[Span]| spans.iter().filter(|span| span.trace_id == id).count();
        let what = format!("{count} spans of trace {id}");
        let spans = self.spans(&what, |spans| of_it(spans) >= count).await;
        let spans: Vec<_> = spans.into_iter().filter(|span| span.trace_id == id).collect();
        assert_eq!(spans.len(), count, "{spans:#?}");
        spans
    }
}

impl Span {
    pub fn service(&self) -> &str {
        self.resource.get("service.name").map_or("", String::as_str)
    }

    /// # Panics
    /// If it has no such attribute.
    pub fn attribute(&self, name: &str) -> &str {
        self.attributes.get(name).unwrap_or_else(|| panic!("no {name} in {self:#?}"))
    }
}

/// What the collector prints: `Name : value` lines, and ` -> name: Type(value)` for attributes.
fn parse(text: &str) -> Vec<Span> {
    let mut spans: Vec<Span> = Vec::new();
    let mut resource = BTreeMap::new();
    let mut section = "";
    for line in text.lines().map(str::trim) {
        if line.starts_with("ResourceSpans #") {
            resource = BTreeMap::new();
        } else if line.starts_with("Span #") {
            spans.push(Span { resource: resource.clone(), ..Span::default() });
            section = "";
        } else if let Some(attribute) = line.strip_prefix("-> ") {
            let Some((name, value)) = attribute.split_once(": ") else { continue };
            let inner = value.split_once('(').and_then(|(_, inner)| inner.strip_suffix(')'));
            let value = inner.unwrap_or(value).to_owned();
            match (section, spans.last_mut()) {
                ("Resource attributes", _) => _ = resource.insert(name.into(), value),
                ("Attributes", Some(span)) => _ = span.attributes.insert(name.into(), value),
                _ => {}
            }
        } else if let Some(title) = line.strip_suffix(':')
            && !title.contains(':')
        {
            section = title;
        } else if let (Some((name, value)), Some(span)) = (line.split_once(':'), spans.last_mut()) {
            let value = value.trim().to_owned();
            let without = |prefix| value.strip_prefix(prefix).unwrap_or(&value).to_owned();
            match name.trim() {
                "Trace ID" => span.trace_id = value,
                "Parent ID" => span.parent_id = value,
                "ID" => span.span_id = value,
                "Name" => span.name = value,
                "Kind" => span.kind = without("SPAN_KIND_"),
                "Status code" => span.status = without("STATUS_CODE_"),
                "Status message" => span.status_message = value,
                "Start time" => span.start = value.parse().unwrap_or_default(),
                "End time" => span.end = value.parse().unwrap_or_default(),
                _ => {}
            }
        }
    }
    spans
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_collector_prints_is_read() {
        let text = "
ResourceSpans #0
Resource SchemaURL: 
Resource attributes:
     -> service.name: Str(lb-proxy)
ScopeSpans #0
ScopeSpans SchemaURL: 
InstrumentationScope lb 
Span #0
    Trace ID       : eaf63175abb6b423c7572cee6e57ed21
    Parent ID      : 
    ID             : 45d4eda693cc3e5f
    Name           : GET app
    Kind           : SPAN_KIND_SERVER
Start time: 1795321603511199244
End time: 1795321603518647124
    Status code    : STATUS_CODE_ERROR
    Status message : why: so
Attributes:
     -> url.path: Str(/a:(b))
     -> http.response.status_code: Int(503)
Events:
SpanEvent #0
     -> Name: something
     -> Attributes::
          -> ignored: Int(1)
";
        let spans = parse(text);
        assert_eq!(spans.len(), 1);
        let span = &spans[0];
        assert_eq!((span.service(), &*span.kind, &*span.name), ("lb-proxy", "SERVER", "GET app"));
        assert_eq!((&*span.parent_id, &*span.span_id), ("", "45d4eda693cc3e5f"));
        assert_eq!((&*span.status, &*span.status_message), ("ERROR", "why: so"));
        assert_eq!(span.attribute("url.path"), "/a:(b)");
        assert_eq!(span.attribute("http.response.status_code"), "503");
        assert_eq!(span.attributes.len(), 2);
        assert_eq!(span.end - span.start, 7_447_880);
    }
}
