//! What `Explain` foretells is what a proxy does: for random requests, a random configuration and
//! backends in every state that they can be in.
//!
//! `LB_TEST_SEED` repeats a run; it is printed by each.

#[path = "explain/configuration.rs"]
mod configuration;
#[path = "explain/requests.rs"]
mod requests;

use std::collections::{BTreeMap, BTreeSet};

use integration_tests::{
    backend::{Backend, Gate, Reply},
    client::{self, Client, Request, Response},
    eventually::{eventually, holds},
    fleet::{Api, Fleet, app_with},
    ports::Port,
    setting,
};
use lb_common::clock;
use lb_proto::v1::{
    BackendSetVerdict, DrainBackendRequest, ExplainRequest, ExplainResponse, ForwardOutcome,
    Health, RefusalOutcome, explain_response::Outcome,
};

use configuration::{Configuration, DRAINED};
use requests::{Asked, SOURCES};

const REQUESTS: usize = 1_000;
const TOKEN: &str = "let-me-see";

#[tokio::test]
async fn a_thousand_random_requests_go_where_explain_says() {
    let seed = setting("LB_TEST_SEED", fastrand::u64(..));
    println!("LB_TEST_SEED={seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    let configuration = Configuration::random(&mut rng).await;
    let ports = [Port::reserve(), Port::reserve()];
    let mut fleet = Fleet::empty().await;
    let listen = format!("--listen=web={},inside={}", ports[0].address(), ports[1].address());
    fleet.add_proxy("p1", &[listen, format!("--explain-token={TOKEN}")]);
    fleet.apply(&configuration.toml).await;
    let mut api = fleet.api().await;
    drain(&mut api, DRAINED).await;
    configuration.is_decided(&fleet).await;
    fleet.settled(0).await;

    let started = clock::now();
    let mut clients = BTreeMap::new();
    let mut tally = Tally::default();
    for i in 0..REQUESTS {
        let asked = Asked::random(&configuration.routes, &mut rng);
        let told = api.explain(asked.explain()).await;
        let told = told.unwrap_or_else(|status| panic!("seed {seed}: {status} for {asked:?}"));
        let told = told.into_inner();

        let (source, address) = (SOURCES[asked.source], ports[asked.listener].address());
        let key = (asked.source, asked.listener);
        let mut client = match clients.remove(&key) {
            Some(client) => client,
            None => Client::connect_from(source, address).await,
        };
        let got = client.request_raw(asked.method, asked.bytes(TOKEN)).await;
        if got.header("connection") != Some("close") {
            clients.insert(key, client);
        }
        if let Err(difference) = compare(&told, &got, &mut tally) {
            panic!("seed {seed}, request {i}: {difference}\n{asked:#?}\n{told:#?}\n{got:#?}");
        }
    }
    println!("{REQUESTS} asked and sent in {:?}: {tally:#?}", clock::now() - started);
    tally.covers_everything();
}

/// What became of the requests.
#[derive(Debug, Default)]
struct Tally {
    versions: BTreeSet<(u64, u64)>,
    routes: BTreeSet<String>,
    refused: BTreeMap<String, usize>,
    redirects: usize,
    answers: usize,
    /// By how they balance.
    forwarded: BTreeMap<String, usize>,
    foretold_backends: usize,
    splits: usize,
    without_backend: usize,
    /// Backends that are used although their checks fail.
    held: usize,
    hashed_by: BTreeMap<String, usize>,
}

impl Tally {
    /// A test of a thousand requests that all get a 404 would show little.
    fn covers_everything(&self) {
        let Self { routes, refused, redirects, answers, forwarded, .. } = self;
        assert_eq!(self.versions.len(), 1, "nothing changed meanwhile: {self:?}");
        assert!(routes.len() >= 25, "only {} routes were taken: {self:?}", routes.len());
        for reason in ["no route matches", "more than one host", "no host"] {
            assert!(refused.contains_key(reason), "{self:?}");
        }
        assert!(*redirects > 0 && *answers > 0 && self.splits > 0, "{self:?}");
        assert!(forwarded.len() >= 3, "{self:?}");
        assert!(self.foretold_backends > 50, "{self:?}");
        assert!(self.hashed_by.len() >= 3, "{self:?}");
    }
}

/// Whether the proxy did what was foretold.
fn compare(told: &ExplainResponse, got: &Response, tally: &mut Tally) -> Result<(), String> {
    tally.versions.insert((told.epoch, told.version));
    let chosen: Vec<_> = told.routes.iter().filter(|route| route.chosen).collect();
    let route = chosen.first().map(|verdict| verdict.route.as_str());
    same("routes chosen", chosen.len().min(1), chosen.len())?;
    same("verdicts", configuration::ROUTES, told.routes.len())?;
    holds(told.routes.iter().all(|verdict| !verdict.why.is_empty()), || "no reason".into())?;
    tally.routes.extend(route.map(str::to_owned));

    // A head that is refused is not read for what else it asks.
    if let (Some(Outcome::Refusal(refusal)), None) = (&told.outcome, got.header("x-lb-explain")) {
        same("route", None, route)?;
        same("end of the connection", Some("close"), got.header("connection"))?;
        return same_refusal(refusal, got, tally);
    }
    // What the proxy says about itself agrees with what everybody can see of it.
    let said = got.header("x-lb-explain").ok_or("the proxy did not explain itself")?;
    let said: BTreeMap<_, _> = said.split("; ").filter_map(|part| part.split_once('=')).collect();
    let said = |key: &str| said.get(key).copied();
    same("version", Some(&*format!("{}.{}", told.epoch, told.version)), said("version"))?;
    same("listener", Some(told.listener.as_str()), said("listener"))?;
    same("route", route, said("route"))?;

    match told.outcome.as_ref().ok_or("no outcome")? {
        Outcome::Refusal(refusal) => same_refusal(refusal, got, tally)?,
        Outcome::Redirect(redirect) => {
            same("status", redirect.status, got.status().into())?;
            same("location", Some(redirect.location.as_str()), got.header("location"))?;
            holds(route.is_some_and(|route| redirect.location.contains(route)), || {
                "the location is another route's".into()
            })?;
            tally.redirects += 1;
        }
        Outcome::Answer(answer) => {
            same("status", answer.status, got.status().into())?;
            same("route", route, got.header("x-route"))?;
            let body = got.text();
            holds(body.is_empty() || body == answer.body, || format!("the body is {body:?}"))?;
            tally.answers += 1;
        }
        Outcome::Forward(ForwardOutcome { backend_sets }) => {
            let sum: f64 = backend_sets.iter().map(|set| set.share).sum();
            holds((sum - 1.0).abs() < 1e-9, || format!("shares make {sum}"))?;
            tally.splits += usize::from(backend_sets.len() > 1);
            let possible: Vec<_> = backend_sets.iter().filter(|set| set.share > 0.0).collect();
            let name = said("backend_set").ok_or("the proxy names no set")?;
            let set = possible.iter().find(|set| set.backend_set == name);
            let set = set.ok_or_else(|| format!("{name} was not among the sets"))?;
            same_backend(set, got, said("backend"), tally)?;
        }
    }
    Ok(())
}

fn same_refusal(refusal: &RefusalOutcome, got: &Response, tally: &mut Tally) -> Result<(), String> {
    same("status", refusal.status, got.status().into())?;
    let details = got.header("proxy-status").unwrap_or_default();
    holds(details.contains(&format!("details=\"{}\"", refusal.reason)), || {
        format!("told {:?}, got {details:?}", refusal.reason)
    })?;
    *tally.refused.entry(refusal.reason.clone()).or_default() += 1;
    Ok(())
}

fn same_backend(
    set: &BackendSetVerdict,
    got: &Response,
    said: Option<&str>,
    tally: &mut Tally,
) -> Result<(), String> {
    let eligible: Vec<_> = set.backends.iter().filter(|backend| backend.eligible).collect();
    for backend in &set.backends {
        // One that is used needs a reason only against what its checks say.
        let is_held = backend.why.starts_with("used although its checks fail: ");
        same(
            &format!("reason for {}, which is {:?}", backend.backend, backend.why),
            !backend.eligible,
            !(backend.why.is_empty() || is_held),
        )?;
        tally.held += usize::from(is_held);
    }
    if eligible.is_empty() {
        same("status", 503, got.status())?;
        same("error", Some("destination_unavailable"), got.proxy_error())?;
        same("pick", "", &set.pick)?;
        tally.without_backend += 1;
        return Ok(());
    }
    same("status", 200, got.status())?;
    let served_by = got.header("x-served-by").ok_or("no backend served it")?;
    let (of_set, backend) = served_by.split_once('/').ok_or("no set")?;
    same("backend set", set.backend_set.as_str(), of_set)?;
    same("backend, in its own words and the proxy's", Some(backend), said)?;
    holds(eligible.iter().any(|eligible| eligible.backend == backend), || {
        format!("{backend} is not eligible")
    })?;
    let is_hashed = set.balance == "consistent_hash";
    if is_hashed || eligible.len() == 1 {
        same("backend", set.pick.as_str(), backend)?;
        tally.foretold_backends += usize::from(is_hashed && eligible.len() > 1);
    } else {
        same("pick", "", &set.pick)?;
    }
    if is_hashed {
        let key = set.hash_key.split(':').next().unwrap_or_default();
        *tally.hashed_by.entry(key.into()).or_default() += 1;
    }
    *tally.forwarded.entry(set.balance.clone()).or_default() += 1;
    Ok(())
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, told: T, got: T) -> Result<(), String> {
    holds(told == got, || format!("{what}: told {told:?}, got {got:?}"))
}

/// Takes a backend out as an operator does, and waits until that is done.
async fn drain(api: &mut Api, (set, backend): (&str, &str)) {
    let request = DrainBackendRequest {
        backend_set: set.into(),
        backend: backend.into(),
        ..DrainBackendRequest::default()
    };
    let mut progress = api.drain_backend(request).await.expect("it is there").into_inner();
    while let Some(step) = progress.message().await.expect("the controller goes on") {
        assert!(!step.deadline_passed, "nobody uses it: {step:?}");
    }
}

#[tokio::test]
async fn a_backend_that_proxies_keep_out_or_are_busy_with_is_told() {
    let gate = Gate::closed();
    let hold = gate.clone();
    let busy = Backend::start(move |seen| match seen.head.target() {
        "/wait" => Reply::ok("busy").behind(&hold),
        _ => Reply::ok("busy"),
    })
    .await;
    let failing = Backend::start(|_| Reply::Close).await;
    let backends = format!(
        "{{ name = 'busy', address = '{}' }}, {{ name = 'failing', address = '{}' }}",
        busy.address(),
        failing.address(),
    );
    let set = "outlier_ejection = { consecutive_failures = 1 }";
    let fleet = Fleet::start(1, &app_with("", set, &backends)).await;
    let web = fleet.proxies[0].web();
    // They take turns. It is kept out by its failures as soon as the other one is known to do well.
    let is_out = |status: &lb_proto::v1::BackendStatus| !status.ejections.is_empty();
    eventually("it is kept out", async || {
        client::get(web, "/").await;
        let list = fleet.list_backends().await?;
        holds(list.iter().any(is_out), || format!("{list:?}"))
    })
    .await;
    let mut client = Client::connect(web).await;
    client.send(&Request::get("/wait")).await;
    busy.has_waiting(1).await;
    let api = fleet.api().await;
    eventually("the controller knows", async || {
        let request = ExplainRequest { url: "http://a/".into(), ..<_>::default() };
        let told = api.clone().explain(request).await.map_err(|status| status.to_string())?;
        let told = told.into_inner();
        let Some(Outcome::Forward(forward)) = &told.outcome else {
            return Err(format!("{told:?}"));
        };
        let backends = &forward.backend_sets[0].backends;
        let seen = |i: usize| (backends[i].in_flight, &backends[i].ejected_by[..]);
        let is_told = seen(0) == (1, &[]) && seen(1) == (0, &["p1".to_owned()]);
        holds(is_told, || format!("{told:#?}"))
    })
    .await;
    gate.open();
}

/// Until the controller has decided about every backend that it probes.
impl Configuration {
    async fn is_decided(&self, fleet: &Fleet) {
        eventually("every probe has concluded as it should", async || {
            for status in fleet.list_backends().await? {
                let name = (status.backend_set.clone(), status.backend.clone());
                let Some(healthy) = self.probed.get(&name) else { continue };
                let expected = if *healthy { Health::Healthy } else { Health::Unhealthy };
                holds(status.health() == expected, || format!("{status:?}"))?;
            }
            Ok::<_, String>(())
        })
        .await;
    }
}
