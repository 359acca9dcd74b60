//! `Explain` over real gRPC: what it adds to what proxies would decide.

mod common;

use common::{Control, eventually, request};
use lb_proto::v1::{self, explain_response::Outcome};
use tonic::Code;

const APP: &str = r#"{
    "listeners": [{"name": "web", "address": "127.0.0.1:8080"}],
    "routes": [{"name": "app", "backend_set": "app"}],
    "backend_sets": [{"name": "app", "backends": [
        {"name": "one", "address": "127.0.0.1:1"}, {"name": "two", "address": "127.0.0.1:2"}]}]
}"#;

fn get(url: &str) -> v1::ExplainRequest {
    v1::ExplainRequest { url: url.into(), ..<_>::default() }
}

#[tokio::test]
async fn what_was_accepted_is_explained_at_once_and_reports_are_told() {
    let control = Control::in_memory();
    let mut fleet = control.fleet().await;
    let applied = fleet.apply(request(APP)).await.expect("is valid").into_inner();
    let told = fleet.explain(get("http://a/")).await.expect("is a question").into_inner();
    assert_eq!((told.revision, told.listener.as_str()), (applied.revision, "web"));

    let mut proxy = control.proxy("p1", None).await;
    let update = proxy.follow_to(applied.revision).await;
    let snapshot = update.snapshot.expect("an update has one");
    assert_eq!((snapshot.epoch, snapshot.version), (told.epoch, told.version));
    proxy.report(Some(snapshot), 5).await;
    eventually("the report is told", async || {
        let told = fleet.clone().explain(get("http://a/")).await.expect("is a question");
        let Some(Outcome::Forward(forward)) = told.into_inner().outcome else {
            panic!("it is forwarded")
        };
        (forward.backend_sets[0].backends[0].in_flight == 5).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_question_that_makes_no_sense_is_refused_by_field() {
    let control = Control::in_memory();
    let mut fleet = control.fleet().await;
    let status = fleet.explain(get("http://a/")).await.expect_err("there is nothing");
    assert_eq!(status.code(), Code::InvalidArgument);
    assert_eq!(status.message(), "listener: there is no http listener; apply one first");

    fleet.apply(request(APP)).await.expect("is valid");
    let wrong = v1::ExplainRequest { method: "G T".into(), from: "x".into(), ..get("ftp://a/") };
    let status = fleet.explain(wrong).await.expect_err("makes no sense");
    assert_eq!(status.code(), Code::InvalidArgument);
    let fields: Vec<_> =
        status.message().lines().filter_map(|line| line.split(':').next()).collect();
    assert_eq!(fields, ["method", "url", "from"]);
}
