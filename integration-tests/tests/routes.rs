//! Which request goes where.

use integration_tests::{
    backend::Backend,
    client::{self, Client, Request},
    fleet::{Fleet, WEB},
    ports::Port,
};

/// A route that answers with its own name.
fn answers(name: &str, matches: &str) -> String {
    format!(
        "[[routes]]
         name = '{name}'
         match = {{ {matches} }}
         answer = {{ status = 200, body = '{name}' }}
         "
    )
}

#[tokio::test]
async fn the_most_specific_route_wins() {
    let routes = [
        ("exact host", "host = 'www.shop.test'"),
        ("wildcard", "host = '*.shop.test'"),
        ("longer wildcard", "host = '*.eu.shop.test'"),
        ("host and path", "host = 'www.shop.test', path = '/cart'"),
        ("exact path", "path = '/api/v1/status'"),
        ("prefix", "path_prefix = '/api'"),
        ("longer prefix", "path_prefix = '/api/v1'"),
        ("directory", "path_prefix = '/img/'"),
        ("method", "path_prefix = '/api', method = 'DELETE'"),
        ("header", "path_prefix = '/api', headers = { x-beta = 'yes' }"),
        ("two headers", "path_prefix = '/api', headers = { x-beta = 'yes', x-user = '*' }"),
    ];
    // The order that they are given in must not matter.
    for reversed in [false, true] {
        let mut texts: Vec<_> =
            routes.map(|(name, matches)| answers(&name.replace(' ', "-"), matches)).into();
        if reversed {
            texts.reverse();
        }
        let fleet = Fleet::start(1, &format!("{WEB}{}", texts.concat())).await;
        let mut client = Client::connect(fleet.proxies[0].web()).await;
        #[rustfmt::skip]
        let cases = [
            ("GET",    "www.shop.test",     "/",                 "",            "exact-host"),
            ("GET",    "WWW.Shop.Test:80",  "/x",                "",            "exact-host"),
            ("GET",    "www.shop.test",     "/cart",             "",            "host-and-path"),
            ("GET",    "www.shop.test",     "/cart?a=b",         "",            "host-and-path"),
            ("GET",    "www.shop.test",     "/cart/",            "",            "exact-host"),
            ("GET",    "a.shop.test",       "/",                 "",            "wildcard"),
            ("GET",    "a.b.shop.test",     "/",                 "",            "wildcard"),
            ("GET",    "a.eu.shop.test",    "/",                 "",            "longer-wildcard"),
            ("GET",    "a.shop.test",       "/api",              "",            "wildcard"),
            ("GET",    "shop.test",         "/",                 "",            ""),
            ("GET",    "xshop.test",        "/",                 "",            ""),
            ("GET",    "other.test",        "/api",              "",            "prefix"),
            ("GET",    "other.test",        "/api/x",            "",            "prefix"),
            ("GET",    "other.test",        "/apix",             "",            ""),
            ("GET",    "other.test",        "/API",              "",            ""),
            ("GET",    "other.test",        "/api/v1/x",         "",            "longer-prefix"),
            ("GET",    "other.test",        "/api/v1/status",    "",            "exact-path"),
            ("GET",    "other.test",        "/api/v1/status?x",  "",            "exact-path"),
            ("GET",    "other.test",        "/api/v1/status/",   "",            "longer-prefix"),
            ("GET",    "other.test",        "/img/a.png",        "",            "directory"),
            ("GET",    "other.test",        "/img",              "",            ""),
            ("DELETE", "other.test",        "/api",              "",            "method"),
            ("DELETE", "other.test",        "/api",              "x-beta",      "method"),
            ("GET",    "other.test",        "/api",              "x-beta",      "header"),
            ("GET",    "other.test",        "/api",              "both",        "two-headers"),
            ("GET",    "other.test",        "/api",              "x-user",      "prefix"),
            ("GET",    "other.test",        "/api",              "wrong",       "prefix"),
        ];
        for (method, host, path, headers, expected) in cases {
            let mut request = Request::new(method, path).host(host);
            for (name, value, when) in [
                ("X-Beta", "yes", ["x-beta", "both"].contains(&headers)),
                ("X-User", "anyone", ["x-user", "both"].contains(&headers)),
                ("X-Beta", "no", headers == "wrong"),
            ] {
                request = if when { request.header(name, value) } else { request };
            }
            let response = client.request(&request).await;
            let why = format!("{method} {host} {path} {headers}: {response:?}");
            if expected.is_empty() {
                assert_eq!(response.status(), 404, "{why}");
                assert_eq!(response.proxy_error(), Some("destination_not_found"), "{why}");
            } else {
                assert_eq!((response.status(), response.text().as_str()), (200, expected), "{why}");
            }
        }
    }
}

#[tokio::test]
async fn a_route_may_be_for_some_listeners_only() {
    let (inside, outside) = (Port::reserve(), Port::reserve());
    let mut fleet = Fleet::empty().await;
    let listen = format!("--listen=inside={},outside={}", inside.address(), outside.address());
    fleet.add_proxy("p1", &[listen]);
    let routes = [("all", ""), ("admin", "listeners = ['inside']")].map(|(name, listeners)| {
        format!(
            "[[routes]]
             name = '{name}'
             match = {{ path_prefix = '/{name}' }}
             answer = {{ status = 200 }}
             {listeners}
             "
        )
    });
    let listeners = "listeners = [{ name = 'inside', address = '127.0.0.1:1' },
                                  { name = 'outside', address = '127.0.0.1:2' }]";
    fleet.apply(&format!("{listeners}\n{}", routes.concat())).await;
    for (port, path, expected) in [
        (&inside, "/all", 200),
        (&outside, "/all", 200),
        (&inside, "/admin", 200),
        (&outside, "/admin", 404),
    ] {
        assert_eq!(client::get(port.address(), path).await.status(), expected, "{path}");
    }
}

#[tokio::test]
async fn a_fixed_answer_has_its_status_headers_and_body() {
    let route = "[[routes]]
                 name = 'teapot'
                 answer = { status = 418, body = 'short and stout', headers = { x-kind = 'pot' } }";
    let fleet = Fleet::start(1, &format!("{WEB}{route}")).await;
    let mut client = Client::connect(fleet.proxies[0].web()).await;
    for _ in 0..2 {
        let response = client.get("/").await;
        assert_eq!((response.status(), response.text().as_str()), (418, "short and stout"));
        assert_eq!(response.header("x-kind"), Some("pot"));
        assert!(!response.fields().has("proxy-status"), "it was asked for: {response:?}");
        let head = client.request(&Request::new("HEAD", "/")).await;
        assert_eq!((head.status(), head.header("content-length")), (418, Some("15")));
        let post = client.request(&Request::post("/", "who reads that")).await;
        assert_eq!(post.status(), 418);
    }
}

#[tokio::test]
async fn redirects_keep_what_they_do_not_replace() {
    #[rustfmt::skip]
    let cases = [
        ("scheme = 'https'",                              302, "https://a.test/p?q=1"),
        ("status = 308, host = 'b.test:81'",              308, "http://b.test:81/p?q=1"),
        ("status = 301, path = '/new'",                   301, "http://a.test:8080/new?q=1"),
        ("scheme = 'https', host = 'b.test', path = '/'", 302, "https://b.test/?q=1"),
    ];
    for (redirect, status, location) in cases {
        let route = format!("[[routes]]\nname = 'go'\nredirect = {{ {redirect} }}\n");
        let fleet = Fleet::start(1, &format!("{WEB}{route}")).await;
        let request = Request::get("/p?q=1").host("a.test:8080");
        let response = client::request(fleet.proxies[0].web(), &request).await;
        assert_eq!((response.status(), response.header("location")), (status, Some(location)));
    }
}

#[tokio::test]
async fn traffic_is_split_by_weight() {
    const REQUESTS: usize = 3_000;
    let (old, new, never) =
        (Backend::named("old").await, Backend::named("new").await, Backend::named("never").await);
    let sets = [("old", &old), ("new", &new), ("never", &never)].map(|(name, backend)| {
        let address = backend.address();
        format!("[[backend_sets]]\nname = '{name}'\nbackends = [{{ address = '{address}' }}]\n")
    });
    let route = "[[routes]]
                 name = 'canary'
                 forward = [{ backend_set = 'old', weight = 9 }, { backend_set = 'new' },
                            { backend_set = 'never', weight = 0 }]
                 ";
    let fleet = Fleet::start(1, &format!("{WEB}{route}{}", sets.concat())).await;
    let mut client = Client::connect(fleet.proxies[0].web()).await;
    for _ in 0..REQUESTS {
        assert_eq!(client.get("/").await.status(), 200);
    }
    assert_eq!((old.count() + new.count(), never.count()), (REQUESTS, 0));
    // Drawn at random: 300 expected, and 6 standard deviations are 99.
    println!("the new one got {} of {REQUESTS}", new.count());
    assert!((200..=400).contains(&new.count()), "{}", new.count());
}
