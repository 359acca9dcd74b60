//! W3C Trace Context: how a request says which trace it belongs to.
//!
//! Of a `traceparent` that is not valid nothing is used, and the request begins a trace of its own
//! (section 3.2.2 of the recommendation). Only the flags that are known are handed on.

use std::fmt;

use http::{HeaderMap, HeaderName, HeaderValue};

pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
pub const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// A place in a trace: whoever continues from here names it as its parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext {
    pub trace_id: TraceId,
    /// Of the span that is the parent of what follows. Not zero.
    pub span_id: u64,
    flags: u8,
}

/// Names a trace; never zero. Shown as 32 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceId(u128);

const SAMPLED: u8 = 0b01;
/// The trace id's right half is random (level 2 of the recommendation).
const RANDOM: u8 = 0b10;
/// `00-` trace id `-` span id `-` flags.
const LENGTH: usize = 3 + 32 + 1 + 16 + 1 + 2;

// === impl TraceContext ===

impl TraceContext {
    /// `None` for an id that is zero, which is none.
    pub fn new(trace_id: u128, span_id: u64, flags: u8) -> Option<Self> {
        (trace_id != 0 && span_id != 0).then_some(Self {
            trace_id: TraceId(trace_id),
            span_id,
            flags: flags & (SAMPLED | RANDOM),
        })
    }

    /// The beginning of a trace that nobody records, which those who come after are told.
    pub fn unrecorded(rng: &mut fastrand::Rng) -> Self {
        Self { trace_id: TraceId(rng.u128(1..)), span_id: rng.u64(1..), flags: 0 }
    }

    /// What exactly one valid `traceparent` says.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let mut values = headers.get_all(TRACEPARENT).iter();
        let only = values.next().filter(|_| values.next().is_none())?;
        Self::parse(only.as_bytes())
    }

    /// What a `traceparent` says.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let version = u8::try_from(hex(text.get(..2)?)?).ok()?;
        // Later versions may have more behind what is known, and version 255 is none.
        let ends = match version {
            0 => text.len() == LENGTH,
            0xff => false,
            _ => text.get(LENGTH).is_none_or(|next| *next == b'-'),
        };
        let dashes = [2, 35, 52].iter().all(|at| text.get(*at) == Some(&b'-'));
        if !ends || !dashes {
            return None;
        }
        let trace_id = hex(text.get(3..35)?)?;
        let span_id = u64::try_from(hex(text.get(36..52)?)?).ok()?;
        let flags = u8::try_from(hex(text.get(53..LENGTH)?)?).ok()?;
        Self::new(trace_id, span_id, flags)
    }

    /// Whether the one before recorded it and wants those after to do so too.
    pub fn is_sampled(self) -> bool {
        self.flags & SAMPLED != 0
    }

    pub fn flags(self) -> u8 {
        self.flags
    }

    /// What those who come after get as their `traceparent`.
    pub fn to_header(self) -> HeaderValue {
        let text = self.to_string();
        HeaderValue::from_str(&text).expect("digits and dashes are a header value")
    }
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{}-{:016x}-{:02x}", self.trace_id, self.span_id, self.flags)
    }
}

// === impl TraceId ===

impl TraceId {
    pub fn to_u128(self) -> u128 {
        self.0
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Up to 32 digits; capitals are none.
fn hex(text: &[u8]) -> Option<u128> {
    text.iter().try_fold(0, |number, byte| {
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | u128::from(digit))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(values: &[&str]) -> HeaderMap {
        let value = |text: &&str| HeaderValue::from_str(text).expect("a header value");
        values.iter().map(|text| (TRACEPARENT, value(text))).collect()
    }

    /// What is handed on of it.
    fn parsed(text: &str) -> Option<String> {
        TraceContext::of(&headers(&[text])).map(|context| context.to_string())
    }

    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
    const SPAN: &str = "b7ad6b7169203331";

    #[test]
    fn what_is_valid_is_read_and_only_known_flags_are_handed_on() {
        let long = format!("cc-{TRACE}-{SPAN}-01-what-the-future-brings");
        #[rustfmt::skip]
        let cases = [
            (format!("00-{TRACE}-{SPAN}-01"), "01"),
            (format!("00-{TRACE}-{SPAN}-00"), "00"),
            (format!("00-{TRACE}-{SPAN}-03"), "03"),
            (format!("00-{TRACE}-{SPAN}-ff"), "03"),
            (format!("00-{TRACE}-{SPAN}-08"), "00"),
            (format!("01-{TRACE}-{SPAN}-01"), "01"),
            (long, "01"),
        ];
        for (text, flags) in cases {
            assert_eq!(parsed(&text), Some(format!("00-{TRACE}-{SPAN}-{flags}")), "{text}");
        }
    }

    #[test]
    fn what_is_not_valid_is_nothing() {
        let zeros = "00000000000000000000000000000000";
        let cases = [
            String::new(),
            "00".into(),
            format!("00-{TRACE}-{SPAN}"),
            format!("00-{TRACE}-{SPAN}-1"),
            format!("00-{TRACE}-{SPAN}-01-"),
            format!("00-{TRACE}-{SPAN}-01-more"),
            format!("01-{TRACE}-{SPAN}-01more"),
            format!("ff-{TRACE}-{SPAN}-01"),
            format!("0-{TRACE}-{SPAN}-01"),
            format!("00-{zeros}-{SPAN}-01"),
            format!("00-{TRACE}-{}-01", &zeros[..16]),
            format!("00-{}-{SPAN}-01", TRACE.to_uppercase()),
            format!("00-{TRACE}-{}-01", SPAN.to_uppercase()),
            format!("00-{TRACE}-{SPAN}-0x"),
            format!("00_{TRACE}-{SPAN}-01"),
            format!("00-{TRACE}{SPAN}--01"),
            format!("00-{}-{SPAN}-01-", &TRACE[1..]),
        ];
        for text in cases {
            assert_eq!(parsed(&text), None, "{text}");
        }
        let good = format!("00-{TRACE}-{SPAN}-01");
        assert_eq!(TraceContext::of(&headers(&[&good, &good])), None, "there may be only one");
        assert_eq!(TraceContext::of(&headers(&[])), None);
    }

    #[test]
    fn an_unrecorded_trace_is_one_and_says_that_it_is_not_recorded() {
        let context = TraceContext::unrecorded(&mut fastrand::Rng::with_seed(1));
        assert!(!context.is_sampled());
        assert_eq!(parsed(&context.to_string()), Some(context.to_string()));
    }
}
