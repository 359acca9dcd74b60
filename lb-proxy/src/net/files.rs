//! How many descriptors the process may have.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the limit to what the system allows, and returns it. Which limit a shell sets is for
/// programs that use `select`, and far too low for a proxy.
pub fn raise_limit() -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = Rlimit { current: maximum, maximum };
    // What is refused stays as it was.
    let limit = match setrlimit(Resource::Nofile, wanted) {
        Ok(()) => maximum,
        Err(_) => current,
    };
    limit.unwrap_or(u64::MAX)
}

/// How many clients' connections there may be with so many descriptors: each of them needs one to a
/// backend, too, and an eighth is kept for all else: probes, the control stream, listeners, files.
pub fn connections_within(limit: u64) -> usize {
    let reserve = (limit / 8).clamp(64, 1_024);
    usize::try_from(limit.saturating_sub(reserve) / 2).unwrap_or(usize::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_and_its_backend_fit_and_something_is_left() {
        for (limit, expected) in [(1_024, 448), (256, 96), (1_048_576, 523_776), (10, 1)] {
            assert_eq!(connections_within(limit), expected, "{limit}");
        }
    }
}
