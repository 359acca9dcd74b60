//! When a certificate is ordered. Pure: the time and the random source are arguments.

use std::time::Duration;

use lb_tls::certificate::Facts;

/// Before the second try, if nothing says otherwise.
const FIRST_PAUSE: Duration = Duration::from_secs(60);
const LEAST_PAUSE: Duration = Duration::from_secs(1);
/// Between the controller's clock and a CA's.
const CLOCKS_DIFFER: Duration = Duration::from_secs(3600);
/// Between two tries, at most.
const MOST_PAUSE: Duration = Duration::from_secs(24 * 3600);

/// When a third of its lifetime is left, or up to a thirtieth of it earlier. That part is taken from the
/// certificate's own fingerprint: it is the same at each look and after a restart, and those that were
/// issued together are not renewed together.
pub fn renewal(facts: &Facts) -> Duration {
    let lifetime = lifetime(facts);
    let drawn = facts.fingerprint.get(..8).and_then(|digits| u32::from_str_radix(digits, 16).ok());
    let part = f64::from(drawn.unwrap_or(0)) / f64::from(u32::MAX);
    facts.not_after.saturating_sub(lifetime / 3 + (lifetime / 30).mul_f64(part))
}

/// Before the next try after so many failures in a row: from a minute to a day, doubling, and the upper
/// half of that at random. One that lives for days only is tried more often. `asked` is what the CA asks
/// for.
pub fn pause(
    failures: u32,
    facts: Option<&Facts>,
    asked: Option<Duration>,
    rng: &mut fastrand::Rng,
) -> Duration {
    let lifetime = facts.map(lifetime);
    let first =
        lifetime.map_or(FIRST_PAUSE, |lifetime| (lifetime / 60).clamp(LEAST_PAUSE, FIRST_PAUSE));
    let most = lifetime.map_or(MOST_PAUSE, |lifetime| (lifetime / 10).clamp(first, MOST_PAUSE));
    let doubled = first.saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1)));
    let ceiling = doubled.min(most);
    let drawn = ceiling / 2 + (ceiling / 2).mul_f64(rng.f64());
    drawn.max(asked.unwrap_or_default().min(MOST_PAUSE))
}

/// Before the next order after one that succeeded, whatever the certificate says of itself: where clocks
/// disagree, what was just issued may look as if its time were over.
pub fn rest(facts: &Facts) -> Duration {
    (lifetime(facts) / 3).max(LEAST_PAUSE)
}

/// Whether it can be used now. Two clocks may differ a little, and a CA says that it was valid before.
pub fn is_valid(facts: &Facts, wall: Duration) -> bool {
    facts.not_before <= wall + CLOCKS_DIFFER && wall < facts.not_after
}

/// No pause and no rest is longer.
pub fn longest(facts: Option<&Facts>) -> Duration {
    facts.map_or(MOST_PAUSE, |facts| rest(facts).max(MOST_PAUSE))
}

fn lifetime(facts: &Facts) -> Duration {
    facts.not_after.saturating_sub(facts.not_before)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    fn lived(lifetime: Duration, fingerprint: &str) -> Facts {
        Facts {
            subject: String::new(),
            names: Vec::new(),
            identities: Vec::new(),
            issuer: String::new(),
            serial: String::new(),
            not_before: 1000 * DAY,
            not_after: 1000 * DAY + lifetime,
            fingerprint: fingerprint.into(),
            kind: "ecdsa",
        }
    }

    #[test]
    fn a_certificate_is_renewed_when_a_third_of_its_lifetime_is_left_or_a_little_earlier() {
        let begin = 1000 * DAY;
        let renewed =
            |lifetime, fingerprint| renewal(&lived(lifetime, fingerprint)).saturating_sub(begin);
        assert_eq!(renewed(90 * DAY, "00000000aa"), 60 * DAY);
        assert_eq!(renewed(90 * DAY, "ffffffffaa"), 57 * DAY);
        let between = renewed(90 * DAY, "80000000aa");
        assert!((58 * DAY..59 * DAY).contains(&between), "{between:?}");
        assert_eq!(renewed(Duration::from_secs(30), "00000000aa"), Duration::from_secs(20));
    }

    /// The least and the most of many pauses.
    fn pauses(failures: u32, facts: Option<&Facts>, asked: Option<Duration>) -> (u64, u64) {
        let mut rng = fastrand::Rng::with_seed(1);
        let drawn = (0..1000).map(|_| pause(failures, facts, asked, &mut rng).as_secs());
        let drawn: Vec<_> = drawn.collect();
        (*drawn.iter().min().expect("some"), *drawn.iter().max().expect("some"))
    }

    #[test]
    fn what_is_over_or_has_not_begun_is_not_taken() {
        let (issued, begin, hour) = (lived(DAY, "00"), 1000 * DAY, CLOCKS_DIFFER);
        let second = Duration::from_secs(1);
        for (wall, is_taken) in [
            (begin - hour - second, false),
            (begin - hour, true),
            (begin + DAY - second, true),
            (begin + DAY, false),
        ] {
            assert_eq!(is_valid(&issued, wall), is_taken, "{wall:?}");
        }
    }

    #[test]
    fn failures_are_followed_by_longer_and_longer_pauses_up_to_a_day() {
        let day = DAY.as_secs();
        assert_eq!(pauses(1, None, None), (30, 59));
        assert_eq!(pauses(2, None, None), (60, 119));
        let (least, most) = pauses(12, None, None);
        assert!((day / 2..day / 2 + 200).contains(&least) && (day - 200..day).contains(&most));
        assert_eq!(pauses(u32::MAX, None, None), (least, most));
        let long = lived(90 * DAY, "00");
        assert_eq!(pauses(1, Some(&long), None), (30, 59));
    }

    #[test]
    fn one_that_lives_for_a_minute_is_tried_again_in_time() {
        let short = lived(Duration::from_secs(60), "00");
        let mut rng = fastrand::Rng::with_seed(1);
        for failures in 1..50 {
            let pause = pause(failures, Some(&short), None, &mut rng);
            assert!(pause <= Duration::from_secs(6), "{failures}: {pause:?}");
        }
    }

    #[test]
    fn a_ca_that_asks_for_more_time_gets_it_for_a_day_at_most() {
        let hour = Duration::from_secs(3600);
        assert_eq!(pauses(1, None, Some(hour)), (3600, 3600));
        assert_eq!(pauses(1, None, Some(400 * DAY)), (DAY.as_secs(), DAY.as_secs()));
        assert_eq!(pauses(1, None, Some(Duration::from_secs(1))), (30, 59));
    }
}
