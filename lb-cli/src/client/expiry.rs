//! How long a certificate is good for, and whether that is a reason to look.

use std::time::Duration;

use lb_proto::v1;

use super::when::{short, since_epoch};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiry {
    /// There is none in force.
    Absent,
    Expired,
    /// Whatever renews it should have done so.
    Soon(Duration),
    Later(Duration),
}

/// With more left than this, nobody need look.
const SOON: Duration = Duration::from_secs(14 * 24 * 3600);
/// Nor with more than this part of its lifetime: one that lives for days is renewed in its last third.
const SOON_PART: u32 = 4;

impl Expiry {
    pub fn of(status: &v1::CertificateStatus, now: Duration) -> Self {
        let Some(end) = status.not_after.as_ref().map(since_epoch) else { return Self::Absent };
        let begin = status.not_before.as_ref().map(since_epoch).unwrap_or_default();
        match end.saturating_sub(now) {
            Duration::ZERO => Self::Expired,
            left if left < SOON.min(end.saturating_sub(begin) / SOON_PART) => Self::Soon(left),
            left => Self::Later(left),
        }
    }

    pub fn text(self) -> String {
        match self {
            Self::Absent => "none in force".into(),
            Self::Expired => "expired".into(),
            Self::Soon(left) | Self::Later(left) => format!("in {}", short(left)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_should_have_been_renewed_is_a_reason_to_look() {
        const DAY: i64 = 24 * 3600;
        let at = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
        let lived = |days: i64| v1::CertificateStatus {
            not_before: at(1000 * DAY),
            not_after: at((1000 + days) * DAY),
            ..<_>::default()
        };
        let day = |days: i64| Duration::from_secs((days * DAY) as u64);
        for (lifetime, left, expected) in [
            (90, 14, Expiry::Later(day(14))),
            (90, 13, Expiry::Soon(day(13))),
            (8, 2, Expiry::Later(day(2))),
            (8, 1, Expiry::Soon(day(1))),
            (90, 0, Expiry::Expired),
            (90, -5, Expiry::Expired),
        ] {
            let found = Expiry::of(&lived(lifetime), day(1000 + lifetime - left));
            assert_eq!(found, expected, "{left} of {lifetime}");
        }
        assert_eq!(Expiry::of(&v1::CertificateStatus::default(), day(1)), Expiry::Absent);
    }
}
