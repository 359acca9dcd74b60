//! Backends that answer before they have got the whole request.

use integration_tests::{
    backend::Backend,
    client::{self, Client},
    eventually::{eventually, holds},
    fleet::{Fleet, app},
    wire::{Framing, Wire},
};

use super::{NO_EJECTION, ROUNDS};

#[tokio::test]
async fn a_final_answer_instead_of_continue_ends_the_backends_connection() {
    // What would be wrong is a body taken for the next request, or a request for a body.
    let backend = Backend::script(|mut wire, _| async move {
        while let Ok(Some(head)) = wire.head().await {
            let answer = match (head.method(), head.fields.has("expect")) {
                ("POST", true) => "HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\nno",
                ("GET", false) => "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
                _ => "HTTP/1.1 500 Wrong\r\nContent-Length: 5\r\n\r\nwrong",
            };
            let _ = wire.send(answer).await;
        }
    })
    .await;
    let fleet = Fleet::start(1, &app("", NO_EJECTION, &[backend.address()])).await;
    let web = fleet.proxies[0].web();
    let inner = "GET /inner HTTP/1.1\r\nHost: a\r\n\r\n";
    for framing in [
        format!("Content-Length: {}\r\n\r\n", inner.len()),
        "Transfer-Encoding: chunked\r\n\r\n".to_owned(),
    ] {
        for sends_anyway in [false, true] {
            let mut client = Client::connect(web).await;
            let ask = format!("POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n{framing}");
            client.send_raw(ask).await;
            let answer = client.response().await;
            assert_eq!((answer.status(), answer.text().as_str()), (403, "no"), "{framing:?}");
            assert_eq!(answer.header("connection"), Some("close"), "{answer:?}");
            if sends_anyway {
                let _ = client.wire.send(inner).await;
            }
            client.expect_closed().await;
            assert_eq!(client::get(web, "/").await.text(), "ok", "{framing:?}, {sends_anyway}");
        }
    }
    fleet.idle().await;
}

/// The backend, which never said 100, takes what comes for the next request, and answers it when one
/// more has come: it would be another client's answer.
#[tokio::test]
async fn what_is_sent_without_a_word_to_go_on_is_no_request_to_the_backend() {
    let backend = Backend::script(|mut wire, _| async move {
        let mut answers = String::new();
        while let Ok(Some(head)) = wire.head().await {
            let target = head.target();
            let status = if head.method() == "POST" { "403 No" } else { "200 OK" };
            answers.push_str(&format!(
                "HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{target}",
                target.len()
            ));
            if target != "/inner" {
                let _ = wire.send(std::mem::take(&mut answers)).await;
            }
        }
    })
    .await;
    let fleet = Fleet::start(1, &app("", NO_EJECTION, &[backend.address()])).await;
    let web = fleet.proxies[0].web();
    let inner = "GET /inner HTTP/1.1\r\nHost: a\r\n\r\n";
    for (framing, body) in [
        (format!("Content-Length: {}", inner.len()), inner.to_owned()),
        (
            "Transfer-Encoding: chunked".to_owned(),
            format!("{:x}\r\n{inner}\r\n0\r\n\r\n", inner.len()),
        ),
    ] {
        let ask = format!("POST /outer HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n{framing}");
        let mut client = Client::connect(web).await;
        client.send_raw(format!("{ask}\r\n\r\n{body}")).await;
        assert_eq!(client.response().await.status(), 403, "{framing}");
        for path in ["/first", "/second"] {
            assert_eq!(client::get(web, path).await.text(), path, "{framing}");
        }
    }
    fleet.idle().await;
}

/// The same without a word of `Expect`, where the rest of the body comes while the answer is under way.
#[tokio::test]
async fn a_backend_that_answers_before_the_body_has_ended_is_asked_nothing_more() {
    let backend = Backend::script(|mut wire, number| async move {
        let Ok(Some(head)) = wire.head().await else { return };
        if head.method() == "GET" {
            let _ =
                wire.send(format!("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{number}")).await;
            return wire.closed().await;
        }
        let _ = wire.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab").await;
        // The whole body has come when the rest of the answer does.
        if wire.exactly(10).await.is_ok() {
            let _ = wire.send("cd").await;
        }
        wire.closed().await;
    })
    .await;
    let fleet = Fleet::start(1, &app("", NO_EJECTION, &[backend.address()])).await;
    let web = fleet.proxies[0].web();
    let mut client = Client::connect(web).await;
    client.send_raw("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n12345").await;
    client.wire.peek().await.expect("the answer begins");
    client.send_raw("67890").await;
    let answer = client.response().await;
    assert_eq!((answer.status(), answer.text().as_str()), (200, "abcd"));
    assert_eq!(client::get(web, "/").await.text(), "1", "a connection of its own");
    fleet.idle().await;
}

/// As a shell makes one of `nc`: it answers whatever it is going to be asked.
#[tokio::test]
async fn a_backend_that_answers_whoever_connects_is_believed() {
    let backend = Backend::script(|mut wire, number| async move {
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{number}");
        let _ = wire.send(answer).await;
        let _ = wire.head().await;
    })
    .await;
    let fleet = Fleet::start(1, &app("", NO_EJECTION, &[backend.address()])).await;
    let mut client = Client::connect(fleet.proxies[0].web()).await;
    for number in 0..9 {
        assert_eq!(client.get("/").await.text(), number.to_string());
    }
    fleet.idle().await;
}

/// A backend that answers before it has read the body, and then reads it.
async fn hasty(wire: &mut Wire) -> Option<()> {
    let head = wire.head().await.ok()??;
    let framing = head.request_framing().ok()?;
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhasty";
    wire.send(answer).await.ok()?;
    if framing != Framing::None {
        wire.body(framing).await.ok()?;
    }
    Some(())
}

#[tokio::test]
async fn an_answer_that_comes_before_the_body_has_ended_leaves_nothing_on_any_connection() {
    let backend =
        Backend::script(|mut wire, _| async move { while hasty(&mut wire).await.is_some() {} })
            .await;
    let fleet = Fleet::start(1, &app("", NO_EJECTION, &[backend.address()])).await;
    let web = fleet.proxies[0].web();
    for _ in 0..ROUNDS {
        let mut client = Client::connect(web).await;
        let head = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n";
        client.send_raw(format!("{head}beginning")).await;
        // The rest of the body never comes.
        let answer = client.response().await;
        assert_eq!((answer.status(), answer.text().as_str()), (200, "hasty"));
        assert_eq!(answer.header("connection"), Some("close"));
        client.expect_closed().await;
        assert_eq!(client::get(web, "/").await.text(), "hasty");
    }
    fleet.idle().await;
    eventually("the backend's connections are closed, but for one or two that idle", async || {
        let open = backend.open_connections();
        holds(open <= 2, || format!("{open} of {}", backend.connections()))
    })
    .await;
}
