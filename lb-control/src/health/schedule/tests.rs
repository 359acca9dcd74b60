use super::*;

const INTERVAL: Duration = Duration::from_secs(10);
const ROOM: usize = 60;

struct Fixture {
    schedule: Schedule,
    rng: fastrand::Rng,
    now: Instant,
}

impl Fixture {
    fn new() -> Self {
        let mut schedule = Schedule::default();
        schedule.set_room(ROOM);
        let now = lb_common::clock::now();
        Self { schedule, rng: fastrand::Rng::with_seed(1), now }
    }

    fn add(&mut self, set: &str, count: usize) -> Vec<TargetId> {
        let set = BackendSetName::new(set).expect("a valid name");
        (0..count).map(|_| self.schedule.add(&set, INTERVAL, self.now)).collect()
    }

    fn start_all(&mut self) -> Vec<TargetId> {
        std::iter::from_fn(|| self.schedule.start(self.now)).map(|start| start.id).collect()
    }

    fn finish(&mut self, id: TargetId) {
        self.schedule.finish(id, self.now, &mut self.rng);
    }

    fn finish_all(&mut self, ids: impl IntoIterator<Item = TargetId>) {
        ids.into_iter().for_each(|id| self.finish(id));
    }
}

#[test]
fn the_first_probe_is_due_at_once_and_is_alone() {
    let mut f = Fixture::new();
    let added = f.add("a", 1);
    assert_eq!(f.start_all(), added);
    f.now += INTERVAL * 5;
    assert_eq!(f.start_all(), [], "the first one is still in flight");
}

#[test]
fn first_probes_of_many_are_spread_and_one_that_comes_later_waits_for_none_of_them() {
    let mut f = Fixture::new();
    f.add("a", 1_000);
    f.now += PACE * 20;
    assert_eq!(f.start_all().len(), 21);
    f.now += Duration::from_secs(1);
    f.add("b", 1);
    let last = f.schedule.waiting.last().map(|(due, _)| *due);
    assert_eq!(last, Some(f.now), "it is due at once");
}

#[test]
fn probes_follow_each_other_an_interval_apart_give_or_take_a_tenth() {
    let mut f = Fixture::new();
    let added = f.add("a", 1);
    let mut gaps = Vec::new();
    for _ in 0..200 {
        assert_eq!(f.start_all(), added);
        let started = f.now;
        f.now += Duration::from_millis(300);
        f.finish(added[0]);
        f.now = f.schedule.next_due().expect("it is waiting");
        gaps.push((f.now - started).as_secs_f64());
    }
    assert!(gaps.iter().all(|gap| (9.0..=11.0).contains(gap)), "{gaps:?}");
    let spread = gaps.iter().filter(|gap| **gap < 9.5 || **gap > 10.5).count();
    assert!(spread > 50, "half of them are that far out: {spread}");
}

#[test]
fn a_probe_that_outlasts_its_interval_is_followed_at_once() {
    let mut f = Fixture::new();
    let added = f.add("a", 1);
    f.start_all();
    f.now += INTERVAL * 3;
    f.finish(added[0]);
    assert_eq!(f.schedule.next_due(), Some(f.now));
}

#[test]
fn a_start_says_since_when_it_is_due() {
    let mut f = Fixture::new();
    f.add("a", 1);
    let due = f.now;
    f.now += Duration::from_secs(1);
    assert_eq!(f.schedule.start(f.now).map(|start| start.due), Some(due));
}

#[test]
fn a_set_that_gets_no_answers_leaves_as_much_room_as_it_takes() {
    let mut f = Fixture::new();
    f.add("holes", ROOM * 2);
    f.now += INTERVAL;
    assert_eq!(f.start_all().len(), ROOM / 2);
    assert_eq!(f.schedule.next_due(), None, "nothing can start before one ends");
    f.add("more_holes", ROOM * 2);
    f.now += INTERVAL;
    assert_eq!(f.start_all().len(), ROOM / 4);
    let well = f.add("well", 10);
    f.now += INTERVAL;
    assert_eq!(f.start_all(), well[..8], "half of what the two left");
    f.finish_all(well[..4].to_vec());
    assert_eq!(f.start_all(), well[8..], "as soon as answers come");
}

#[test]
fn what_a_set_holds_back_goes_on_in_order_when_one_of_its_own_or_of_another_ends() {
    let mut f = Fixture::new();
    let holes = f.add("holes", ROOM);
    f.now += INTERVAL;
    assert_eq!(f.start_all(), holes[..30]);
    let well = f.add("well", 2);
    f.now += INTERVAL;
    assert_eq!(f.start_all(), well);
    f.finish(holes[7]);
    assert_eq!(f.start_all(), [], "the other set has taken of its share");
    f.finish_all([holes[0], holes[1]]);
    assert_eq!(f.start_all(), holes[30..32]);
    f.finish_all(well);
    assert_eq!(f.start_all(), holes[32..33]);
}

#[test]
fn the_set_with_the_fewest_probes_under_way_goes_on_first() {
    let mut f = Fixture::new();
    let one = f.add("one", ROOM);
    f.now += INTERVAL;
    f.start_all();
    let two = f.add("two", ROOM);
    f.now += INTERVAL;
    assert_eq!(f.start_all(), two[..15]);
    f.finish_all([one[0], one[1], one[2], one[3]]);
    let started = f.start_all();
    assert!(!started.is_empty() && started.iter().all(|id| two.contains(id)), "{started:?}");
}

/// How late the latest probe was of backends that answer, by set, beside a thousand that do not:
/// half of them in a set of their own, half among others.
fn lateness_beside_black_holes(room: usize) -> HashMap<&'static str, Duration> {
    const TICK: Duration = Duration::from_millis(1);
    const TIMEOUT: Duration = Duration::from_millis(2_500);
    let mut f = Fixture::new();
    f.schedule.set_room(room);
    let holes = f.add("holes", 500).into_iter().chain(f.add("mixed", 500));
    let mut sets: HashMap<_, _> = holes.map(|id| (id, "holes")).collect();
    sets.extend(f.add("mixed", 500).into_iter().map(|id| (id, "mixed")));
    for set in 0..10 {
        let well = f.add(&format!("well{set}"), 100);
        sets.extend(well.into_iter().map(|id| (id, "well")));
    }
    let mut ends = BTreeSet::new();
    let mut worst = HashMap::new();
    for _ in 0..60_000 {
        f.now += TICK;
        while ends.first().is_some_and(|(end, _)| *end <= f.now) {
            let (_, id) = ends.pop_first().expect("there is one");
            f.finish(id);
        }
        while let Some(Start { id, due }) = f.schedule.start(f.now) {
            let takes = if sets[&id] == "holes" { TIMEOUT } else { TICK };
            ends.insert((f.now + takes, id));
            let worst: &mut Duration = worst.entry(sets[&id]).or_default();
            *worst = (*worst).max(f.now - due);
        }
    }
    worst
}

#[test]
fn a_thousand_black_holes_delay_nobody_while_there_is_room() {
    let worst = lateness_beside_black_holes(CONCURRENT);
    assert!(worst.values().all(|late| late.as_millis() <= 1), "{worst:?}");
}

/// All of them would take 250 places.
#[test]
fn black_holes_that_would_take_all_delay_their_own_sets_alone() {
    let worst = lateness_beside_black_holes(200);
    assert!(worst["well"].as_millis() <= 1, "{worst:?}");
    assert!(worst["mixed"].as_millis() > 1, "{worst:?}");
}

#[test]
fn a_set_always_gets_one_probe_while_there_is_room() {
    let mut f = Fixture::new();
    for set in 0..ROOM + 5 {
        f.add(&format!("s{set}"), 2);
    }
    f.now += INTERVAL;
    let started = f.start_all();
    assert_eq!(started.len(), ROOM, "no more than that are in flight");
    f.finish(started[0]);
    assert_eq!(f.start_all().len(), 1);
}

#[test]
fn a_target_that_went_is_not_probed_but_counts_until_its_probe_ends() {
    let mut f = Fixture::new();
    let waiting = f.add("a", 1);
    f.schedule.remove(waiting[0]);
    assert_eq!((f.start_all(), f.schedule.next_due()), (vec![], None));

    f.add("a", 40);
    f.now += INTERVAL;
    let started = f.start_all();
    started.iter().for_each(|id| f.schedule.remove(*id));
    f.add("a", 1);
    f.now += INTERVAL;
    assert_eq!(f.start_all(), [], "its set has its share still");
    f.finish_all(started);
    assert_eq!(f.start_all().len(), 11);
    assert_eq!(f.schedule.targets.len(), 11, "none came back");
}

#[test]
fn what_is_held_back_and_goes_is_not_probed_and_nothing_is_left_of_its_set() {
    let mut f = Fixture::new();
    let ids = f.add("a", ROOM);
    f.now += INTERVAL;
    let started = f.start_all();
    ids.iter().for_each(|id| f.schedule.remove(*id));
    f.finish_all(started);
    assert_eq!((f.start_all(), f.schedule.in_flight()), (vec![], 0));
    assert!(f.schedule.sets.is_empty() && f.schedule.ids.is_empty());
    assert!(f.schedule.holding.is_empty());
}

#[test]
fn targets_are_shared_out_evenly_however_large_their_sets_are() {
    for (many, of_each_set) in (2..=4).flat_map(|many| (1..=8).map(move |size| (many, size))) {
        let mut f = Fixture::new();
        let mut shares = vec![0_usize; many];
        for set in 0..3_000 / of_each_set {
            f.add(&format!("s{set}"), of_each_set).iter().for_each(|id| shares[id.of(many)] += 1);
        }
        let fair = shares.iter().sum::<usize>() / many;
        let is_fair = |share: &usize| share.abs_diff(fair) <= fair / 20;
        assert!(shares.iter().all(is_fair), "{of_each_set} of each set: {shares:?}");
    }
}
