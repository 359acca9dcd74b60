//! Traces, as a real collector gets them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use integration_tests::{
    backend::{Backend, Reply, Seen},
    client::{self, Client, Request},
    collector::{Collector, Span},
    eventually::{PATIENCE, eventually, holds},
    fleet::{Fleet, app},
    ports::Port,
    process::Signal,
};
use opentelemetry::{
    Context,
    propagation::{Extractor, TextMapPropagator},
    trace::{SpanKind, TraceContextExt, Tracer, TracerProvider},
};
use opentelemetry_otlp::WithExportConfig;
use opentelemetry_sdk::{
    Resource,
    propagation::TraceContextPropagator,
    trace::{BatchConfigBuilder, BatchSpanProcessor, SdkTracer, SdkTracerProvider},
};
use tonic::metadata::MetadataValue;

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const SPAN: &str = "b7ad6b7169203331";

fn sampled() -> String {
    format!("00-{TRACE}-{SPAN}-01")
}

/// A fleet of one proxy, whose processes send their traces to the collector.
async fn traced(collector: &Collector, flags: &[&str], spec: &str) -> Fleet {
    let mut fleet = Fleet::empty_with(&[collector.flag()]).await;
    let flags = flags.iter().map(|flag| (*flag).to_owned());
    fleet.add_proxy("p1", &std::iter::once(collector.flag()).chain(flags).collect::<Vec<_>>());
    fleet.apply(spec).await;
    fleet
}

fn header<'a>(seen: &'a Seen, name: &str) -> Option<&'a str> {
    seen.head.fields.get(name)
}

/// A trace id and a parent's span id.
fn parent(seen: &Seen) -> (&str, &str) {
    let text = header(seen, "traceparent").expect("there is a traceparent");
    assert_eq!(text.len(), 55, "{text}");
    (&text[3..35], &text[36..52])
}

/// Spans of the test's own, by OpenTelemetry's own library.
fn tracer(collector: &Collector, service: &'static str) -> (SdkTracerProvider, SdkTracer) {
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_tonic()
        .with_endpoint(format!("http://{}", collector.address()))
        .build()
        .expect("an exporter");
    let at_once =
        BatchConfigBuilder::default().with_scheduled_delay(Duration::from_millis(50)).build();
    let provider = SdkTracerProvider::builder()
        .with_span_processor(
            BatchSpanProcessor::builder(exporter).with_batch_config(at_once).build(),
        )
        .with_resource(Resource::builder().with_service_name(service).build())
        .build();
    let tracer = provider.tracer("test");
    (provider, tracer)
}

struct Fields<'a>(&'a Seen);

impl Extractor for Fields<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        header(self.0, key)
    }

    fn keys(&self) -> Vec<&str> {
        self.0.head.fields.0.iter().map(|(name, _)| name.as_str()).collect()
    }
}

#[tokio::test]
async fn a_request_with_a_retry_is_one_trace_from_its_client_to_its_backend() {
    let collector = Collector::start().await;
    let (_of_backend, tracer_of_backend) = tracer(&collector, "backend");
    // The first attempt fails, whichever backend it reaches; the other one answers.
    let attempts = Arc::new(AtomicUsize::new(0));
    let reply = move |seen: &Seen| {
        if attempts.fetch_add(1, SeqCst) == 0 {
            return Reply::status(503, "");
        }
        let parent = TraceContextPropagator::new().extract(&Fields(seen));
        let span = tracer_of_backend.span_builder("work").with_kind(SpanKind::Server);
        drop(span.start_with_context(&tracer_of_backend, &parent));
        Reply::ok("done")
    };
    let (a, b) = (Backend::start(reply.clone()).await, Backend::start(reply).await);
    let route = "retry = { attempts = 3, on = ['5xx'] }";
    let fleet = traced(&collector, &[], &app(route, "", &[a.address(), b.address()])).await;

    let (_of_client, tracer_of_client) = tracer(&collector, "client");
    let span = tracer_of_client.span_builder("call").with_kind(SpanKind::Client);
    let context = Context::new().with_span(span.start(&tracer_of_client));
    let own = context.span().span_context().clone();
    let traceparent = format!("00-{}-{}-01", own.trace_id(), own.span_id());
    let request = Request::get("/shop?item=1")
        .header("traceparent", &traceparent)
        .header("tracestate", "vendor=of-client")
        .header("user-agent", "the test");
    let answer = client::request(fleet.proxies[0].web(), &request).await;
    assert_eq!((answer.status(), answer.text()), (200, "done".into()));
    context.span().end();

    let trace = collector.trace(&own.trace_id().to_string(), 5).await;
    let only = |service: &str, kind: &str| -> Vec<&Span> {
        let of = |span: &&Span| span.service() == service && span.kind == kind;
        trace.iter().filter(of).collect()
    };
    let [client] = only("client", "CLIENT")[..] else { panic!("{trace:#?}") };
    let [server] = only("lb-proxy", "SERVER")[..] else { panic!("{trace:#?}") };
    let [first, second] = only("lb-proxy", "CLIENT")[..] else { panic!("{trace:#?}") };
    let [work] = only("backend", "SERVER")[..] else { panic!("{trace:#?}") };
    assert_eq!(client.parent_id, "");
    assert_eq!(server.parent_id, client.span_id);
    assert_eq!((&first.parent_id, &second.parent_id), (&server.span_id, &server.span_id));
    assert_eq!(
        work.parent_id, second.span_id,
        "the backend's is under the attempt that reached it"
    );
    assert!(server.start <= first.start && first.end <= second.start, "{trace:#?}");
    assert!(second.end <= server.end, "{trace:#?}");

    assert_eq!((&*server.name, &*server.status), ("GET app", "UNSET"));
    let peer = fleet.proxies[0].web().port().to_string();
    #[rustfmt::skip]
    let expected = [
        ("http.request.method", "GET"), ("http.response.status_code", "200"),
        ("url.path", "/shop"), ("url.query", "item=1"), ("url.scheme", "http"),
        ("server.address", "app.test"), ("client.address", "127.0.0.1"),
        ("network.protocol.version", "1.1"), ("user_agent.original", "the test"),
        ("lb.route", "app"), ("lb.backend_set", "app"), ("lb.listener", "web"),
        ("lb.proxy", "p1"), ("lb.attempts", "2"), ("http.response.body.size", "4"),
    ];
    for (name, value) in expected {
        assert_eq!(server.attribute(name), value, "{name}; the proxy is at {peer}");
    }
    assert_eq!(server.resource["service.instance.id"], "p1");

    let reached: Vec<_> = [&a, &b].into_iter().filter(|backend| backend.count() == 1).collect();
    assert_eq!(reached.len(), 2, "each got an attempt");
    for (span, number, status) in [(first, 1, "503"), (second, 2, "200")] {
        assert_eq!((&*span.name, span.attribute("http.request.method")), ("GET", "GET"));
        assert_eq!(span.attribute("http.response.status_code"), status);
        let resends = span.attributes.get("http.request.resend_count").map(String::as_str);
        assert_eq!(resends, (number == 2).then_some("1"));
        let port = span.attribute("server.port").parse::<u16>().expect("a number");
        let backend = reached.iter().find(|backend| backend.address().port() == port);
        let seen = backend.expect("it is one of the two").only_request();
        assert_eq!(parent(&seen), (&*span.trace_id, &*span.span_id), "attempt {number}");
        assert_eq!(header(&seen, "tracestate"), Some("vendor=of-client"));
        assert_eq!(span.attribute("lb.backend"), backend.expect("it is").address().to_string());
    }
    assert_eq!((&*first.status, first.attribute("error.type")), ("ERROR", "503"));
    assert_eq!((&*second.status, second.attributes.get("error.type")), ("UNSET", None));
}

#[tokio::test]
async fn a_request_whose_client_does_not_record_it_is_not_recorded_and_passes_that_on() {
    let collector = Collector::start().await;
    let backend = Backend::named("here").await;
    let fleet = traced(&collector, &[], &app("", "", &[backend.address()])).await;
    let mut client = Client::connect(fleet.proxies[0].web()).await;
    let unsampled = "00-11111111111111111111111111111111-2222222222222222-00";
    let request = Request::get("/").header("traceparent", unsampled).header("tracestate", "a=1");
    client.request(&request).await;
    client.request(&Request::get("/").header("traceparent", &sampled())).await;

    // Spans go out in the order of their ends, so the first request's would be there by then.
    collector.trace(TRACE, 2).await;
    let spans = collector.spans("some", |spans| !spans.is_empty()).await;
    assert!(spans.iter().all(|span| !unsampled.contains(&span.trace_id)), "{spans:#?}");
    let seen = &backend.requests()[0];
    assert_eq!(header(seen, "traceparent"), Some(unsampled));
    assert_eq!(header(seen, "tracestate"), Some("a=1"));
}

#[tokio::test]
async fn a_request_without_a_valid_trace_begins_one() {
    let collector = Collector::start().await;
    let backend = Backend::named("here").await;
    let spec = app("", "", &[backend.address()]);
    let fleet = traced(&collector, &["--access-log=full"], &spec).await;
    let mut client = Client::connect(fleet.proxies[0].web()).await;
    client.get("/none").await;
    let invalid = format!("00-{TRACE}-0000000000000000-01");
    let request = Request::get("/invalid").header("traceparent", &invalid);
    client.request(&request.header("tracestate", "a=1")).await;
    let twice = Request::get("/twice").header("traceparent", &sampled());
    client.request(&twice.header("traceparent", &sampled())).await;

    for seen in backend.requests() {
        let (trace, span) = parent(&seen);
        assert_ne!(trace, TRACE);
        assert_eq!(header(&seen, "tracestate"), None, "it was of a trace that is not known");
        assert_eq!(seen.head.fields.all("traceparent").len(), 1);
        let spans = collector.trace(trace, 2).await;
        let [server, attempt] = &spans[..] else { panic!("{spans:#?}") };
        assert_eq!(server.parent_id, "");
        assert_eq!(server.attribute("url.path"), seen.head.target());
        assert_eq!((&attempt.parent_id, &*attempt.span_id), (&server.span_id, span));
        eventually("the access log has the trace", async || {
            let log = fleet.proxies[0].process.log();
            let is_it = |line: &str| {
                line.contains(&format!("\"trace_id\":\"{trace}\""))
                    && line.contains(&format!("\"path\":\"{}\"", seen.head.target()))
            };
            holds(log.lines().any(is_it), || log.clone())
        })
        .await;
    }
}

#[tokio::test]
async fn at_a_ratio_of_0_only_what_clients_record_is_recorded() {
    let collector = Collector::start().await;
    let backend = Backend::named("here").await;
    let spec = app("", "", &[backend.address()]);
    let fleet = traced(&collector, &["--trace-ratio=0"], &spec).await;
    let mut client = Client::connect(fleet.proxies[0].web()).await;
    for _ in 0..3 {
        client.request(&Request::get("/").header("tracestate", "a=1")).await;
    }
    // An unknown flag is no reason to distrust the known one.
    let request = Request::get("/").header("traceparent", &format!("00-{TRACE}-{SPAN}-0b"));
    client.request(&request).await;

    let spans = collector.trace(TRACE, 2).await;
    assert_eq!(spans[0].parent_id, SPAN);
    let all = collector.spans("all", |spans| !spans.is_empty()).await;
    let of_proxy = all.iter().filter(|span| span.service() == "lb-proxy");
    assert!(of_proxy.clone().all(|span| span.trace_id == TRACE), "{all:#?}");
    let requests = backend.requests();
    let ids: std::collections::BTreeSet<_> =
        requests[..3].iter().map(|seen| parent(seen).0.to_owned()).collect();
    assert_eq!(ids.len(), 3, "each is a trace of its own");
    for seen in &requests[..3] {
        let traceparent = header(seen, "traceparent").expect("there is one");
        assert!(traceparent.ends_with("-00"), "backends are not to record it: {traceparent}");
        assert_eq!(header(seen, "tracestate"), None);
    }
    let last = header(&requests[3], "traceparent").expect("there is one");
    assert!(last.ends_with("-03"), "only known flags go on: {last}");
}

#[tokio::test]
async fn a_request_that_no_backend_answers_says_why() {
    let collector = Collector::start().await;
    let nobody = Port::reserve();
    let backend = Backend::start(|seen| match seen.head.target() {
        "/cut" => Reply::RawAndClose("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nab".into()),
        _ => Reply::status(404, "no"),
    })
    .await;
    let route = "match = { path_prefix = '/nobody' }
         retry = { attempts = 1 }";
    let spec = app(route, "", &[nobody.address()]);
    let spec = format!(
        "{spec}
         [[routes]]
         name = 'other'
         match = {{ path_prefix = '/' }}
         backend_set = 'other'
         [[backend_sets]]
         name = 'other'
         backends = [{{ address = '{}' }}]",
        backend.address()
    );
    let fleet = traced(&collector, &[], &spec).await;
    let web = fleet.proxies[0].web();
    let trace = |digit: &str| digit.repeat(32);
    let request = |path: &str, digit: &str| {
        Request::get(path).header("traceparent", &format!("00-{}-{SPAN}-01", trace(digit)))
    };
    assert_eq!(client::request(web, &request("/nobody", "1")).await.status(), 502);
    assert_eq!(client::request(web, &request("/404", "2")).await.status(), 404);
    let mut client = Client::connect(web).await;
    client.send(&request("/cut", "3")).await;
    assert!(client.try_response().await.is_err(), "it is cut");

    let spans = collector.trace(&trace("1"), 2).await;
    for span in &spans {
        assert_eq!((&*span.status, span.attribute("error.type")), ("ERROR", "connection_refused"));
    }
    assert_eq!(spans[0].attribute("http.response.status_code"), "502");
    assert_eq!(spans[0].attribute("lb.reason"), "connection_refused");
    assert_eq!(spans[1].attributes.get("http.response.status_code"), None);

    let spans = collector.trace(&trace("2"), 2).await;
    assert_eq!((&*spans[0].name, &*spans[0].status), ("GET other", "UNSET"), "no server's error");
    assert_eq!((&*spans[1].status, spans[1].attribute("error.type")), ("ERROR", "404"));

    let spans = collector.trace(&trace("3"), 2).await;
    for span in &spans {
        assert_eq!(span.attribute("http.response.status_code"), "200");
        assert_eq!(span.attribute("error.type"), "http_response_incomplete");
        assert_eq!(span.status, "ERROR");
    }
}

#[tokio::test]
async fn a_request_whose_client_leaves_is_nobody_elses_error() {
    let collector = Collector::start().await;
    let backend = Backend::start(|_| Reply::Hang).await;
    let fleet = traced(&collector, &[], &app("", "", &[backend.address()])).await;
    let mut client = Client::connect(fleet.proxies[0].web()).await;
    client.send(&Request::get("/").header("traceparent", &sampled())).await;
    backend.has_waiting(1).await;
    drop(client);

    let spans = collector.trace(TRACE, 2).await;
    let [server, attempt] = &spans[..] else { panic!("{spans:#?}") };
    assert_eq!((&*server.status, server.attribute("lb.reason")), ("UNSET", "client_gone"));
    assert_eq!(server.attributes.get("http.response.status_code"), None);
    assert_eq!((&*attempt.status, attempt.attribute("error.type")), ("ERROR", "client_gone"));
}

#[tokio::test]
async fn without_a_collector_headers_pass_as_they_are() {
    let backend = Backend::named("here").await;
    let fleet = Fleet::start(1, &app("", "", &[backend.address()])).await;
    let mut client = Client::connect(fleet.proxies[0].web()).await;
    let sampled = sampled();
    for (parent, state) in
        [(Some(&*sampled), Some("a=1")), (Some("nonsense"), Some("b")), (None, None)]
    {
        let mut request = Request::get("/");
        for (name, value) in [("traceparent", parent), ("tracestate", state)] {
            request = value.into_iter().fold(request, |request, value| request.header(name, value));
        }
        client.request(&request).await;
        let requests = backend.requests();
        let seen = requests.last().expect("it arrived");
        assert_eq!(header(seen, "traceparent"), parent);
        assert_eq!(header(seen, "tracestate"), state);
    }
}

#[tokio::test]
async fn a_collector_that_is_away_or_silent_disturbs_nobody() {
    let away = Port::reserve();
    // It accepts, and never says a word.
    let silent = Backend::script(|_wire, _| std::future::pending()).await;
    let backend = Backend::named("here").await;
    for (address, is_away) in [(away.address(), true), (silent.address(), false)] {
        let flag = format!("--otlp=http://{address}");
        let mut fleet = Fleet::empty_with(std::slice::from_ref(&flag)).await;
        fleet.add_proxy("p1", &[flag]);
        fleet.apply(&app("", "", &[backend.address()])).await;
        let mut client = Client::connect(fleet.proxies[0].web()).await;
        let told = if is_away { "traces are lost" } else { "dropped a Span due to queue full" };
        let mut requests = 0;
        while !fleet.proxies[0].process.log().contains(told) {
            for _ in 0..500 {
                assert_eq!(client.get("/").await.status(), 200);
            }
            requests += 500;
            assert!(requests < 50_000, "the log does not say that spans are lost");
        }
        drop(client);
        let proxy = &mut fleet.proxies[0].process;
        proxy.signal(Signal::TERM);
        let status = proxy.ended(PATIENCE).await;
        assert!(status.success(), "{status}");
        if is_away {
            assert_eq!(proxy.log().matches(told).count(), 1, "it is said once");
        }
        let controller = &mut fleet.controller.process;
        controller.signal(Signal::TERM);
        let status = controller.ended(PATIENCE).await;
        assert!(status.success(), "{status}");
    }
}

#[tokio::test]
async fn the_last_spans_go_out_before_a_process_ends() {
    let collector = Collector::start().await;
    let backend = Backend::named("here").await;
    let mut fleet = traced(&collector, &[], &app("", "", &[backend.address()])).await;
    let request = Request::get("/").header("traceparent", &sampled());
    client::request(fleet.proxies[0].web(), &request).await;
    let proxy = &mut fleet.proxies[0].process;
    proxy.signal(Signal::TERM);
    assert!(proxy.ended(PATIENCE).await.success());
    collector.trace(TRACE, 2).await;
}

#[tokio::test]
async fn a_change_is_one_trace_from_who_asked_for_it_to_the_proxies_that_run_it() {
    let collector = Collector::start().await;
    let backend = Backend::named("here").await;
    let mut fleet =
        traced(&collector, &["--trace-ratio=0"], &app("", "", &[backend.address()])).await;
    fleet.add_proxy("p2", &[]);
    fleet.settled(1).await;
    let spec = app("timeout = '7s'", "", &[backend.address()]);
    let spec = lb_proto::file::parse(&spec).expect("it is valid");
    let apply = |trace: &str, expected_revision| {
        let mut request = tonic::Request::new(lb_proto::v1::ApplyRequest {
            listeners: spec.listeners.clone(),
            routes: spec.routes.clone(),
            backend_sets: spec.backend_sets.clone(),
            replace_all: true,
            expected_revision,
            ..Default::default()
        });
        let traceparent = MetadataValue::try_from(trace).expect("it is ASCII");
        request.metadata_mut().insert("traceparent", traceparent);
        request
    };
    let refused = format!("00-{}-{SPAN}-01", "9".repeat(32));
    let unsampled = format!("00-{}-{SPAN}-00", "8".repeat(32));
    let mut api = fleet.api().await;
    let error = api.apply(apply(&refused, Some(77))).await.expect_err("77 is not current");
    assert_eq!(error.code(), tonic::Code::Aborted);
    api.apply(apply(&sampled(), None)).await.expect("it is accepted");
    fleet.settled(2).await;
    api.apply(apply(&unsampled, None)).await.expect("it is accepted");

    let trace = collector.trace(TRACE, 5).await;
    let named = |name: &str| {
        let found = trace.iter().find(|span| span.name == name);
        found.unwrap_or_else(|| panic!("no {name} in {trace:#?}"))
    };
    let call = named("lb.v1.Fleet/Apply");
    assert_eq!((&*call.parent_id, &*call.kind), (SPAN, "SERVER"));
    assert_eq!(call.attribute("rpc.grpc.status_code"), "0");
    assert_eq!((call.service(), &*call.status), ("lb-control", "UNSET"));
    let (commit, publish) = (named("store commit"), named("publish"));
    assert_eq!((&commit.parent_id, &publish.parent_id), (&call.span_id, &call.span_id));
    assert!(call.start <= commit.start && commit.end <= publish.start, "{trace:#?}");
    assert_eq!(publish.attribute("lb.revision"), "2");
    for proxy in ["p1", "p2"] {
        let applied = named(&format!("apply {proxy}"));
        assert_eq!((&applied.parent_id, &*applied.status), (&publish.span_id, "OK"));
        assert_eq!(applied.attribute("lb.proxy"), proxy);
        assert_eq!(applied.attribute("lb.version"), publish.attribute("lb.version"));
        assert!(publish.start <= applied.start, "{trace:#?}");
    }

    let trace = collector.trace(&"9".repeat(32), 1).await;
    assert_eq!(trace[0].attribute("rpc.grpc.status_code"), "10");
    assert_eq!(trace[0].attribute("error.type"), "Aborted");
    assert_eq!(trace[0].status, "UNSET", "it is who asked who was wrong");
    assert!(trace[0].attribute("error.message").contains("77 is not current"));
    let all = collector.spans("all", |spans| !spans.is_empty()).await;
    assert!(all.iter().all(|span| !unsampled.contains(&span.trace_id)), "{all:#?}");
}
