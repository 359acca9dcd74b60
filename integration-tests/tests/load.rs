//! What the controller says of the fleet's traffic, from what proxies report.

use std::time::Duration;

use integration_tests::{
    backend::{Backend, Reply},
    eventually::{eventually, holds},
    fleet::{Fleet, app},
    wrk::Wrk,
};
use lb_proto::v1::{ListBackendsRequest, ListBackendsResponse, Load};

async fn list(fleet: &Fleet) -> Result<ListBackendsResponse, String> {
    let listed = fleet.api().await.list_backends(ListBackendsRequest::default()).await;
    listed.map(tonic::Response::into_inner).map_err(|status| status.to_string())
}

fn is_idle(load: &Option<Load>) -> bool {
    *load == Some(Load::default())
}

#[tokio::test]
async fn the_controller_knows_how_much_goes_where_and_forgets_it_when_it_ends() {
    let backend = Backend::start(|seen| match seen.head.target() {
        "/500" => Reply::status(500, ""),
        _ => Reply::ok(""),
    })
    .await;
    let no_ejection = "outlier_ejection = { disabled = true }";
    let fleet = Fleet::start(2, &app("", no_ejection, &[backend.address()])).await;
    fleet.settled(1).await;
    let proxy = &fleet.proxies[0];
    let pause = Duration::from_millis(10);
    let good = Wrk { pause, ..Wrk::new(proxy.web()) };
    let bad = Wrk { path: "/500", connections: 2, ..good };
    let (good, bad) = (good.start(fleet.dir()), bad.start(fleet.dir()));

    eventually("the load is of the one proxy, and adds up", async || {
        let proxies = fleet.list_proxies().await?;
        let [own, idle] = &proxies.proxies[..] else { panic!("two proxies: {proxies:?}") };
        let backends = list(&fleet).await?;
        let (set, backend) = (&backends.backend_sets[0], &backends.backends[0]);
        let loads = [&own.load, &proxies.load, &set.load, &backend.load];
        // They are of one moment each, and of three different ones.
        let all_busy = loads.iter().all(|load| {
            load.as_ref().is_some_and(|load| {
                let errors = load.errors_per_second / load.requests_per_second;
                load.requests_per_second > 50.0
                    && (0.1..0.3).contains(&errors)
                    && load.p50.is_some()
                    && load.p99.is_some()
            })
        });
        let of_one = is_idle(&idle.load) && own.connections == 10 && idle.connections == 0;
        let counts = (set.backends, set.usable, set.balance.as_str()) == (1, 1, "round_robin");
        holds(all_busy && of_one && counts, || format!("{proxies:#?}\n{backends:#?}"))
    })
    .await;
    let loads = fleet.list_proxies().await.expect("it was there before");
    println!("{:#?}\n{}{}", loads.load, good.stop().await.text, bad.stop().await.text);

    eventually("all is quiet", async || {
        let proxies = fleet.list_proxies().await?;
        let backends = list(&fleet).await?;
        let quiet = proxies.proxies.iter().all(|p| is_idle(&p.load) && p.connections == 0)
            && [&proxies.load, &backends.backend_sets[0].load, &backends.backends[0].load]
                .into_iter()
                .all(is_idle);
        holds(quiet, || format!("{proxies:#?}\n{backends:#?}"))
    })
    .await;
}

#[tokio::test]
async fn a_proxy_that_is_gone_has_no_load() {
    let backend = Backend::named("here").await;
    let mut fleet = Fleet::start(2, &app("", "", &[backend.address()])).await;
    fleet.settled(1).await;
    fleet.proxies[0].kill();
    eventually("it is gone", async || {
        let list = fleet.list_proxies().await?.proxies;
        let loads: Vec<_> = list.iter().map(|proxy| proxy.load.is_some()).collect();
        holds(loads == [false, true], || format!("{list:?}"))
    })
    .await;
}
