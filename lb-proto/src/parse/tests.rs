use super::*;
use crate::{any::any_spec, encode, encode::Defaults, file};

#[test]
fn any_state_is_parsed_back_to_the_same() {
    for seed in (0..1000).chain([fastrand::u64(..)]) {
        let spec = any_spec(&mut fastrand::Rng::with_seed(seed));
        let parsed =
            |spec: &_| desired_state(spec).unwrap_or_else(|error| panic!("{seed}: {error}"));
        let state = parsed(&spec);
        for defaults in [Defaults::LeftOut, Defaults::SpelledOut] {
            assert_eq!(
                parsed(&defaults.spec(&state)),
                state,
                "seed {seed}, {defaults:?}: {spec:?}"
            );
        }
    }
}

#[test]
fn a_default_that_is_spelled_out_encodes_to_nothing() {
    let spelled = r#"
        [[backend_sets]]
        name = "app"
        balance = "round_robin"
        connect_timeout = "1s"
        slow_start = "0s"
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
        ("listeners = [{ name = 'w', address = '1.1.1.1:1', max_header_bytes = 1023 }]", "listeners[w].max_header_bytes", "1024 to 1048576"),
        ("listeners = [{ name = 'w', address = '1.1.1.1:1', max_header_fields = 0 }]", "listeners[w].max_header_fields", "1 to 1000"),
        ("listeners = [{ name = 'w', address = '1.1.1.1:1', max_target_bytes = 65537 }]", "listeners[w].max_target_bytes", "64 to 65536"),
        ("listeners = [{ name = 'w', address = '1.1.1.1:1', path_normalization = 'on' }]", "listeners[w].path_normalization", "off, match, forward"),
        ("listeners = [{ name = 'w', address = '1.1.1.1:1', body_timeout = '0s' }]", "listeners[w].body_timeout", "1ms and 24h"),
        ("listeners = [{ name = 'w', address = '1.1.1.1:1', proxy_protocol = 'yes', trusted_proxies = ['10.0.0.1'] }]", "listeners[w].proxy_protocol", "optional, required"),
        ("listeners = [{ name = 'w', address = '1.1.1.1:1', proxy_protocol = 'required' }]", "listeners[w].proxy_protocol", "trusted_proxies"),
        ("routes = [{ name = 'r', answer = { status = 200 }, match = { sni = 'a.test' } }]", "routes[r].match.sni", "match host"),
        ("routes = [{ name = 'r', answer = { status = 200 }, match = { alpn = 'h2' } }]", "routes[r].match.alpn", "for tcp"),
        ("routes = [{ name = 'r', answer = { status = 200 }, match = { sni = '10.0.0.1' } }]", "routes[r].match.sni", "\"10.0.0.1\""),
        ("routes = [{ name = 'r', answer = { status = 200 }, match = { sni = 'a..b' } }]", "routes[r].match.sni", "DNS name"),
        ("routes = [{ name = 'r', answer = { status = 200 }, match = { alpn = 'h 2' } }]", "routes[r].match.alpn", "\"h 2\""),
        ("listeners = [{ name = 'w', address = '1.1.1.1:1', trusted_proxies = ['10.0.0.1/8'] }]", "listeners[w].trusted_proxies[0]", "10.0.0.0/8"),
        ("listeners = [{ name = 'w', address = '1.1.1.1:1', forwarded = 'add' }]", "listeners[w].forwarded", "replace, append"),
        ("listeners = [{ name = 'w', address = '1.1.1.1:1', forwarded_header = 'via' }]", "listeners[w].forwarded_header", "x-forwarded, forwarded"),
        ("listeners = [{ name = 'w', address = '1.1.1.1:1', hsts = 'max-age=1' }]", "listeners[w].hsts", "tls or trusted_proxies"),
        ("listeners = [{ name = 'w', address = '1.1.1.1:1', trusted_proxies = ['::1'], hsts = 'preload' }]", "listeners[w].hsts", "max-age=31536000"),
        ("listeners = [{ name = 'w', address = '1.1.1.1:1', trusted_proxies = ['::1'], hsts = 'max-age=1; all' }]", "listeners[w].hsts", "includeSubDomains"),
        ("routes = [{ name = 'r', answer = { status = 200 }, match = { from = ['10.0.0.0/8', 'home'] } }]", "routes[r].match.from[1]", "\"home\""),
        ("routes = [{ name = 'r', answer = { status = 200 }, match = { not_from = ['::/129'] } }]", "routes[r].match.not_from[0]", "::/129"),
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
        ("routes = [{ name = 'r', answer = { status = 200 }, match = { headers = { x-A = '1', X-a = '1' } } }]", "routes[r].match.headers[x-a]", "twice"),
        ("routes = [{ name = 'r', answer = { status = 200, headers = { x-A = '1', X-a = '2' } } }]", "routes[r].answer.headers[x-a]", "twice"),
        ("routes = [{ name = 'r', answer = { status = 200 }, upgrade = ['websocket', 'a b'] }]", "routes[r].upgrade[1]", "\"a b\""),
        ("routes = [{ name = 'r', answer = { status = 200 }, stream_idle_timeout = '25h' }]", "routes[r].stream_idle_timeout", "1ms and 24h"),
        ("routes = [{ name = 'r', answer = { status = 200 }, tunnel_idle_timeout = '0s' }]", "routes[r].tunnel_idle_timeout", "1ms and 24h"),
        ("routes = [{ name = 'r', answer = { status = 200 }, retry = { on = ['always'] } }]", "routes[r].retry.on[0]", "connect-failure"),
        ("routes = [{ name = 'r', answer = { status = 200 }, retry = { attempts = 0 } }]", "routes[r].retry.attempts", "1 to 255"),
        ("routes = [{ name = 'r', answer = { status = 200 }, retry = { budget_percent = 101 } }]", "routes[r].retry.budget_percent", "101"),
        ("routes = [{ name = 'r', answer = { status = 200 }, timeout = '25h' }]", "routes[r].timeout", "\"90000s\""),
        ("routes = [{ name = 'r', forward = [{ backend_set = 'a', weight = 0 }] }]", "routes[r].forward", "above 0"),
        ("backend_sets = [{ name = 'a', backends = [{ address = '1.1.1.1:1' }, { address = '1.1.1.1:1' }] }]", "backend_sets[a].backends[1.1.1.1:1]", "twice"),
        ("backend_sets = [{ name = 'a', backends = [{ address = '1.1.1.1:1', state = 'off' }] }]", "backend_sets[a].backends[1.1.1.1:1].state", "disabled"),
        ("backend_sets = [{ name = 'a', hash = { key = 'path' } }]", "backend_sets[a].hash", "consistent_hash"),
        ("backend_sets = [{ name = 'a', balance = 'consistent_hash', hash = { key = 'header:' } }]", "backend_sets[a].hash.key", "header:NAME"),
        ("backend_sets = [{ name = 'a', balance = 'consistent_hash', hash = { table_size = 65536 } }]", "backend_sets[a].hash.table_size", "a prime, 65537, 655373 or 5000011"),
        ("backend_sets = [{ name = 'a', balance = 'consistent_hash', hash = { algorithm = 'rendezvous', table_size = 65537 } }]", "backend_sets[a].hash.table_size", "no table"),
        ("backend_sets = [{ name = 'a', health_check = { http = '/', tcp = true } }]", "backend_sets[a].health_check", "only one"),
        ("backend_sets = [{ name = 'a', health_check = { port = 65536 } }]", "backend_sets[a].health_check.port", "\"65536\" is not valid; give 1 to 65535"),
        ("backend_sets = [{ name = 'a', health_check = { port = 81, address = '1.1.1.1:1' } }]", "backend_sets[a].health_check.port", "81 beside address \"1.1.1.1:1\""),
        ("backend_sets = [{ name = 'a', health_check = { address = 'web' } }]", "backend_sets[a].health_check.address", "\"web\""),
        ("backend_sets = [{ name = 'a', health_check = { send = 'x' } }]", "backend_sets[a].health_check.send", "\"x\" is for tcp alone; give tcp = true, or expect_body"),
        ("backend_sets = [{ name = 'a', health_check = { grpc = '', expect = 'x' } }]", "backend_sets[a].health_check.expect", "tcp = true instead of grpc"),
        ("backend_sets = [{ name = 'a', health_check = { tcp = true, expect_body = 'x' } }]", "backend_sets[a].health_check.expect_body", "\"x\" is for http alone; give http"),
        ("backend_sets = [{ name = 'a', health_check = { http = 'up' } }]", "backend_sets[a].health_check.http", "\"up\" is not valid; give a path"),
        ("backend_sets = [{ name = 'a', health_check = { http = \"/up#\\r\\nx: y\" } }]", "backend_sets[a].health_check.http", "give a path"),
        ("backend_sets = [{ name = 'a', health_check = { http = \"/up#\\u0000\" } }]", "backend_sets[a].health_check.http", "give a path"),
        ("backend_sets = [{ name = 'a', health_check = { statuses = ['299-200'] } }]", "backend_sets[a].health_check.statuses[0]", "2xx"),
        ("backend_sets = [{ name = 'a', outlier_ejection = { consecutive_failures = 0 } }]", "backend_sets[a].outlier_ejection.consecutive_failures", "1 or more"),
        ("backend_sets = [{ name = 'a', outlier_ejection = { min_requests = 0 } }]", "backend_sets[a].outlier_ejection.min_requests", "1 or more"),
        ("backend_sets = [{ name = 'a', proxy_protocol = 'v3' }]", "backend_sets[a].proxy_protocol", "v1, v2"),
        ("backend_sets = [{ name = 'a', slow_start = '25h' }]", "backend_sets[a].slow_start", "1ms and 24h"),
        ("backend_sets = [{ name = 'a', tls = {} }]", "backend_sets[a].tls.ca", "verify = false"),
        ("backend_sets = [{ name = 'a', tls = { ca = '/ca.pem', verify = false } }]", "backend_sets[a].tls.ca", "one of the two"),
        ("backend_sets = [{ name = 'a', tls = { ca = '/ca.pem', server_name = 'a.test:443' } }]", "backend_sets[a].tls.server_name", "without a port"),
        ("backend_sets = [{ name = 'a', tls = { ca = '/ca.pem', min_version = '1.1' } }]", "backend_sets[a].tls.min_version", "1.2, 1.3"),
        ("backend_sets = [{ name = 'a', tls = { ca = '/ca.pem', client_certificate = 'x' } }]", "backend_sets[a].tls.client_certificate", "\"x\"; there are none"),
        ("backend_sets = [{ name = 'a', outlier_ejection = { failure_percent = 101 } }]", "backend_sets[a].outlier_ejection.failure_percent", "1 to 100"),
    ];
    for (text, field, part) in cases {
        let Err(errors) = file::parse(text) else { panic!("accepted: {text}") };
        let [error] = &errors.0[..] else { panic!("one problem expected: {errors}") };
        assert_eq!(error.field, field, "{text}");
        assert!(error.message.contains(part), "{text}: {}", error.message);
    }
}

#[test]
fn a_route_of_tcp_listeners_says_nothing_of_http() {
    let told = |route: &str| {
        let text = format!(
            "listeners = [
                 {{ name = 'edge', address = '1.1.1.1:1', protocol = 'tcp' }},
                 {{ name = 'web', address = '1.1.1.1:2' }},
             ]
             backend_sets = [{{ name = 'a' }}]
             [[routes]]
             name = 'all'
             listeners = ['edge']
             backend_set = 'a'
             [[routes]]
             name = 'r'
             {route}"
        );
        let fields = |errors: file::FileErrors| -> Vec<String> {
            errors.0.into_iter().map(|error| error.field).collect()
        };
        file::parse(&text).map(drop).map_err(fields)
    };
    let edge = |more: &str| told(&format!("listeners = ['edge']\nbackend_set = 'a'\n{more}"));
    assert_eq!(edge("match = { sni = '*.a.test', alpn = 'h2' }"), Ok(()));
    assert_eq!(edge("via = true\ntimeout = '30s'"), Ok(()), "what is a default anyway");
    let fields =
        |fields: &[&str]| Err(fields.iter().map(|field| format!("routes[r].{field}")).collect());
    let given = "match = { host = 'a', path = '/', method = 'GET', headers = { a = 'b' } }";
    let matching = ["match.host", "match.path", "match.method", "match.headers"];
    assert_eq!(edge(given), fields(&matching));
    assert_eq!(edge("match = { path_prefix = '/a' }"), fields(&["match.path_prefix"]));
    let given = "upgrade = []\nmax_request_bytes = 1\ntimeout = '1s'\nstream_idle_timeout = '1s'
        tunnel_idle_timeout = '1s'\nvia = false\nretry = { attempts = 1 }";
    let doing = [
        "upgrade",
        "max_request_bytes",
        "timeout",
        "stream_idle_timeout",
        "tunnel_idle_timeout",
        "via",
        "retry",
    ];
    assert_eq!(edge(given), fields(&doing));
    let both = "listeners = ['edge', 'web']\nbackend_set = 'a'";
    assert_eq!(told(both), fields(&["listeners"]));
    let answer = "listeners = ['edge']\nanswer = { status = 200 }";
    assert_eq!(told(answer), fields(&["answer"]));
    let redirect = "listeners = ['edge']\nredirect = { path = '/' }";
    assert_eq!(told(redirect), fields(&["redirect"]));
}

#[test]
fn a_path_prefix_of_a_slash_is_any_path() {
    let text =
        "routes = [{ name = 'r', answer = { status = 200 }, match = { path_prefix = '/' } }]";
    let spec = file::parse(text).unwrap_or_else(|errors| panic!("{errors}"));
    let parsed = route(&spec.routes[0], "", &mut Problems::default()).expect("it is valid");
    assert_eq!(parsed.matches, lb_common::spec::RouteMatch::default());
}

/// One http and one tcp listener, and routes that say these fields.
fn parsed(routes: &[&str]) -> DesiredState {
    let mut text = "
        listeners = [
            { name = 'web', address = '127.0.0.1:1' },
            { name = 'db', address = '127.0.0.1:2', protocol = 'tcp', backend_set = 'app' },
        ]
        backend_sets = [{ name = 'app' }]"
        .to_owned();
    for (i, fields) in routes.iter().enumerate() {
        text += &format!("\n[[routes]]\nname = '{i}'\nbackend_set = 'app'\n{fields}");
    }
    let spec = file::parse(&text).unwrap_or_else(|errors| panic!("{errors}"));
    desired_state(&spec).unwrap_or_else(|problems| panic!("{problems}"))
}

#[test]
fn how_long_a_connection_may_be_idle_depends_on_its_protocol() {
    let state = parsed(&[]);
    let idle = |name: &str| state.listeners[name].idle_timeout.as_secs();
    assert_eq!((idle("web"), idle("db")), (75, 3600));
}

#[test]
fn an_empty_list_of_upgrades_forbids_them_and_none_does_not() {
    let state = parsed(&["", "upgrade = []", "upgrade = ['WebSocket', 'h2c', 'websocket']"]);
    let upgrade = |name: &str| state.routes[name].upgrade.clone();
    assert_eq!(upgrade("0"), ["websocket"]);
    assert!(upgrade("1").is_empty());
    assert_eq!(upgrade("2"), ["h2c", "websocket"], "in lower case, ordered, each once");
}

#[test]
fn silence_within_a_response_may_be_without_a_limit() {
    let state = parsed(&["", "stream_idle_timeout = '0s'", "stream_idle_timeout = '2s'"]);
    let limit = |name: &str| state.routes[name].stream_idle_timeout.map(|limit| limit.as_secs());
    assert_eq!((limit("0"), limit("1"), limit("2")), (Some(60), None, Some(2)));
}

/// A certificate `a` with these fields of its `acme`, over those of one that is right.
fn ordered(fields: &[(&str, &str)]) -> Result<DesiredState, Problems> {
    let right = [("domains", "['a.test']"), ("directory", "'https://ca.test/dir'")];
    let kept = right.iter().filter(|(name, _)| fields.iter().all(|(field, _)| field != name));
    let lines: String =
        kept.chain(fields).map(|(name, value)| format!("{name} = {value}\n")).collect();
    let text = format!("[[certificates]]\nname = 'a'\n[certificates.acme]\n{lines}");
    let table: toml::Table = text.parse().unwrap_or_else(|error| panic!("{error}: {text}"));
    desired_state(&table.try_into::<v1::Spec>().unwrap_or_else(|error| panic!("{error}: {text}")))
}

#[test]
fn what_cannot_be_ordered_is_told_with_its_field() {
    let long = format!("'{}.test'", "a".repeat(64));
    #[rustfmt::skip]
    let cases = [
        ("domains", "[]", "domains", "1 to 100"),
        ("domains", "['*.a.test']", "domains[0]", "dns-01"),
        ("domains", "['a.test', 'A.test']", "domains[1]", "twice"),
        ("domains", "['10.0.0.1']", "domains[0]", "an address is none"),
        ("domains", "['localhost']", "domains[0]", "a domain"),
        ("domains", "['a.test:443']", "domains[0]", "without a port"),
        ("domains", "['b\u{fc}cher.test']", "domains[0]", "xn--"),
        ("domains", "['a..test']", "domains[0]", "a domain"),
        ("domains", "['-a.test']", "domains[0]", "a domain"),
        ("directory", "''", "directory", "https URL"),
        ("directory", "'http://ca.test/dir'", "directory", "https URL"),
        ("directory", "'https://me@ca.test/dir'", "directory", "https URL"),
        ("email", "'mailto:a@b.c,x@y.z'", "email", "admin@example.com"),
        ("email", "'nobody'", "email", "admin@example.com"),
        ("challenge", "'dns-01'", "challenge", "not offered"),
        ("challenge", "'http'", "challenge", "http-01, tls-alpn-01"),
        ("eab", "{ kid = '', key = '/eab' }", "eab.kid", "empty"),
        ("eab", "{ kid = 'k' }", "eab.key", "empty"),
        ("eab", "{ kid = 'k', key = 'c2VjcmV0' }", "eab.key", "base64url"),
        ("eab", "{ kid = 'k', key = 'hunter2 is no base64' }", "eab.key", "base64url"),
    ];
    let cases = cases.into_iter().chain([("domains", "", "domains[0]", "a domain")]);
    for (name, value, field, part) in cases {
        let long = format!("[{long}]");
        let value = if value.is_empty() { &*long } else { value };
        let problems = ordered(&[(name, value)]).expect_err(value);
        let [problem] = &problems.0[..] else { panic!("one problem expected: {problems}") };
        assert_eq!(problem.field, format!("certificates[a].acme.{field}"), "{value}");
        assert!(problem.message.contains(part), "{value}: {}", problem.message);
        assert!(!problem.message.contains("hunter2") && !problem.message.contains("c2VjcmV0"));
    }
}

#[test]
fn a_certificate_is_there_or_is_ordered_and_not_both() {
    let acme = ordered(&[]).expect("it is right");
    let mut spec = encode::spec(&acme);
    spec.certificates[0].cert = "/a.pem".into();
    let problems = desired_state(&spec).expect_err("it is both");
    assert_eq!(problems.0[0].field, "certificates[a].cert");
}

#[test]
fn the_key_of_an_account_is_shown_as_its_digest() {
    const KEY: &str = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W";
    let given = |key: &str| {
        let state = ordered(&[("eab", &format!("{{ kid = 'k', key = '{key}' }}"))]);
        let spec = encode::spec(&state.expect("it is right"));
        spec.certificates[0].acme.clone().expect("it is ordered").eab.expect("it has one").key
    };
    let digest = given(KEY);
    assert!(digest.starts_with("sha256:") && digest.len() == 71, "{digest}");
    assert_eq!(given(&digest), digest, "who gives it back means the same");
    assert_eq!(given("/etc/lb/eab"), "/etc/lb/eab");
    let plain = given("zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9/G44nMEtx3MUAsUDkMTQ12W+A==");
    assert!(plain.starts_with("sha256:"), "a slash makes no path: {plain}");
}

/// What is refused may be a secret, so it is not repeated.
#[test]
fn a_key_in_the_wrong_place_is_refused_without_a_word_of_it() {
    let key = "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n";
    let cert = "-----BEGIN CERTIFICATE-----\nYQ==\n-----END CERTIFICATE-----\n";
    let told = |cert: &str, key: &str| {
        let (name, cert, key) = ("a".into(), cert.into(), key.into());
        let certificates = vec![v1::Certificate { name, cert, key, acme: None }];
        let spec = v1::Spec { certificates, ..<_>::default() };
        desired_state(&spec).map(|_| format!("{spec:?}")).unwrap_or_else(|told| told.to_string())
    };
    const BARE: &str = "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49c2VjcmV0AwEHBG0w";
    let combined = format!("{cert}{key}");
    let with_words = format!("Bag Attributes\n    localKeyID: 01\n{key}");
    for (cert, key, expected) in [
        (&*combined, key, "certificates[a].cert: has a key in it"),
        ("c2VjcmV0\nc2VjcmV0", key, "certificates[a].cert: is neither PEM nor a path"),
        (cert, "c2VjcmV0\nc2VjcmV0", "certificates[a].key: is neither PEM nor a path"),
        (cert, BARE, "certificates[a].key: is neither PEM nor a path: its first line is missing"),
        (BARE, key, "certificates[a].cert: is neither PEM nor a path: its first line is missing"),
        (cert, &*with_words, "Spec {"),
        (cert, key, "Spec {"),
    ] {
        let told = told(cert, key);
        assert!(told.starts_with(expected), "{told}");
        assert!(!told.contains("c2VjcmV0"), "{told}");
    }
}
