//! A route for a path takes every spelling of it.

use integration_tests::{
    backend::Backend,
    client::{self, Request},
    fleet::{Fleet, WEB, listening},
};

/// `/admin` is answered by the proxy, `/exact` too, and everything else goes to a backend.
fn spec(backend: &Backend, listener: &str) -> String {
    let spec = format!(
        "{WEB}
         [[routes]]
         name = 'admin'
         match = {{ path_prefix = '/admin' }}
         answer = {{ status = 403, body = 'admin' }}
         [[routes]]
         name = 'exact'
         match = {{ path = '/exact/path' }}
         answer = {{ status = 403, body = 'exact' }}
         [[routes]]
         name = 'rest'
         backend_set = 'app'
         [[backend_sets]]
         name = 'app'
         backends = [{{ address = '{}' }}]",
        backend.address()
    );
    listening(&spec, listener)
}

/// Spellings of `/admin` and what is below it.
const ADMIN: [&str; 22] = [
    "/admin",
    "/admin/",
    "/admin?x",
    "/admin/x",
    "//admin",
    "//admin/",
    "///admin",
    "/./admin",
    "/.//admin",
    "/x/../admin",
    "/x/../admin/y",
    "/x/y/../../admin",
    "/../admin",
    "/../../admin",
    "/x/./../admin",
    "/%61dmin",
    "/%61%64%6d%69%6e",
    "/%61%64%6D%69%6E/x",
    "/%2e/admin",
    "/x/%2e%2e/admin",
    "/x/%2E%2e/admin",
    "/x/.%2e/admin",
];

/// What could be taken for one, and is something else.
const OTHERS: [&str; 11] = [
    "/",
    "/adminx",
    "/Admin",
    "/x/admin",
    "/%2fadmin",
    "/%41dmin",
    "/admin%2fx",
    "/%2561dmin",
    "/x?/../admin",
    "/...//admin",
    "/..admin",
];

#[tokio::test]
async fn a_route_takes_every_spelling_of_its_path() {
    let backend = Backend::named("backend").await;
    let fleet = Fleet::start(1, &spec(&backend, "")).await;
    let web = fleet.proxies[0].web();
    for target in ADMIN {
        assert_eq!(client::get(web, target).await.text(), "admin", "{target}");
    }
    for target in ["/exact/path", "/exact//path", "/exact/x/../path", "/%65xact/%70ath?q"] {
        assert_eq!(client::get(web, target).await.text(), "exact", "{target}");
    }
    assert_eq!(backend.count(), 0);
    for target in OTHERS {
        let answer = client::get(web, target).await;
        assert_eq!((answer.status(), answer.text().as_str()), (200, "backend"), "{target}");
        let seen = backend.requests().pop().expect("it came");
        assert_eq!(seen.head.target(), target, "a backend gets what the client sent");
    }
    // Some would read these as what they are, and others as what they might have been.
    for target in ["/%zzadmin", "/%6", "/%", "/a%/../admin"] {
        assert_eq!(client::get(web, target).await.status(), 400, "{target}");
    }
    let absolute = Request::get("http://app.test/x/..//%61dmin");
    assert_eq!(client::request(web, &absolute).await.text(), "admin");
}

#[tokio::test]
async fn a_backend_gets_the_normal_form_where_it_is_asked_for() {
    let backend = Backend::named("backend").await;
    let fleet = Fleet::start(1, &spec(&backend, "path_normalization = 'forward'")).await;
    let web = fleet.proxies[0].web();
    for target in ADMIN {
        assert_eq!(client::get(web, target).await.text(), "admin", "{target}");
    }
    for (target, normal) in [
        ("/a/b", "/a/b"),
        ("/a//b", "/a/b"),
        ("/a/./b/../c", "/a/c"),
        ("/../a", "/a"),
        ("/%61/%2E/b?%61//..", "/a/b?%61//.."),
        ("/a/..", "/"),
        ("/a/", "/a/"),
        ("/a/.", "/a/"),
        ("/a%2Fb%20", "/a%2Fb%20"),
    ] {
        assert_eq!(client::get(web, target).await.text(), "backend", "{target}");
        let seen = backend.requests().pop().expect("it came");
        assert_eq!(seen.head.target(), normal, "{target}");
    }
}

#[tokio::test]
async fn routes_see_what_the_client_sent_where_it_is_asked_for() {
    let backend = Backend::named("backend").await;
    let fleet = Fleet::start(1, &spec(&backend, "path_normalization = 'off'")).await;
    let web = fleet.proxies[0].web();
    for target in ["/admin", "/admin/", "/admin/../x"] {
        assert_eq!(client::get(web, target).await.text(), "admin", "{target}");
    }
    for target in ["//admin", "/x/../admin", "/%61dmin", "/./admin"] {
        assert_eq!(client::get(web, target).await.text(), "backend", "{target}");
    }
}
