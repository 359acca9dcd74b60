//! How far checks may go: a check that fails says that a backend is unwell, or that whoever checks
//! cannot reach it. Taking most of a set out for the second reason is worse than any outage, so beyond
//! a share of the set what is there stays, and a controller that reaches nobody blames itself.
//!
//! Pure. The share is Envoy's panic threshold seen from the other side; but what is held is decided
//! once for the whole fleet, and proxies still avoid by themselves what fails under them.

/// A backend of a set, as its checks see it.
#[derive(Clone, Copy, Debug)]
pub struct Standing {
    pub fails: bool,
    /// Whether it counts as part of what serves: it is to get traffic, and it was seen well if that is
    /// asked for.
    pub serves: bool,
    /// Taken out already.
    pub is_out: bool,
    /// Those that failed earlier have lower ones.
    pub order: u64,
}

/// Which of a set are to be out. Those that are already go first, then those that failed first, so that
/// nobody takes turns.
pub fn out(set: &[Standing], max_percent: u32, is_cut_off: bool) -> Vec<bool> {
    let serving = set.iter().filter(|one| one.serves).count();
    let mut room = serving * max_percent as usize / 100;
    let mut out: Vec<_> = set.iter().map(|one| one.fails && !one.serves).collect();
    let mut failing: Vec<_> = (0..set.len()).filter(|i| set[*i].fails && set[*i].serves).collect();
    failing.sort_by_key(|i| (!set[*i].is_out, set[*i].order));
    for i in failing {
        if room > 0 && (set[i].is_out || !is_cut_off) {
            out[i] = true;
            room -= 1;
        }
    }
    out
}

/// What the latest checks of all backends found, of all sets.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reach {
    pub passed: usize,
    pub failed: usize,
    /// Not found out yet.
    pub unknown: usize,
    /// It cannot be found out, because this process is short of something.
    pub not_made: usize,
    is_cut_off: bool,
}

impl Reach {
    /// Whether the controller is taken to be cut off: since every check failed, of two backends at the
    /// least, and until one passes.
    pub fn is_cut_off(&self) -> bool {
        self.is_cut_off
    }

    /// Looks at the counts. Returns whether that changed.
    pub fn settle(&mut self) -> bool {
        let was = self.is_cut_off;
        let all_fail = self.passed == 0 && self.failed >= 2;
        // Who comes new while nobody is reached changes nothing.
        self.is_cut_off = all_fail && (was || self.unknown == 0);
        was != self.is_cut_off
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A letter a backend: `.` passes, `x` fails, `X` fails and is out already, `d` fails and serves
    /// nobody. Later ones failed earlier. Returns `o` for those that are to be out.
    fn check(set: &str, max_percent: u32, is_cut_off: bool) -> String {
        let standing = |(i, letter): (usize, char)| Standing {
            fails: letter != '.',
            serves: letter != 'd',
            is_out: letter == 'X',
            order: 100 - i as u64,
        };
        let set: Vec<_> = set.chars().enumerate().map(standing).collect();
        out(&set, max_percent, is_cut_off).iter().map(|out| if *out { 'o' } else { '-' }).collect()
    }

    #[test]
    fn checks_take_no_more_than_a_share_of_a_set_out() {
        for (set, max_percent, expected) in [
            ("....", 50, "----"),
            ("x...", 50, "o---"),
            ("xx..", 50, "oo--"),
            ("xxx.", 50, "-oo-"),
            ("xxxx", 50, "--oo"),
            ("xxx", 50, "--o"),
            ("x", 50, "-"),
            ("xx", 100, "oo"),
            ("xx", 0, "--"),
            ("xxx", 67, "-oo"),
        ] {
            assert_eq!(check(set, max_percent, false), expected, "{set} {max_percent}");
        }
    }

    #[test]
    fn who_is_out_stays_out_before_others_go() {
        assert_eq!(check("Xxx.", 50, false), "o-o-");
        assert_eq!(check("XXx.", 50, false), "oo--");
        assert_eq!(check("XXX.", 50, false), "-oo-", "the set has become smaller");
    }

    #[test]
    fn who_serves_nobody_is_out_and_does_not_count() {
        assert_eq!(check("dd..", 50, false), "oo--");
        assert_eq!(check("ddx.", 50, false), "ooo-");
        assert_eq!(check("ddxx", 50, false), "oo-o");
        assert_eq!(check("dd", 50, true), "oo");
    }

    #[test]
    fn a_controller_that_is_cut_off_takes_nobody_out() {
        assert_eq!(check("xxxx", 100, true), "----");
        assert_eq!(check("Xxxx", 100, true), "o---");
    }

    #[test]
    fn a_controller_that_reaches_nobody_is_cut_off_until_it_reaches_somebody() {
        let not_made = 1;
        let reach = |passed, failed, unknown| Reach {
            passed,
            failed,
            unknown,
            not_made,
            is_cut_off: false,
        };
        for (mut reach, expected) in [
            (reach(0, 2, 0), true),
            (reach(0, 1, 0), false),
            (reach(1, 9, 0), false),
            (reach(0, 2, 1), false),
            (reach(0, 0, 0), false),
        ] {
            assert_eq!(reach.settle(), expected, "{reach:?}");
            assert_eq!(reach.is_cut_off(), expected, "{reach:?}");
        }
        let cut_off = Reach { is_cut_off: true, ..reach(0, 2, 5) };
        let mut with_new_ones = cut_off;
        assert!(!with_new_ones.settle() && with_new_ones.is_cut_off());
        let mut with_a_pass = Reach { passed: 1, ..cut_off };
        assert!(with_a_pass.settle() && !with_a_pass.is_cut_off());
        let mut with_few = Reach { failed: 1, ..cut_off };
        assert!(with_few.settle() && !with_few.is_cut_off());
    }
}
