//! What backends get of who passed a request on.

use integration_tests::{
    backend::Backend,
    fleet::{Fleet, app, listening},
};

use crate::{STRANGER, TRUSTED, TRUSTS, ask, get, said};

#[tokio::test]
async fn what_strangers_say_never_reaches_a_backend() {
    let backend = Backend::named("here").await;
    let spec = app("", "", &[backend.address()]);
    let lies = [
        ("X-Forwarded-For", "6.6.6.6"),
        ("X_Forwarded_For", "6.6.6.6"),
        ("x-forwarded_for", "6.6.6.6"),
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-Host", "evil.test"),
        ("X-Forwarded-Port", "666"),
        ("X-Forwarded-Prefix", "/evil"),
        ("X-Real-IP", "6.6.6.6"),
        ("X_Real_IP", "6.6.6.6"),
        ("Forwarded", "for=6.6.6.6;proto=https"),
        ("Client-Cert", ":AA==:"),
        ("Client_Cert", ":AA==:"),
        ("Client-Cert-Chain", ":AA==:"),
        ("X-Client-Cert-Subject", "CN=evil"),
        ("X_Client_Cert_Subject", "CN=evil"),
    ];
    let options =
        ["", "forwarded = 'append'", "forwarded = 'append'\nforwarded_header = 'forwarded'"];
    for options in options {
        let spec = listening(&spec, &format!("{TRUSTS}\n{options}"));
        let fleet = Fleet::start(1, &spec).await;
        for lies in [&lies[..], &lies[..1], &lies[9..10]] {
            ask(&fleet.proxies[0], STRANGER, &get(lies)).await;
            let seen = backend.requests().pop().expect("it came");
            let mut expected = vec![
                "x-forwarded-for: 127.8.0.1",
                "x-forwarded-host: app.test:8080",
                "x-forwarded-port: 8080",
                "x-forwarded-proto: http",
            ];
            if options.ends_with("'forwarded'") {
                expected.push("forwarded: for=127.8.0.1;host=\"app.test:8080\";proto=http");
            }
            assert_eq!(said(&seen.head.fields), expected, "{options}");
        }
    }
}

#[tokio::test]
async fn what_a_trusted_balancer_says_goes_on() {
    let backend = Backend::named("here").await;
    let spec = app("", "", &[backend.address()]);
    let lines = [
        ("X-Forwarded-For", "6.6.6.6, 192.0.2.7, 10.0.0.9"),
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-Host", "shop.test"),
        ("Forwarded", "for=\"[2a00::7]\";proto=https;host=other.test, for=10.0.0.8"),
        ("X-Real-IP", "6.6.6.6"),
    ];
    let others =
        ["x-forwarded-host: shop.test", "x-forwarded-port: 443", "x-forwarded-proto: https"];
    let by_forwarded =
        ["x-forwarded-host: other.test", "x-forwarded-port: 443", "x-forwarded-proto: https"];
    let cases = [
        ("", "x-forwarded-for: 192.0.2.7", &others, None),
        (
            "forwarded = 'append'",
            "x-forwarded-for: 6.6.6.6, 192.0.2.7, 10.0.0.9, 127.9.0.1",
            &others,
            None,
        ),
        (
            "forwarded_header = 'forwarded'",
            "x-forwarded-for: 2a00::7",
            &by_forwarded,
            Some("forwarded: for=\"[2a00::7]\";host=\"other.test\";proto=https"),
        ),
        (
            "forwarded = 'append'\nforwarded_header = 'forwarded'",
            "x-forwarded-for: 2a00::7",
            &by_forwarded,
            Some(
                "forwarded: for=\"[2a00::7]\";proto=https;host=other.test, for=10.0.0.8, \
                 for=127.9.0.1;host=\"other.test\";proto=https",
            ),
        ),
    ];
    for (options, address, others, forwarded) in cases {
        let fleet = Fleet::start(1, &listening(&spec, &format!("{TRUSTS}\n{options}"))).await;
        ask(&fleet.proxies[0], TRUSTED, &get(&lines)).await;
        let seen = backend.requests().pop().expect("it came");
        let mut expected = vec![address];
        expected.extend(others);
        expected.extend(forwarded);
        assert_eq!(said(&seen.head.fields), expected, "{options}");
        assert_eq!(seen.head.fields.get("host"), Some("app.test:8080"), "the host is as it came");
    }
}
