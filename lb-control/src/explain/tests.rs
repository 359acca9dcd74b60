use lb_common::{
    id::{BackendName, BackendSetName},
    snapshot::{UnhealthyBackends, Version},
    spec::DesiredState,
};
use lb_proto::{
    update::{Content, Sealed},
    v1::explain_response::Outcome,
};

use super::*;
use crate::desired::tests::state;

fn content(desired: DesiredState, unhealthy: UnhealthyBackends) -> Content {
    Content { unhealthy, ..Content::of(desired) }
}

/// A snapshot with these backends unhealthy, by set and name.
fn snapshot(version: u64, toml: &str, unhealthy: &[(&str, &str)]) -> Arc<Snapshot> {
    let mut down = UnhealthyBackends::default();
    for (set, backend) in unhealthy {
        let set = BackendSetName::new(set).expect("is a name");
        down.insert(set, BackendName::new(backend).expect("is a name"));
    }
    Sealed::new(Version { epoch: 7, version }, 3, content(state(toml), down)).snapshot
}

fn explain_with(
    snapshot: &Arc<Snapshot>,
    statuses: Vec<v1::BackendStatus>,
    request: v1::ExplainRequest,
) -> Result<v1::ExplainResponse, String> {
    let asked = Asked::parse(request).map_err(|problems| problems.to_string())?;
    let question = Question::new(asked, snapshot).map_err(|refused| refused.to_string())?;
    let compiled = Compiled::new(snapshot, None);
    Ok(question.answer(&compiled, &Statuses::new(statuses.into_iter())))
}

#[track_caller]
fn explain(toml: &str, request: v1::ExplainRequest) -> v1::ExplainResponse {
    explain_with(&snapshot(1, toml, &[]), Vec::new(), request).expect("is a question")
}

fn get(url: &str) -> v1::ExplainRequest {
    v1::ExplainRequest { url: url.into(), ..<_>::default() }
}

fn with(mut request: v1::ExplainRequest, headers: &[(&str, &str)]) -> v1::ExplainRequest {
    let header =
        |(name, value): &(&str, &str)| v1::Header { name: (*name).into(), value: (*value).into() };
    request.headers.extend(headers.iter().map(header));
    request
}

#[track_caller]
fn sets(response: v1::ExplainResponse) -> Vec<v1::BackendSetVerdict> {
    match response.outcome {
        Some(Outcome::Forward(forward)) => forward.backend_sets,
        other => panic!("it is not forwarded: {other:?}"),
    }
}

const WEB: &str = "listeners = [{ name = 'web', address = '0.0.0.0:8080' }]\n";

#[test]
fn every_route_is_told_why_it_does_or_does_not_take_the_request() {
    let toml = "
        listeners = [{ name = 'web', address = '0.0.0.0:8080' },
                     { name = 'admin', address = '127.0.0.1:9000' }]
        routes = [
            { name = 'all', answer = { status = 200 } },
            { name = 'api', match = { path_prefix = '/api' }, answer = { status = 200 } },
            { name = 'api-write', match = { path_prefix = '/api', method = 'POST' }, answer = { status = 200 } },
            { name = 'beta', match = { path_prefix = '/api', headers = { x-beta = '1' } }, answer = { status = 200 } },
            { name = 'shop', match = { host = 'shop.test' }, answer = { status = 200 } },
            { name = 'only-admin', listeners = ['admin'], answer = { status = 200 } },
        ]";
    let request = with(get("http://api.test:8080/api/x"), &[("x-beta", "2")]);
    let response = explain(toml, request);
    assert_eq!((response.listener.as_str(), response.revision), ("web", 3));
    assert_eq!((response.epoch, response.version), (7, 1));
    let told: Vec<_> = response
        .routes
        .iter()
        .map(|v| (v.route.as_str(), v.chosen, v.matches, v.why.as_str()))
        .collect();
    #[rustfmt::skip]
    let expected = [
        ("shop",       false, false, "host: api.test is not shop.test"),
        ("api-write",  false, false, "method: GET is not POST"),
        ("beta",       false, false, "headers: x-beta is \"2\", not \"1\""),
        ("api",        true,  true,  "the most specific of 2 that match"),
        ("all",        false, true,  "less specific than api"),
        ("only-admin", false, false, "listeners: serves admin, not web"),
    ];
    assert_eq!(told, expected);
}

#[test]
fn a_refusal_has_the_status_and_the_reason_that_the_proxy_gives() {
    let toml = format!(
        "{WEB}routes = [{{ name = 'r', match = {{ path = '/a' }}, answer = {{ status = 200 }} }}]"
    );
    let connect = v1::ExplainRequest { method: "CONNECT".into(), ..get("http://a/") };
    let trace = v1::ExplainRequest { method: "TRACE".into(), ..get("http://a/") };
    let gzip = &[("transfer-encoding", "gzip, chunked")];
    let fields: Vec<_> = (0..100).map(|_| ("x", "y")).collect();
    #[rustfmt::skip]
    let cases = [
        (get("http://a/b"),                               404, "no route matches"),
        (connect,                                         405, "method CONNECT is not forwarded"),
        (trace,                                           405, "method TRACE is not forwarded"),
        (get("/a"),                                       400, "no host"),
        (with(get("/a"), &[("host", "a"), ("host", "b")]), 400, "more than one host"),
        (with(get("/a"), &[("host", "a/b")]),             400, "the host is not a host"),
        (get("http://a[b/"),                              400, "the host is not a host"),
        (with(get("/a#b"), &[("host", "a")]),             400, "the target has a character that is not allowed there"),
        (with(get("http://a/a"), &[("content-length", "+1")]), 400, "the content-length is not a number"),
        (with(get("http://a/a"), gzip),                   400, "a transfer coding besides chunked"),
        (with(get("http://a/a"), &[("expect", "more")]),  417, "an expectation other than 100-continue"),
        (get(&format!("http://a/{}", "b".repeat(16_384))), 414, "the target is too long"),
        (with(get("http://a/a"), &fields),                431, "the head has too many fields"),
        (with(get("http://a/a"), &[("x", &"y".repeat(65_536))]), 431, "the head is too long"),
    ];
    for (request, status, reason) in cases {
        let response = explain(&toml, request.clone());
        let reason = reason.to_owned();
        let expected = Outcome::Refusal(v1::RefusalOutcome { status, reason });
        assert_eq!(response.outcome, Some(expected), "{request:?}");
        assert!(!response.routes[0].chosen && !response.routes[0].why.is_empty());
    }
}

#[test]
fn paths_are_matched_in_the_form_in_which_the_listener_has_them() {
    let chosen = |normalization: &str, url: &str| {
        let toml = format!(
            "listeners = [{{ name = 'web', address = '0.0.0.0:8080', path_normalization = '{normalization}' }}]
            routes = [{{ name = 'admin', match = {{ path_prefix = '/admin' }}, answer = {{ status = 403 }} }},
                      {{ name = 'rest', answer = {{ status = 200 }} }}]"
        );
        explain(&toml, get(url)).routes.into_iter().find(|v| v.chosen).map(|v| v.route)
    };
    for url in ["http://a//admin/", "http://a/x/../admin/", "http://a/%61dmin/"] {
        assert_eq!(chosen("match", url).as_deref(), Some("admin"), "{url}");
        assert_eq!(chosen("forward", url).as_deref(), Some("admin"), "{url}");
        assert_eq!(chosen("off", url).as_deref(), Some("rest"), "{url}");
    }
}

#[test]
fn redirects_and_answers_are_told_as_they_would_be_sent() {
    let toml = format!(
        "{WEB}routes = [
            {{ name = 'go', match = {{ path_prefix = '/go' }}, redirect = {{ scheme = 'https' }} }},
            {{ name = 'teapot', answer = {{ status = 418, body = 'short' }} }}]"
    );
    let location = "https://a.test/go?q=1".into();
    let expected = Outcome::Redirect(v1::RedirectOutcome { status: 302, location });
    assert_eq!(explain(&toml, get("http://a.test:8080/go?q=1")).outcome, Some(expected));
    let expected = Outcome::Answer(v1::AnswerOutcome { status: 418, body: "short".into() });
    assert_eq!(explain(&toml, get("http://a.test/")).outcome, Some(expected));
}

#[test]
fn shares_go_by_weight_and_a_set_of_weight_0_is_there_with_none() {
    let toml = format!(
        "{WEB}
        backend_sets = [{{ name = 'a', backends = [{{ address = '1.1.1.1:1' }}] }}, {{ name = 'b' }}, {{ name = 'c' }}]
        [[routes]]
        name = 'r'
        forward = [{{ backend_set = 'b' }}, {{ backend_set = 'a', weight = 3 }},
                   {{ backend_set = 'c', weight = 0 }}]"
    );
    let sets = sets(explain(&toml, get("http://a/")));
    let told: Vec<_> = sets
        .iter()
        .map(|s| (s.backend_set.as_str(), s.share, s.pick.as_str(), s.why.as_str()))
        .collect();
    let expected = [
        ("b", 0.25, "", "backend set b has no backend to try: the answer is 503"),
        ("a", 0.75, "1.1.1.1:1", "only one backend is eligible"),
        ("c", 0.0, "", "its weight is 0, so it gets nothing"),
    ];
    assert_eq!(told, expected);
}

#[test]
fn every_backend_that_is_not_eligible_has_its_reasons_and_what_is_reported_is_told() {
    let toml = format!(
        "{WEB}routes = [{{ name = 'r', backend_set = 'app' }}]
        [[backend_sets]]
        name = 'app'
        backends = [
            {{ name = 'one', address = '1.1.1.1:1' }},
            {{ name = 'two', address = '1.1.1.1:2', weight = 5 }},
            {{ name = 'drains', address = '1.1.1.1:3', state = 'draining', weight = 0 }},
            {{ name = 'off', address = '1.1.1.1:4', state = 'disabled' }},
            {{ name = 'none', address = '1.1.1.1:5', weight = 0 }},
            {{ name = 'down', address = '1.1.1.1:6' }},
            {{ name = 'came-back', address = '1.1.1.1:7' }},
        ]"
    );
    let snapshot = snapshot(1, &toml, &[("app", "down"), ("app", "came-back")]);
    let status = |backend: &str, health: v1::Health, why: &str| v1::BackendStatus {
        backend_set: "app".into(),
        backend: backend.into(),
        health: health.into(),
        why: why.into(),
        ..<_>::default()
    };
    let busy = v1::BackendStatus {
        in_flight: 4,
        ejections: vec![v1::LocalEjection { proxy_id: "p2".into(), reason: "5xx".into() }],
        ..status("two", v1::Health::Healthy, "200")
    };
    let statuses = vec![
        busy,
        status("down", v1::Health::Unhealthy, "connect refused"),
        status("came-back", v1::Health::Healthy, "200 OK"),
        v1::BackendStatus {
            held: "the half is out".into(),
            ..status("one", v1::Health::Unhealthy, "500")
        },
    ];
    let response = explain_with(&snapshot, statuses, get("http://a/")).expect("is a question");
    let set = &sets(response)[0];
    let told: Vec<_> =
        set.backends.iter().map(|b| (b.backend.as_str(), b.eligible, b.why.as_str())).collect();
    let expected = [
        ("one", true, "used although its checks fail: the half is out"),
        ("two", true, ""),
        ("drains", false, "draining; weight 0"),
        ("off", false, "disabled"),
        ("none", false, "weight 0"),
        ("down", false, "unhealthy: connect refused"),
        ("came-back", false, "unhealthy"),
    ];
    assert_eq!(told, expected);
    let two = &set.backends[1];
    assert_eq!((two.weight, two.in_flight, &two.ejected_by[..]), (5, 4, &["p2".to_owned()][..]));
    assert_eq!((set.balance.as_str(), set.pick.as_str()), ("round_robin", ""));
    assert_eq!(set.why, "any of the 2 eligible, in turn");
}

#[test]
fn a_hash_policy_tells_what_is_hashed_and_who_gets_it() {
    let backends: Vec<_> =
        (0..5).map(|i| format!("{{ name = 'b{i}', address = '1.1.1.1:{}' }}", i + 1)).collect();
    for algorithm in ["maglev", "rendezvous"] {
        let toml = format!(
            "{WEB}routes = [{{ name = 'r', backend_set = 'app' }}]
            [[backend_sets]]
            name = 'app'
            balance = 'consistent_hash'
            hash = {{ key = 'header:x-user', algorithm = '{algorithm}' }}
            backends = [{}]",
            backends.join(", ")
        );
        let for_user = |user: usize| with(get("http://a/"), &[("x-user", &user.to_string())]);
        let pick = |unhealthy: &[(&str, &str)], request: v1::ExplainRequest| {
            let snapshot = snapshot(1, &toml, unhealthy);
            let response = explain_with(&snapshot, Vec::new(), request).expect("is a question");
            sets(response).remove(0)
        };
        let set = pick(&[], for_user(7));
        assert_eq!((set.hash_key.as_str(), set.hash_value.as_str()), ("header:x-user", "7"));
        assert_eq!(set.why, format!("{algorithm} by the xxh3 of header:x-user"));

        // One that is out moves its own keys and no others.
        let mut moved = 0;
        for user in 0..50 {
            let (all, fewer) =
                (pick(&[], for_user(user)).pick, pick(&[("app", "b2")], for_user(user)).pick);
            assert!(!fewer.is_empty() && fewer != "b2");
            assert!(all == fewer || all == "b2", "{user}: {all} -> {fewer}");
            moved += usize::from(all != fewer);
        }
        assert!((2..25).contains(&moved), "{moved}");

        let by_address =
            |from: &str| pick(&[], v1::ExplainRequest { from: from.into(), ..get("http://a/") });
        let set = by_address("::ffff:10.1.2.3");
        assert_eq!(
            (set.hash_key.as_str(), set.hash_value.as_str()),
            ("client_address", "10.1.2.3")
        );
        assert_eq!(set.pick, by_address("10.1.2.3").pick, "it is the same client");
        let why = "by the xxh3 of client_address, because the request has no header:x-user";
        assert_eq!(set.why, format!("{algorithm} {why}"));
    }
}

#[test]
fn the_listener_is_the_one_asked_for_or_where_the_url_leads() {
    let three = "listeners = [
        { name = 'web', address = '0.0.0.0:8080' },
        { name = 'admin', address = '127.0.0.1:9000' },
        { name = 'twin', address = '127.0.0.2:9000' },
        { name = 'db', address = '0.0.0.0:5432', protocol = 'tcp', backend_set = 'db' }]
        backend_sets = [{ name = 'db' }]";
    let ask = |toml: &str, url: &str, listener: &str| {
        let request = v1::ExplainRequest { listener: listener.into(), ..get(url) };
        let response = explain_with(&snapshot(1, toml, &[]), Vec::new(), request)?;
        Ok::<_, String>(format!("{}, {}", response.listener, response.listener_why))
    };
    let secure = "listeners = [
        { name = 'web', address = '0.0.0.0:8080' },
        { name = 'secure', address = '0.0.0.0:8443', tls = { certificates = ['a'] } }]
        certificates = [{ name = 'a', cert = '/a.pem', key = '/a.key' }]";
    let both = "http listeners are secure (0.0.0.0:8443), web (0.0.0.0:8080)";
    let all = "name one of admin (127.0.0.1:9000), twin (127.0.0.2:9000), web (0.0.0.0:8080)";
    let list = all.trim_start_matches("name one of ");
    #[rustfmt::skip]
    let cases = [
        (three, "http://a:8080/",         "",      Ok("web, its port is the URL's, 8080".to_owned())),
        (three, "http://127.0.0.2:9000/", "",      Ok("twin, its port is the URL's, 9000".to_owned())),
        (three, "http://a:8080/",         "admin", Ok("admin, it was asked for".to_owned())),
        (WEB,   "http://a/",              "",      Ok("web, it is the only http listener".to_owned())),
        (WEB,   "http://a:81/",           "web",   Ok("web, it was asked for".to_owned())),
        (WEB,   "http://a:81/",           "",      Err("listener: none has the URL's port 81; http listeners are web (0.0.0.0:8080)".into())),
        (three, "http://a:81/",           "",      Err(format!("listener: none has the URL's port 81; http listeners are {list}"))),
        (three, "http://a:5432/",         "",      Err(format!("listener: port 5432 is that of db, a tcp listener, which takes no requests; http listeners are {list}"))),
        (WEB,   "/",                      "",      Ok("web, it is the only http listener".to_owned())),
        (three, "http://a/",              "",      Err(format!("listener: is needed, because none has the URL's port 80; {all}"))),
        (three, "/",                      "",      Err(format!("listener: is needed, because the URL says no port; {all}"))),
        (three, "http://a:9000/",         "",      Err("listener: is needed, because several have port 9000; name one of admin (127.0.0.1:9000), twin (127.0.0.2:9000)".into())),
        (three, "/",                      "nix",   Err(format!("listener: no listener is called \"nix\"; http listeners are {list}"))),
        (three, "/",                      "db",    Err(format!("listener: \"db\" is a tcp listener, which takes no requests; http listeners are {list}"))),
        (secure, "https://a:8443/",       "",      Ok("secure, its port is the URL's, 8443".to_owned())),
        (secure, "https://a/",            "",      Ok("secure, it is the only http listener with TLS".to_owned())),
        (secure, "http://a/",             "",      Ok("web, it is the only http listener without TLS".to_owned())),
        (secure, "https://a:8080/",       "",      Err(format!("listener: port 8080 is that of web, which speaks no TLS; {both}"))),
        (secure, "http://a:8443/",        "",      Err(format!("listener: port 8443 is that of secure, which speaks TLS; {both}"))),
        (WEB,   "https://a/",             "",      Ok("web, it is the only http listener".to_owned())),
        ("",    "/",                      "",      Err("listener: there is no http listener; apply one first".into())),
    ];
    for (toml, url, listener, expected) in cases {
        assert_eq!(ask(toml, url, listener), expected, "{url} {listener}");
    }
}

#[test]
fn a_snapshot_is_compiled_once_and_the_next_one_shares_what_did_not_change() {
    let toml = "backend_sets = [{ name = 'a', backends = [{ address = '1.1.1.1:1' }] },
                                { name = 'b', backends = [{ address = '1.1.1.1:2' }] }]";
    let explainer = Explainer::default();
    let first = snapshot(1, toml, &[]);
    let compiled = explainer.compiled(&first);
    assert!(Arc::ptr_eq(&compiled, &explainer.clone().compiled(&first)));

    let mut unhealthy = UnhealthyBackends::default();
    let down = (BackendSetName::new("b"), BackendName::new("1.1.1.1:2"));
    unhealthy.insert(down.0.expect("is a name"), down.1.expect("is a name"));
    let version = Version { epoch: 7, version: 2 };
    let next = Sealed::new(version, 3, content(first.desired.clone(), unhealthy)).snapshot;
    let next = explainer.compiled(&next);
    let shares = |name: &str| {
        let name = BackendSetName::new(name).expect("is a name");
        std::ptr::eq(compiled.set(&name), next.set(&name))
    };
    assert!(shares("a") && !shares("b"));
}

const TCP: &str = "
    backend_sets = [{ name = 'db', backends = [{ address = '127.0.0.1:5432' }] },
                    { name = 'shop', tls = { verify = false },
                      backends = [{ address = '127.0.0.1:1' }, { address = '127.0.0.1:2' }] }]
    routes = [
        { name = 'shop', listeners = ['edge'], match = { sni = 'shop.test' }, backend_set = 'shop' },
        { name = 'mqtt', listeners = ['edge', 'taken-off'], match = { alpn = 'mqtt' }, backend_set = 'db' },
        { name = 'web', backend_set = 'db' },
    ]
    certificates = [{ name = 'a', cert = '/a.pem', key = '/a.key' }]
    [[listeners]]
    name = 'edge'
    address = '0.0.0.0:443'
    protocol = 'tcp'
    backend_set = 'db'
    [[listeners]]
    name = 'taken-off'
    address = '0.0.0.0:8883'
    protocol = 'tcp'
    tls = { certificates = ['a'] }";

fn connection(url: &str, alpn: &[&str]) -> v1::ExplainRequest {
    let alpn = alpn.iter().map(|text| (*text).to_owned()).collect();
    v1::ExplainRequest { method: "TCP".into(), alpn, ..get(url) }
}

#[test]
fn a_connection_is_told_where_it_goes_and_why() {
    let response = explain(TCP, connection("tls://shop.test", &["h2"]));
    assert_eq!(
        (&*response.listener, &*response.listener_why),
        ("edge", "its port is the URL's, 443")
    );
    let told: Vec<_> = response.routes.iter().map(|v| (&*v.route, v.chosen, &*v.why)).collect();
    #[rustfmt::skip]
    let expected = [
        ("shop", true,  "the only one that matches"),
        ("mqtt", false, "alpn: h2 is not mqtt"),
        ("web",  false, "listeners: serves all http listeners, not edge"),
    ];
    assert_eq!(told, expected);
    let sets = sets(response);
    assert_eq!((&*sets[0].backend_set, &*sets[0].scheme, sets[0].share), ("shop", "https", 1.0));
    assert_eq!(sets[0].why, "any of the 2 eligible, in turn");
}

#[test]
fn a_connection_that_no_route_takes_goes_to_its_listeners_set_or_is_closed() {
    let goes_to = |request| {
        let response = explain(TCP, request);
        match response.outcome {
            Some(Outcome::Forward(forward)) => Ok(forward.backend_sets[0].backend_set.clone()),
            Some(Outcome::Refusal(refusal)) if refusal.status == 0 => Err(refusal.reason),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(goes_to(connection("tcp://x:443", &[])), Ok("db".into()));
    assert_eq!(goes_to(connection("tls://other.test", &[])), Ok("db".into()));
    assert_eq!(goes_to(connection("tls://x:8883", &["x", "mqtt"])), Ok("db".into()));
    let none = "no route takes it, and the listener has no backend_set: it is closed";
    assert_eq!(goes_to(connection("tls://x:8883", &[])), Err(none.into()));
    let none = "the listener speaks none of the protocols that the client offers by ALPN";
    assert_eq!(goes_to(connection("tls://x:8883", &["h2"])), Err(none.into()));
    let none = "the listener speaks TLS, and the client does not";
    assert_eq!(goes_to(connection("tcp://x:8883", &[])), Err(none.into()));
}

#[test]
fn a_connection_is_to_a_tcp_listener() {
    let told = |toml: &str, request| {
        explain_with(&snapshot(1, toml, &[]), Vec::new(), request).expect_err("it makes no sense")
    };
    let named = |listener: &str| v1::ExplainRequest {
        listener: listener.into(),
        ..connection("tls://a", &[])
    };
    let both = "edge (0.0.0.0:443), taken-off (0.0.0.0:8883)";
    let no_port = told(TCP, connection("tcp://db", &[]));
    assert_eq!(
        no_port,
        format!("listener: is needed, because the URL says no port; name one of {both}")
    );
    let with_web = format!("{TCP}\n[[listeners]]\nname = 'web'\naddress = '0.0.0.0:80'\n");
    assert_eq!(
        told(&with_web, named("web")),
        format!(
            "listener: \"web\" is an http listener, which is asked about with an http URL; \
             tcp listeners are {both}"
        )
    );
    assert_eq!(
        told(&with_web, connection("tcp://a:80", &[])),
        format!(
            "listener: port 80 is that of web, an http listener, which is asked about with an \
             http URL; tcp listeners are {both}"
        )
    );
    assert_eq!(told(WEB, named("")), "listener: there is no tcp listener; apply one first");
    let taken = explain(
        TCP,
        v1::ExplainRequest { listener: "taken-off".into(), ..connection("tls://a", &["mqtt"]) },
    );
    assert_eq!(taken.listener_why, "it was asked for");
}
