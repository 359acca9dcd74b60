use super::*;
use crate::{encode, file};

/// Uses every field at least once, each with a value that is not its default.
const EVERYTHING: &str = r#"
[[listeners]]
name = "web"
address = "0.0.0.0:8080"
idle_timeout = "90s"
header_timeout = "500ms"

[[listeners]]
name = "db"
address = "[::]:5432"
protocol = "tcp"
backend_set = "app"

[[routes]]
name = "split"
listeners = ["web"]
match = { host = "*.Example.com", path_prefix = "/api", method = "PUT", headers = { x-canary = "1", x-any = "*" } }
forward = [{ backend_set = "app", weight = 9 }, { backend_set = "sticky" }]
timeout = "1.5s"
retry = { attempts = 5, on = ["reset", "5xx", "429"], per_try_timeout = "200ms", backoff = "1ms", budget_percent = 50, max_body_bytes = 1 }

[[routes]]
name = "one"
match = { host = "example.com", path = "/one" }
backend_set = "app"

[[routes]]
name = "away"
redirect = { status = 308, scheme = "https", host = "example.org:8443", path = "/new" }

[[routes]]
name = "said"
match = { path_prefix = "/said" }
answer = { status = 418, body = "short and stout", headers = { content-type = "text/plain" } }

[[backend_sets]]
name = "app"
balance = "least_connections"
connect_timeout = "100ms"
health_check = { http = "/ready?x=1", interval = "1s", timeout = "100ms", healthy_after = 1, unhealthy_after = 1, statuses = ["204", "200-201", "3xx"], host = "app.internal", headers = { x-probe = "1" }, prove_first = true }
backends = [
  { address = "127.0.0.1:3001" },
  { address = "127.0.0.1:3002", name = "two", weight = 2, state = "draining" },
  { address = "[::1]:3003", weight = 0, state = "disabled" },
]
outlier_ejection = { consecutive_failures = 2, base_time = "1s", max_time = "2s", max_percent = 10 }
pool = { max_idle = 0, idle_timeout = "1s" }

[[backend_sets]]
name = "sticky"
balance = "consistent_hash"
hash = { key = "cookie:session", algorithm = "rendezvous", function = "crc32" }
health_check = { grpc = "app.v1.App", host = "app" }
outlier_ejection = { disabled = true }

[[backend_sets]]
name = "any"
balance = "random"
health_check = { tcp = true }
"#;

#[test]
fn what_is_encoded_is_parsed_back_to_the_same() {
    let spec = file::parse(EVERYTHING).unwrap_or_else(|errors| panic!("{errors}"));
    let state = desired_state(&spec).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!((state.listeners.len(), state.routes.len(), state.backend_sets.len()), (2, 4, 3));
    let again =
        desired_state(&encode::spec(&state)).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(again, state);
}

#[test]
fn a_default_that_is_spelled_out_encodes_to_nothing() {
    let spelled = r#"
        [[backend_sets]]
        name = "app"
        balance = "round_robin"
        connect_timeout = "1s"
        backends = [{ address = "127.0.0.1:1", name = "127.0.0.1:1", weight = 1, state = "active" }]
        outlier_ejection = { consecutive_failures = 5, max_percent = 50 }
        pool = { max_idle = 64 }
    "#;
    let spec = file::parse(spelled).unwrap_or_else(|errors| panic!("{errors}"));
    let set = backend_set(&spec.backend_sets[0], "", &mut Problems::default());
    let plain = v1::BackendSet {
        name: "app".into(),
        backends: vec![v1::Backend { address: "127.0.0.1:1".into(), ..v1::Backend::default() }],
        ..v1::BackendSet::default()
    };
    assert_eq!(set.as_ref().map(encode::backend_set), Some(plain));
}

#[test]
fn what_is_wrong_is_told_with_the_field_the_value_and_what_would_be_valid() {
    #[rustfmt::skip]
    let cases = [
        ("listeners = [{ name = 'a b', address = '1.1.1.1:1' }]", "listeners[a b].name", "' '"),
        ("listeners = [{ address = '1.1.1.1:1' }]", "listeners[0].name", "empty"),
        ("listeners = [{ name = 'w', address = 'localhost:80' }]", "listeners[w].address", "\"localhost:80\""),
        ("listeners = [{ name = 'w', address = '1.1.1.1:1', protocol = 'udp' }]", "listeners[w].protocol", "http, tcp"),
        ("listeners = [{ name = 'w', address = '1.1.1.1:1', backend_set = 'x' }]", "listeners[w].backend_set", "only for"),
        ("listeners = [{ name = 'w', address = '1.1.1.1:1', protocol = 'tcp' }]", "listeners[w].backend_set", "empty"),
        ("listeners = [{ name = 'w', address = '1.1.1.1:1' }, { name = 'v', address = '1.1.1.1:1' }]", "listeners[w].address", "taken"),
        ("listeners = [{ name = 'w', address = '1.1.1.1:1' }, { name = 'w', address = '1.1.1.1:2' }]", "listeners[w]", "twice"),
        ("routes = [{ name = 'r', answer = { status = 99 } }]", "routes[r].answer.status", "200 to 599"),
        ("routes = [{ name = 'r', answer = { status = 200 }, backend_set = 'a' }]", "routes[r]", "exactly one"),
        ("routes = [{ name = 'r', answer = { status = 200 }, listeners = ['w'] }]", "routes[r].listeners", "\"w\""),
        ("routes = [{ name = 'r', redirect = { status = 300, path = '/' } }]", "routes[r].redirect.status", "301, 302"),
        ("routes = [{ name = 'r', redirect = {} }]", "routes[r].redirect", "where it came from"),
        ("routes = [{ name = 'r', answer = { status = 200 }, match = { host = 'a:80' } }]", "routes[r].match.host", "\"a:80\""),
        ("routes = [{ name = 'r', answer = { status = 200 }, match = { host = '*a' } }]", "routes[r].match.host", "\"*a\""),
        ("routes = [{ name = 'r', answer = { status = 200 }, match = { path = 'x' } }]", "routes[r].match.path", "slash"),
        ("routes = [{ name = 'r', answer = { status = 200 }, match = { path = '/a', path_prefix = '/' } }]", "routes[r].match.path_prefix", "nothing"),
        ("routes = [{ name = 'r', answer = { status = 200 }, match = { headers = { 'a b' = '1' } } }]", "routes[r].match.headers", "\"a b\""),
        ("routes = [{ name = 'r', answer = { status = 200 }, retry = { on = ['always'] } }]", "routes[r].retry.on[0]", "connect-failure"),
        ("routes = [{ name = 'r', answer = { status = 200 }, retry = { attempts = 0 } }]", "routes[r].retry.attempts", "1 to 255"),
        ("routes = [{ name = 'r', answer = { status = 200 }, retry = { budget_percent = 101 } }]", "routes[r].retry.budget_percent", "101"),
        ("routes = [{ name = 'r', answer = { status = 200 }, timeout = '25h' }]", "routes[r].timeout", "\"90000s\""),
        ("routes = [{ name = 'r', forward = [{ backend_set = 'a', weight = 0 }] }]", "routes[r].forward", "above 0"),
        ("backend_sets = [{ name = 'a', backends = [{ address = '1.1.1.1:1' }, { address = '1.1.1.1:1' }] }]", "backend_sets[a].backends[1.1.1.1:1]", "twice"),
        ("backend_sets = [{ name = 'a', backends = [{ address = '1.1.1.1:1', state = 'off' }] }]", "backend_sets[a].backends[1.1.1.1:1].state", "disabled"),
        ("backend_sets = [{ name = 'a', hash = { key = 'path' } }]", "backend_sets[a].hash", "consistent_hash"),
        ("backend_sets = [{ name = 'a', balance = 'consistent_hash', hash = { key = 'header:' } }]", "backend_sets[a].hash.key", "header:NAME"),
        ("backend_sets = [{ name = 'a', health_check = { http = '/', tcp = true } }]", "backend_sets[a].health_check", "only one"),
        ("backend_sets = [{ name = 'a', health_check = { statuses = ['299-200'] } }]", "backend_sets[a].health_check.statuses[0]", "2xx"),
        ("backend_sets = [{ name = 'a', outlier_ejection = { consecutive_failures = 0 } }]", "backend_sets[a].outlier_ejection.consecutive_failures", "1 or more"),
    ];
    for (text, field, part) in cases {
        let Err(errors) = file::parse(text) else { panic!("accepted: {text}") };
        let [error] = &errors.0[..] else { panic!("one problem expected: {errors}") };
        assert_eq!(error.field, field, "{text}");
        assert!(error.message.contains(part), "{text}: {}", error.message);
    }
}

#[test]
fn a_path_prefix_of_a_slash_is_any_path() {
    let text =
        "routes = [{ name = 'r', answer = { status = 200 }, match = { path_prefix = '/' } }]";
    let spec = file::parse(text).unwrap_or_else(|errors| panic!("{errors}"));
    let parsed = route(&spec.routes[0], "", &mut Problems::default()).expect("it is valid");
    assert_eq!(parsed.matches, lb_common::spec::RouteMatch::default());
}
