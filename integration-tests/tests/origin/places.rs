//! What goes by where a client is: routes, hashing, the access log, and the controller's explanations.

use std::net::Ipv4Addr;

use integration_tests::{
    access_log::{lines, with_proxy},
    backend::Backend,
    client::{Client, Request},
    fleet::{Fleet, WEB, app, listening},
};
use lb_proto::v1::{ExplainRequest, Header, explain_response::Outcome};

use crate::{STRANGER, TRUSTED, TRUSTS, ask, get};

fn routes() -> String {
    let answer = |name: &str, matches: &str| {
        format!(
            "[[routes]]\nname = '{name}'\nmatch = {{ path_prefix = '/', {matches} }}\n\
             answer = {{ status = 200, body = '{name}' }}\n"
        )
    };
    [
        listening(WEB, TRUSTS),
        answer("office", "from = ['192.0.2.0/24', '2a00::/16']"),
        answer("others", "not_from = ['198.51.100.0/24', '127.8.0.0/16']"),
    ]
    .concat()
}

#[tokio::test]
async fn a_route_takes_clients_of_some_networks_and_explain_says_so() {
    let fleet = Fleet::start(1, &routes()).await;
    let proxy = &fleet.proxies[0];
    let forwarded_for = |text| [("X-Forwarded-For", text)];
    #[rustfmt::skip]
    let cases = [
        (TRUSTED, "192.0.2.9", "office"), (TRUSTED, "2a00::1", "office"), (TRUSTED, "203.0.113.1", "others"),
        (TRUSTED, "198.51.100.3", ""), (TRUSTED, "192.0.2.9, 198.51.100.3", ""),
        (STRANGER, "192.0.2.9", ""), (Ipv4Addr::LOCALHOST, "192.0.2.9", "others"),
    ];
    for (from, text, expected) in cases {
        let answer = ask(proxy, from, &get(&forwarded_for(text))).await;
        let given = if answer.status() == 200 { answer.text() } else { String::new() };
        assert_eq!(given, expected, "{from} {text}");

        let request = ExplainRequest {
            url: "http://app.test/".into(),
            listener: "web".into(),
            from: from.to_string(),
            headers: vec![Header { name: "X-Forwarded-For".into(), value: text.into() }],
            ..ExplainRequest::default()
        };
        let explained = fleet.api().await.explain(request).await.expect("it is explained");
        let explained = explained.into_inner();
        let last = text.rsplit(", ").next().map(str::to_owned);
        let client = last.filter(|_| from == TRUSTED).unwrap_or(from.to_string());
        assert_eq!(explained.client, client, "{from} {text}");
        let chosen = explained.routes.iter().find(|route| route.chosen);
        let chosen = chosen.map_or("", |route| &*route.route);
        assert_eq!(chosen, expected, "{from} {text}: {:?}", explained.routes);
        let told = explained.routes.iter().any(|route| route.why.contains("from: "));
        assert_eq!(told, expected != "office", "{:?}", explained.routes);
    }
}

#[tokio::test]
async fn hashing_goes_by_the_client_and_not_by_who_passed_it_on() {
    let backends =
        [Backend::named("a").await, Backend::named("b").await, Backend::named("c").await];
    let set = "balance = 'consistent_hash'\nhash = { key = 'client_address' }";
    let addresses: Vec<_> = backends.iter().map(Backend::address).collect();
    let fleet = Fleet::start(1, &listening(&app("", set, &addresses), TRUSTS)).await;
    let mut client = Client::connect_from(TRUSTED, fleet.proxies[0].web()).await;
    let mut found = Vec::new();
    for _ in 0..2 {
        let mut round = Vec::new();
        for i in 0..20 {
            let address = format!("192.0.2.{i}");
            round.push(client.request(&get(&[("X-Forwarded-For", &address)])).await.text());
        }
        found.push(round);
    }
    assert_eq!(found[0], found[1], "each client has its backend");
    for name in ["a", "b", "c"] {
        assert!(found[0].iter().any(|backend| backend == name), "{found:?}");
    }
}

#[tokio::test]
async fn the_access_log_has_the_client_and_who_passed_it_on() {
    let fleet = Fleet::empty().await;
    let log = fleet.dir().join("access.json");
    let fleet = with_proxy(fleet, "full", &log, &routes()).await;
    let mut client = Client::connect_from(TRUSTED, fleet.proxies[0].web()).await;
    let peer = client.wire.local_address().to_string();
    client.request(&get(&[("X-Forwarded-For", "192.0.2.9")])).await;
    client.request(&get(&[("X-Forwarded-For", "203.0.113.1")])).await;
    ask(&fleet.proxies[0], STRANGER, &get(&[("X-Forwarded-For", "192.0.2.9")])).await;
    let lines = lines(&log, 3).await;
    let told: Vec<_> =
        lines.iter().map(|line| (line["client"].as_str(), line["peer"].as_str())).collect();
    assert_eq!(
        told[..2],
        [(Some("192.0.2.9"), Some(&*peer)), (Some("203.0.113.1"), Some(&*peer)),]
    );
    let (client, peer) = told[2];
    assert!(client.is_some_and(|client| client.starts_with("127.8.0.1:")) && peer.is_none());
}

#[tokio::test]
async fn what_comes_without_tls_is_sent_there_unless_it_came_by_it_before() {
    let backend = Backend::named("here").await;
    let spec = app("", "", &[backend.address()]);
    let lines = format!("{TRUSTS}\nredirect_to_https = true\nhsts = 'max-age=60'");
    let fleet = Fleet::start(1, &listening(&spec, &lines)).await;
    let proxy = &fleet.proxies[0];
    let https = [("X-Forwarded-Proto", "https"), ("X-Forwarded-For", "192.0.2.9")];
    let asked = Request::get("/a?b=c").host("app.test:8080");
    let answer = ask(proxy, STRANGER, &asked.header("X-Forwarded-Proto", "https")).await;
    let location = answer.header("location");
    assert_eq!((answer.status(), location), (308, Some("https://app.test/a?b=c")));
    assert_eq!(answer.header("strict-transport-security"), None, "not without TLS");
    assert_eq!(backend.count(), 0);

    let answer = ask(proxy, TRUSTED, &get(&https)).await;
    assert_eq!((answer.status(), &*answer.text()), (200, "here"));
    assert_eq!(answer.header("strict-transport-security"), Some("max-age=60"));

    let explained = |from: Ipv4Addr| ExplainRequest {
        url: "http://app.test/a".into(),
        listener: "web".into(),
        from: from.to_string(),
        headers: vec![Header { name: "X-Forwarded-Proto".into(), value: "https".into() }],
        ..ExplainRequest::default()
    };
    let mut api = fleet.api().await;
    let outcome = api.explain(explained(STRANGER)).await.expect("it is explained").into_inner();
    let Some(Outcome::Redirect(to)) = outcome.outcome else { panic!("{outcome:?}") };
    assert_eq!((to.status, &*to.location), (308, "https://app.test/a"));
    let outcome = api.explain(explained(TRUSTED)).await.expect("it is explained").into_inner();
    assert!(matches!(outcome.outcome, Some(Outcome::Forward(_))), "{outcome:?}");
}
