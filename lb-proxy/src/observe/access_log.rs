//! The access log: one JSON object a line for each request, and for each TCP connection.
//!
//! ```text
//!   worker: record ─► line ─► its own buffer ─┐  a full or aged chunk
//!   worker: record ─► line ─► its own buffer ─┴─► bounded queue ─► one thread ─► file
//! ```
//!
//! # Invariants
//!
//! - A worker never waits for the log. It writes into memory of its own and hands chunks to a queue
//!   that takes them at once or not at all; when the queue is full, lines are dropped, and counted.
//! - Memory is bounded, whatever the sink does: a buffer a worker, and `QUEUE` chunks.
//! - Every line is either written or counted as dropped; none is lost below capacity, and none
//!   waits for longer than `MAX_AGE` in a buffer.
//! - What is written are whole lines, appended, so several processes may share a file, and it may be
//!   truncated or replaced under the proxy.

use std::{path::PathBuf, str::FromStr, time::Duration};

mod json;
mod line;
mod worker_log;
mod writer;

pub use worker_log::WorkerLog;
pub use writer::{OpenError, Queue, Writer, open};

/// Which requests are written, and where to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    pub mode: Mode,
    pub to: Destination,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    #[default]
    Off,
    /// What was answered with a 5xx, by whomever, and what has a reason: it was refused, or broke
    /// off on either side.
    Errors,
    /// Errors, and of the rest so many out of 2^32.
    Sampled(u32),
    Full,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Destination {
    #[default]
    Stdout,
    File(PathBuf),
}

/// What is done with one request when it has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    Never,
    IfError,
    Always,
}

/// A chunk is handed on when it is so long.
const CHUNK: usize = 64 * 1024;
/// Chunks that wait for being written, 8 MiB of all workers.
const QUEUE: usize = 128;
/// How long a line waits for others to be handed on with it.
const MAX_AGE: Duration = Duration::from_millis(100);

// === impl Mode, Destination ===

impl Mode {
    /// Decides for one request, with a number drawn for it.
    pub fn choose(self, draw: impl FnOnce() -> u32) -> Choice {
        match self {
            Self::Off => Choice::Never,
            Self::Errors => Choice::IfError,
            Self::Sampled(share) if draw() < share => Choice::Always,
            Self::Sampled(_) => Choice::IfError,
            Self::Full => Choice::Always,
        }
    }
}

impl FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "off" => return Ok(Self::Off),
            "errors" => return Ok(Self::Errors),
            "full" => return Ok(Self::Full),
            _ => {}
        }
        let ratio = text.parse().ok().filter(|ratio: &f64| (0.0..=1.0).contains(ratio));
        let ratio =
            ratio.ok_or("valid are off, errors, full, and a ratio from 0 to 1 like 0.01")?;
        if ratio == 1.0 {
            return Ok(Self::Full);
        }
        // Less than 2^32, because the ratio is less than 1.
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "it is in range"
        )]
        Ok(Self::Sampled((ratio * f64::from(u32::MAX)) as u32))
    }
}

impl FromStr for Destination {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "" => Err("give a file, or - for standard output".into()),
            "-" => Ok(Self::Stdout),
            file => Ok(Self::File(file.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mode_is_a_word_or_a_ratio() {
        #[rustfmt::skip]
        let cases = [
            ("off",    Some(Mode::Off)),
            ("errors", Some(Mode::Errors)),
            ("full",   Some(Mode::Full)),
            ("1",      Some(Mode::Full)),
            ("0",      Some(Mode::Sampled(0))),
            ("0.5",    Some(Mode::Sampled(u32::MAX / 2))),
            ("1.01",   None),
            ("-0.1",   None),
            ("NaN",    None),
            ("on",     None),
            ("",       None),
        ];
        for (text, expected) in cases {
            assert_eq!(text.parse::<Mode>().ok(), expected, "{text:?}");
        }
    }

    #[test]
    fn a_sample_is_of_its_size_and_errors_are_in_it_always() {
        let mode: Mode = "0.25".parse().expect("valid");
        let mut rng = fastrand::Rng::with_seed(3);
        let choices: Vec<_> = (0..10_000).map(|_| mode.choose(|| rng.u32(..))).collect();
        let always = choices.iter().filter(|choice| **choice == Choice::Always).count();
        assert!((2_300..2_700).contains(&always), "{always}");
        assert!(!choices.contains(&Choice::Never));
        let never: Mode = "0".parse().expect("valid");
        assert_eq!(never.choose(|| 0), Choice::IfError);
    }
}
