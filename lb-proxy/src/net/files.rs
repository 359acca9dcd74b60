//! What a process may have with the descriptors that the system lets it have.

/// What a process may have with so many descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Connections to clients and to backends, for which another client is taken in.
    pub for_clients: usize,
    /// Connections for which another one to a backend is made.
    pub for_backends: usize,
    /// Pipes, which have two descriptors each.
    pub pipes: usize,
}

/// An eighth is kept for all else: probes, the control stream, listeners, files. A quarter of that is
/// for backends, so that who was taken in is served, and another for pipes.
pub fn room_within(limit: u64) -> Room {
    let reserve = (limit / 8).clamp(64, 1_024);
    let number = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
    Room {
        for_clients: number(limit.saturating_sub(reserve)).max(1),
        for_backends: number(limit.saturating_sub(reserve * 3 / 4)).max(2),
        pipes: number(reserve / 8),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_there_is_leaves_something_for_all_else() {
        let cases = [
            (1_024, (896, 928, 16)),
            (256, (192, 208, 8)),
            (1_048_576, (1_047_552, 1_047_808, 128)),
            (10, (1, 2, 8)),
        ];
        for (limit, (for_clients, for_backends, pipes)) in cases {
            let expected = Room { for_clients, for_backends, pipes };
            assert_eq!(room_within(limit), expected, "{limit}");
        }
    }
}
