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

/// How many sockets to clients and backends there may be with so many descriptors: an eighth is kept
/// for all else: probes, the control stream, listeners, files.
pub fn sockets_within(limit: u64) -> usize {
    let reserve = (limit / 8).clamp(64, 1_024);
    usize::try_from(limit.saturating_sub(reserve)).unwrap_or(usize::MAX).max(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_leave_something_for_all_else() {
        for (limit, expected) in [(1_024, 896), (256, 192), (1_048_576, 1_047_552), (10, 2)] {
            assert_eq!(sockets_within(limit), expected, "{limit}");
        }
    }
}
