use super::*;
use crate::desired::tests::state;

const WALL: Duration = Duration::from_secs(1_700_000_000);

struct Fixture {
    monitor: Monitor,
    now: Instant,
}

impl Fixture {
    fn new(stored: Vec<v1::BackendStatus>, desired: &str) -> Self {
        let monitor = Monitor::new(stored, fastrand::Rng::with_seed(1));
        let mut fixture = Self { monitor, now: lb_common::clock::now() };
        fixture.sync(desired);
        fixture
    }

    fn sync(&mut self, desired: &str) {
        self.monitor.sync(&state(desired), &Materials::new(), self.now);
    }

    /// What the store would have after what it was not told yet.
    fn stored(&mut self) -> Vec<v1::BackendStatus> {
        self.monitor.unstored().into_iter().filter_map(|verdict| verdict.status).collect()
    }

    /// Lets time pass, makes every probe that is due, and returns the addresses.
    fn round(&mut self, outcome: impl Into<Option<Outcome>> + Copy) -> Vec<String> {
        self.now += Duration::from_secs(10);
        let jobs: Vec<_> = std::iter::from_fn(|| self.monitor.start(self.now)).collect();
        for job in &jobs {
            self.finish(job, outcome);
        }
        jobs.iter().map(|job| job.address.to_string()).collect()
    }

    /// Returns what that decided: `one HEALTHY`, `one UNHEALTHY held`, `app held`, `all mended`.
    fn finish(&mut self, job: &Job, outcome: impl Into<Option<Outcome>>) -> Vec<String> {
        let outcome = outcome.into();
        let finding = Finding { outcome, detail: "said so".into(), took: Duration::ZERO };
        self.monitor.observe(job.id, finding, self.now, WALL);
        self.news()
    }

    fn news(&mut self) -> Vec<String> {
        let words = |news| match news {
            News::Health(change) => {
                let held = if change.held.is_empty() { "" } else { " held" };
                format!("{} {}{held}", change.backend, change.health().as_str_name())
            }
            News::Checks(v1::ChecksChanged { what, backend_set, .. }) => {
                format!("{} {what}", if backend_set.is_empty() { "all" } else { &backend_set })
            }
            other => panic!("not of health: {other:?}"),
        };
        self.monitor.news().into_iter().map(words).collect()
    }

    /// Makes a probe of each backend of `app` that is due, in the order of their names: `.` passes, `x`
    /// fails. Returns what that decided.
    fn probe(&mut self, outcomes: &str) -> Vec<String> {
        self.now += Duration::from_secs(10);
        let jobs: Vec<_> = std::iter::from_fn(|| self.monitor.start(self.now)).collect();
        let named = jobs.into_iter().map(|job| (self.monitor.keys[&job.id].1.clone(), job));
        let jobs: HashMap<_, _> = named.collect();
        let mut names: Vec<_> = jobs.keys().cloned().collect();
        names.sort();
        assert_eq!(names.len(), outcomes.len(), "all are due");
        let outcome = |letter| if letter == '.' { Outcome::Pass } else { Outcome::Fail };
        let probes = names.iter().zip(outcomes.chars());
        probes.flat_map(|(name, letter)| self.finish(&jobs[name], outcome(letter))).collect()
    }

    fn unhealthy(&self) -> Vec<String> {
        let unhealthy = self.monitor.unhealthy();
        let names = unhealthy.iter().flat_map(|(_, names)| &**names);
        names.map(ToString::to_string).collect()
    }
}

/// One set of these backends, with a check that one failure decides, of however many.
fn app(backends: &str) -> String {
    checked("max_unhealthy_percent = 100", backends)
}

fn checked(check: &str, backends: &str) -> String {
    let counts = match check.contains("healthy_after") {
        true => "",
        false => "unhealthy_after = 1, healthy_after = 2, ",
    };
    format!(
        "backend_sets = [{{ name = 'app', health_check = {{ tcp = true, {counts}{check} }}, \
         backends = [{backends}] }}]"
    )
}

/// So many backends, `a`, `b`, ..
fn many(count: u8) -> String {
    let one = |i| format!("{{ name = '{}', address = '1.1.1.1:{}' }}", char::from(b'a' + i), i + 1);
    (0..count).map(one).collect::<Vec<_>>().join(", ")
}

const ONE: &str = "{ name = 'one', address = '1.1.1.1:1' }";
const TWO: &str = "{ name = 'two', address = '1.1.1.1:2' }";

#[test]
fn an_unrelated_change_leaves_a_target_alone() {
    let mut f = Fixture::new(vec![], &app(ONE));
    f.round(Outcome::Fail);
    let running = {
        f.now += Duration::from_secs(10);
        f.monitor.start(f.now).expect("is due")
    };
    f.monitor.unstored();
    f.sync(&app(&format!("{ONE}, {TWO}")));
    assert_eq!(f.monitor.unstored().len(), 0, "nothing is forgotten");
    assert_eq!(f.unhealthy(), ["one"]);
    f.finish(&running, Outcome::Pass);
    f.round(Outcome::Pass);
    assert_eq!(f.unhealthy(), [""; 0], "the probe under way counted");
}

#[test]
fn a_probe_that_could_not_be_made_decides_nothing() {
    let mut f = Fixture::new(vec![], &app(ONE));
    f.round(None);
    assert_eq!(f.unhealthy(), [""; 0], "one failure would have decided it");
    f.round(Outcome::Fail);
    f.round(Outcome::Pass);
    f.round(None);
    f.round(Outcome::Pass);
    assert_eq!(f.unhealthy(), [""; 0], "it did not interrupt what two passes said");
    assert_eq!(f.monitor.probe_counts().values().map(|counts| counts.not_made).sum::<u64>(), 2);
}

#[test]
fn another_address_is_another_backend() {
    let mut f = Fixture::new(vec![], &app(ONE));
    f.round(Outcome::Fail);
    f.sync(&app("{ name = 'one', address = '1.1.1.1:9' }"));
    assert_eq!(f.unhealthy(), [""; 0]);
    assert_eq!(f.round(Outcome::Pass), ["1.1.1.1:9"]);
}

#[test]
fn another_check_keeps_what_was_decided_and_asks_at_once() {
    let mut f = Fixture::new(vec![], &app(ONE));
    f.round(Outcome::Fail);
    let late = {
        f.now += Duration::from_secs(10);
        f.monitor.start(f.now).expect("is due")
    };
    f.sync(&app(ONE).replace("tcp = true", "http = '/up'"));
    assert_eq!(f.unhealthy(), ["one"]);
    assert_eq!(f.finish(&late, Outcome::Pass), [""; 0], "it asked for something else");
    assert_eq!(f.monitor.next_due(), Some(f.now));
}

#[test]
fn draining_backends_are_probed_and_disabled_ones_are_not() {
    let backends = format!(
        "{{ name = 'one', address = '1.1.1.1:1', state = 'draining' }}, {}",
        "{ name = 'two', address = '1.1.1.1:2', state = 'disabled' }"
    );
    let mut f = Fixture::new(vec![], &app(&backends));
    assert_eq!(f.round(Outcome::Pass), ["1.1.1.1:1"]);
}

#[test]
fn what_was_stored_holds_until_a_full_streak_unless_the_address_is_another() {
    let mut f = Fixture::new(vec![], &app(&format!("{ONE}, {TWO}")));
    f.probe("x.");
    let stored = f.stored();
    assert_eq!(stored.len(), 2);
    assert_eq!(f.monitor.unstored().len(), 0, "each is told once");

    let moved = "{ name = 'two', address = '1.1.1.1:9' }";
    let mut f = Fixture::new(stored, &app(&format!("{ONE}, {moved}")));
    assert_eq!(f.unhealthy(), ["one"]);
    f.round(Outcome::Pass);
    assert_eq!(f.unhealthy(), ["one"], "one pass is not two");
    f.round(Outcome::Pass);
    assert_eq!(f.unhealthy(), [""; 0]);
}

#[test]
fn what_the_store_could_not_take_is_told_again_as_it_is_then() {
    let mut f = Fixture::new(vec![], &app(ONE));
    f.round(Outcome::Fail);
    let failed = f.monitor.unstored();
    f.round(Outcome::Pass);
    f.round(Outcome::Pass);
    f.monitor.put_back(failed);
    let told = f.stored();
    let health: Vec<_> = told.iter().map(v1::BackendStatus::health).collect();
    assert_eq!(health, [v1::Health::Healthy]);
}

#[test]
fn a_set_that_loses_its_check_uses_all_of_its_backends() {
    let mut f = Fixture::new(vec![], &app(ONE));
    f.round(Outcome::Fail);
    f.monitor.unstored();
    f.sync(&format!("backend_sets = [{{ name = 'app', backends = [{ONE}] }}]"));
    let forgotten = f.monitor.unstored();
    assert!(forgotten.len() == 1 && forgotten[0].status.is_none(), "{forgotten:?}");
    assert_eq!((f.unhealthy(), f.monitor.next_due()), (vec![], None));
}

#[test]
fn the_first_decision_and_flips_are_told_once() {
    let mut f = Fixture::new(vec![], &app(ONE));
    let mut told = Vec::new();
    for outcome in [Outcome::Pass, Outcome::Pass, Outcome::Fail, Outcome::Fail] {
        f.now += Duration::from_secs(10);
        let job = f.monitor.start(f.now).expect("is due");
        told.push(f.finish(&job, outcome).join(", "));
    }
    assert_eq!(told, ["one HEALTHY", "", "one UNHEALTHY", ""]);
}

#[test]
fn what_fails_beyond_a_share_of_the_set_is_held_and_told() {
    let mut f = Fixture::new(vec![], &checked("", &many(4)));
    f.probe("....");
    assert_eq!(f.probe("x..."), ["a UNHEALTHY"]);
    assert_eq!(f.probe("xxx."), ["b UNHEALTHY", "app held", "c UNHEALTHY held"]);
    assert_eq!(f.unhealthy(), ["a", "b"]);
    assert_eq!(f.monitor.held(&BackendSetName::new("app").expect("a name")), 1);
    let desired = state(&checked("", &many(4)));
    let set = &desired.backend_sets["app"];
    let status = f.monitor.status(set, &set.backends[2]);
    assert_eq!(status.health(), v1::Health::Unhealthy);
    assert_eq!(status.held, "2 of 4 are out already, and max_unhealthy_percent is 50");
    // Who comes back makes room for who is held.
    f.probe(".xx.");
    let told = f.probe(".xx.");
    assert_eq!(told, ["app mended", "c UNHEALTHY", "a HEALTHY"]);
    assert_eq!(f.unhealthy(), ["b", "c"]);
}

#[test]
fn a_set_of_one_is_never_emptied() {
    let mut f = Fixture::new(vec![], &checked("", ONE));
    assert_eq!(f.probe("x"), ["app held", "one UNHEALTHY held"]);
    assert_eq!(f.unhealthy(), [""; 0]);
    f.probe(".");
    assert_eq!(f.probe("."), ["app mended", "one HEALTHY"]);
}

#[test]
fn a_controller_that_reaches_nobody_takes_nobody_out_and_counts_anew_afterwards() {
    let check = "max_unhealthy_percent = 100, unhealthy_after = 3, healthy_after = 2";
    let mut f = Fixture::new(vec![], &checked(check, &many(4)));
    f.probe("....");
    f.probe("x...");
    f.probe("x...");
    f.probe("x...");
    assert_eq!(f.unhealthy(), ["a"]);
    assert_eq!(f.probe("xxxx"), ["all held"]);
    for _ in 0..5 {
        assert_eq!(f.probe("xxxx"), [""; 0], "one news is enough");
    }
    assert_eq!(f.unhealthy(), ["a"], "who was out before stays out");
    assert_eq!(f.probe(".xxx"), ["all mended"]);
    let desired = state(&checked(check, &many(4)));
    let set = &desired.backend_sets["app"];
    let status = f.monitor.status(set, &set.backends[3]);
    assert_eq!((status.health(), status.since), (v1::Health::Healthy, None));
    assert_eq!(status.why, "", "not why it failed");
    assert_eq!(f.probe(".xx."), ["a HEALTHY"]);
    assert_eq!(f.unhealthy(), [""; 0], "they have failed once or twice since then");
    assert_eq!(f.probe(".xx."), ["b UNHEALTHY", "c UNHEALTHY"]);
    assert_eq!(f.unhealthy(), ["b", "c"]);
}

#[test]
fn what_is_held_is_for_the_next_controller_as_it_was() {
    let text = checked("", &many(2));
    let mut f = Fixture::new(vec![], &text);
    f.probe("..");
    f.probe(".x");
    f.probe("xx");
    assert_eq!(f.unhealthy(), ["b"]);
    let mut f = Fixture::new(f.stored(), &text);
    assert_eq!(f.unhealthy(), ["b"]);
    assert_eq!(f.probe("x."), ["app held", "a UNHEALTHY held"], "it is to be found out anew");
    assert_eq!(f.unhealthy(), ["b"]);
}

#[test]
fn backends_that_must_prove_themselves_are_out_and_take_no_room() {
    let mut f = Fixture::new(vec![], &checked("prove_first = true", &many(4)));
    assert_eq!(f.unhealthy(), ["a", "b", "c", "d"]);
    f.probe("..xx");
    f.probe("..xx");
    assert_eq!(f.unhealthy(), ["c", "d"]);
    f.probe("x.xx");
    assert_eq!(f.unhealthy(), ["a", "c", "d"], "one of two may go");
    f.probe("x.x.");
    f.probe("xxx.");
    assert_eq!(f.unhealthy(), ["a", "c"], "and not both of three");
}

#[test]
fn who_gets_no_traffic_does_not_count_for_the_share() {
    let draining = many(4).replace("1:1' }", "1:1', state = 'draining' }");
    let draining = draining.replace("1:2' }", "1:2', weight = 0 }");
    let mut f = Fixture::new(vec![], &checked("", &draining));
    f.probe("....");
    f.probe("xxx.");
    assert_eq!(f.unhealthy(), ["a", "b", "c"]);
    assert_eq!(f.probe("xx.x"), ["app held", "d UNHEALTHY held"], "c is to pass once more");
}

#[test]
fn a_status_says_why_nothing_is_known() {
    let desired = state(&app(ONE));
    let f = Fixture::new(vec![], &app(ONE));
    let set = &desired.backend_sets["app"];
    let status = f.monitor.status(set, &set.backends[0]);
    assert_eq!(status.health(), v1::Health::Unknown);
    assert_eq!(status.why, "no probe has concluded yet");
    let unchecked = BackendSet { health_check: None, ..BackendSet::clone(set) };
    let f = Fixture::new(vec![], "");
    let status = f.monitor.status(&unchecked, &set.backends[0]);
    assert_eq!(status.why, "no health check");
}

#[test]
fn who_proved_itself_once_counts_for_the_share_after_a_restart_too() {
    let text = checked("prove_first = true", &many(4));
    let mut f = Fixture::new(vec![], &text);
    f.probe("....");
    f.probe("....");
    f.probe("xx..");
    let mut f = Fixture::new(f.stored(), &text);
    assert_eq!(f.unhealthy(), ["a", "b"]);
    assert_eq!(f.probe("xxx."), ["app held", "c UNHEALTHY held"]);
}

#[test]
fn a_check_that_cannot_be_made_does_not_hide_that_nobody_is_reached() {
    let check = "max_unhealthy_percent = 100, unhealthy_after = 2, healthy_after = 2";
    let mut f = Fixture::new(vec![], &checked(check, &many(3)));
    f.now += Duration::from_secs(10);
    let mut jobs: Vec<_> = std::iter::from_fn(|| f.monitor.start(f.now)).collect();
    jobs.sort_by_key(|job| job.address);
    f.finish(&jobs[0], None);
    f.finish(&jobs[1], Outcome::Fail);
    assert_eq!(f.finish(&jobs[2], Outcome::Fail), ["all held"]);
}
