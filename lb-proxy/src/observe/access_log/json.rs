//! One JSON object, written field by field into a buffer.
//!
//! This is a part of every request's cost when the log is on: no formatting machinery, no
//! allocation but the buffer's own, and texts that need no escaping are copied in one go. What takes
//! a key is inlined, for the key's bytes are moved and not copied when their number is known.

use std::{
    io::Write as _,
    net::SocketAddr,
    time::{Duration, Instant},
};

/// A field's name as it stands between the value before it and its own.
macro_rules! key {
    ($name:literal) => {
        concat!(",\"", $name, "\":")
    };
}
pub(super) use key;

/// An object that is being written. Keys come from [`key!`].
pub struct Object<'a>(&'a mut Vec<u8>);

/// Wall time of an [`Instant`] as RFC 3339, without asking the system for each.
#[derive(Debug)]
pub struct WallClock {
    at: Instant,
    wall: Duration,
    /// The last second written, and how: most lines are of the same one as the line before.
    second: u64,
    text: [u8; DATE_AND_TIME.len()],
}

const DATE_AND_TIME: &str = "1970-01-01T00:00:00";
/// What a text ends with that was cut.
const CUT: &str = "…";
const REPLACEMENT: &str = "\u{fffd}";
const HEX: &[u8; 16] = b"0123456789abcdef";

// === impl Object ===

impl<'a> Object<'a> {
    /// Begins with a field whose value needs no escaping.
    pub fn begin(
        out: &'a mut Vec<u8>,
        name: &'static str,
        clock: &mut WallClock,
        at: Instant,
    ) -> Self {
        out.extend_from_slice(b"{\"");
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(b"\":\"");
        clock.write(at, out);
        out.push(b'"');
        Self(out)
    }

    #[inline]
    pub fn end(self) {
        self.0.extend_from_slice(b"}\n");
    }

    /// Fields as [`fields`] has written them.
    #[inline]
    pub fn written(&mut self, fields: &[u8]) {
        self.0.extend_from_slice(fields);
    }

    /// Something that is known to need no escaping, as names are.
    #[inline]
    pub fn name(&mut self, key: &'static str, value: &str) {
        self.0.extend_from_slice(key.as_bytes());
        self.0.push(b'"');
        self.0.extend_from_slice(value.as_bytes());
        self.0.push(b'"');
    }

    /// Anything; of a long text only the beginning, up to `limit` bytes.
    #[inline]
    pub fn text(&mut self, key: &'static str, value: &[u8], limit: usize) {
        self.0.extend_from_slice(key.as_bytes());
        self.0.push(b'"');
        escape(value, limit, self.0);
        self.0.push(b'"');
    }

    #[inline]
    pub fn number(&mut self, key: &'static str, value: u64) {
        self.0.extend_from_slice(key.as_bytes());
        number(value, self.0);
    }

    /// In milliseconds, with microseconds as decimals.
    #[inline]
    pub fn millis(&mut self, key: &'static str, value: Duration) {
        self.0.extend_from_slice(key.as_bytes());
        millis(value, self.0);
    }

    /// As 32 hexadecimal digits.
    #[inline]
    pub fn hex(&mut self, key: &'static str, value: u128) {
        self.0.extend_from_slice(key.as_bytes());
        self.0.push(b'"');
        for byte in value.to_be_bytes() {
            let digits = [byte >> 4, byte & 15].map(|digit| HEX[usize::from(digit)]);
            self.0.extend_from_slice(&digits);
        }
        self.0.push(b'"');
    }

    #[inline]
    pub fn address(&mut self, key: &'static str, value: SocketAddr) {
        self.0.extend_from_slice(key.as_bytes());
        self.0.push(b'"');
        address(value, self.0);
        self.0.push(b'"');
    }

    /// An array of objects, each written by `write`.
    pub fn array<T>(
        &mut self,
        key: &'static str,
        items: &[T],
        write: impl Fn(&mut Object<'_>, &T),
    ) {
        self.0.extend_from_slice(key.as_bytes());
        self.0.push(b'[');
        for (i, item) in items.iter().enumerate() {
            self.0.extend_from_slice(if i == 0 { b"{" } else { b",{" });
            let from = self.0.len();
            write(&mut Object(self.0), item);
            // The comma before its first field.
            self.0.remove(from);
            self.0.push(b'}');
        }
        self.0.push(b']');
    }
}

/// Fields that many objects have in common.
pub fn fields(write: impl FnOnce(&mut Object<'_>)) -> Box<[u8]> {
    let mut out = Vec::new();
    write(&mut Object(&mut out));
    out.into()
}

/// Whether a JSON string cannot have it as it is, or it is not ASCII.
fn is_special(byte: u8) -> bool {
    (byte < b' ') | (byte == b'"') | (byte == b'\\') | (byte >= 0x80)
}

fn escape(value: &[u8], limit: usize, out: &mut Vec<u8>) {
    if limit < value.len() {
        escape(whole_characters(&value[..limit]), limit, out);
        out.extend_from_slice(CUT.as_bytes());
    } else if value.iter().fold(false, |any, byte| any | is_special(*byte)) {
        // The test has no branches in it, so it takes many bytes at a time.
        escape_slowly(value, out);
    } else {
        out.extend_from_slice(value);
    }
}

fn escape_slowly(value: &[u8], out: &mut Vec<u8>) {
    for chunk in value.utf8_chunks() {
        for byte in chunk.valid().bytes() {
            match byte {
                b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
                b'\n' => out.extend_from_slice(b"\\n"),
                b'\r' => out.extend_from_slice(b"\\r"),
                b'\t' => out.extend_from_slice(b"\\t"),
                // Writing to a vector cannot fail.
                0..b' ' => drop(write!(out, "\\u{byte:04x}")),
                _ => out.push(byte),
            }
        }
        if !chunk.invalid().is_empty() {
            out.extend_from_slice(REPLACEMENT.as_bytes());
        }
    }
}

/// Without a last character that was cut in two.
fn whole_characters(bytes: &[u8]) -> &[u8] {
    let last = bytes.iter().rposition(|byte| byte & 0xc0 != 0x80).unwrap_or(0);
    match std::str::from_utf8(&bytes[last..]) {
        Err(error) if error.error_len().is_none() => &bytes[..last],
        _ => bytes,
    }
}

fn millis(value: Duration, out: &mut Vec<u8>) {
    let micros =
        value.as_secs().saturating_mul(1_000_000).saturating_add(value.subsec_micros().into());
    number(micros / 1_000, out);
    let mut decimals = *b".000";
    put_digits(micros % 1_000, &mut decimals[1..]);
    out.extend_from_slice(&decimals);
}

fn number(value: u64, out: &mut Vec<u8>) {
    if value < 10 {
        out.push(digit(value));
        return;
    }
    let mut text = [0; 20];
    let mut at = text.len();
    let mut rest = value;
    // Two at a time: dividing is what takes time.
    while rest >= 10 {
        at -= 2;
        text[at..at + 2].copy_from_slice(&PAIRS[(rest % 100) as usize]);
        rest /= 100;
    }
    if rest > 0 {
        at -= 1;
        text[at] = digit(rest);
    }
    out.extend_from_slice(&text[at..]);
}

/// From `00` to `99`.
const PAIRS: [[u8; 2]; 100] = {
    let mut pairs = [[0; 2]; 100];
    let mut i = 0;
    while i < 100 {
        pairs[i] = [b'0' + (i / 10) as u8, b'0' + (i % 10) as u8];
        i += 1;
    }
    pairs
};

/// With zeros before it.
#[inline]
fn put_digits(value: u64, into: &mut [u8]) {
    let mut rest = value;
    for byte in into.iter_mut().rev() {
        *byte = digit(rest);
        rest /= 10;
    }
}

/// The last digit of it.
#[inline]
fn digit(value: u64) -> u8 {
    b'0' + (value % 10) as u8
}

fn address(value: SocketAddr, out: &mut Vec<u8>) {
    match value {
        SocketAddr::V4(v4) => {
            for (i, octet) in v4.ip().octets().into_iter().enumerate() {
                if i > 0 {
                    out.push(b'.');
                }
                number(octet.into(), out);
            }
            out.push(b':');
            number(v4.port().into(), out);
        }
        // Writing to a vector cannot fail.
        SocketAddr::V6(v6) => drop(write!(out, "{v6}")),
    }
}

// === impl WallClock ===

impl WallClock {
    /// `wall` is the time since the Unix epoch at the instant `at`.
    pub fn new(at: Instant, wall: Duration) -> Self {
        let mut text = [0; DATE_AND_TIME.len()];
        text.copy_from_slice(DATE_AND_TIME.as_bytes());
        Self { at, wall, second: 0, text }
    }

    /// Keeps to the system's clock, which may be set, and which runs at a pace of its own.
    pub fn set(&mut self, at: Instant, wall: Duration) {
        (self.at, self.wall) = (at, wall);
    }

    fn write(&mut self, at: Instant, out: &mut Vec<u8>) {
        let wall = match at.checked_duration_since(self.at) {
            Some(since) => self.wall.saturating_add(since),
            None => self.wall.saturating_sub(self.at.duration_since(at)),
        };
        if wall.as_secs() != self.second {
            self.second = wall.as_secs();
            self.text = date_and_time(self.second);
        }
        out.extend_from_slice(&self.text);
        let mut end = *b".000Z";
        put_digits(wall.subsec_millis().into(), &mut end[1..4]);
        out.extend_from_slice(&end);
    }
}

/// Days to a date as in Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms",
/// `civil_from_days`; years from 1970 to 9999.
fn date_and_time(second: u64) -> [u8; DATE_AND_TIME.len()] {
    const DAYS_TO_1970: u64 = 719_468;
    let days = second / 86_400 + DAYS_TO_1970;
    let era = days / 146_097;
    let day_of_era = days % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    // From March on, so that a leap day is a year's last.
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);

    let mut text = [0; DATE_AND_TIME.len()];
    text.copy_from_slice(DATE_AND_TIME.as_bytes());
    let time = second % 86_400;
    put_digits(year, &mut text[0..4]);
    put_digits(month, &mut text[5..7]);
    put_digits(day, &mut text[8..10]);
    put_digits(time / 3_600, &mut text[11..13]);
    put_digits(time / 60 % 60, &mut text[14..16]);
    put_digits(time % 60, &mut text[17..19]);
    text
}

#[cfg(test)]
mod tests {
    use lb_common::clock;

    use super::*;

    fn escaped(value: &[u8], limit: usize) -> String {
        let mut out = Vec::new();
        escape(value, limit, &mut out);
        String::from_utf8(out).expect("it is UTF-8 whatever went in")
    }

    #[test]
    fn any_bytes_become_a_json_string_and_come_back_if_they_were_text() {
        for byte in 0..=u8::MAX {
            for value in [vec![byte], vec![b'a', byte, b'"', byte]] {
                let json = format!("\"{}\"", escaped(&value, 100));
                let back: String = serde_json::from_str(&json).expect(&json);
                assert_eq!(back, String::from_utf8_lossy(&value), "{value:?}");
            }
        }
        assert_eq!(escaped("/ä?q=\"1\"\\\u{1}".as_bytes(), 100), r#"/ä?q=\"1\"\\\u0001"#);
    }

    #[test]
    fn a_long_text_is_cut_between_characters_and_says_so() {
        assert_eq!(escaped(b"abcd", 4), "abcd");
        assert_eq!(escaped(b"abcde", 4), "abcd…");
        for (limit, expected) in [(1, "a…"), (2, "a…"), (3, "aä…"), (4, "aä…"), (5, "aä…")]
        {
            assert_eq!(escaped("aä€x".as_bytes(), limit), expected, "{limit}");
        }
        assert_eq!(escaped(&[0x80; 9], 2), "\u{fffd}\u{fffd}…", "not a cut character");
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        #[rustfmt::skip]
        let cases = [
            (0,             "1970-01-01T00:00:00"),
            (951_782_399,   "2000-02-28T23:59:59"),
            (951_782_400,   "2000-02-29T00:00:00"),
            (951_868_800,   "2000-03-01T00:00:00"),
            (1_709_164_800, "2024-02-29T00:00:00"),
            (1_735_689_599, "2024-12-31T23:59:59"),
            (4_107_542_400, "2100-03-01T00:00:00"),
        ];
        for (second, expected) in cases {
            let text = date_and_time(second);
            assert_eq!(std::str::from_utf8(&text), Ok(expected), "{second}");
        }
    }

    #[test]
    fn all_kinds_of_fields_make_one_object() {
        let start = clock::now();
        let mut clock = WallClock::new(start, Duration::from_millis(951_782_399_999));
        let mut out = Vec::new();
        for at in [start, start + Duration::from_millis(1), start - Duration::from_millis(999)] {
            let mut object = Object::begin(&mut out, "time", &mut clock, at);
            object.name(key!("name"), "web");
            object.text(key!("text"), b"\"", 10);
            object.number(key!("most"), u64::MAX);
            object.hex(key!("hex"), 0xab << 120);
            object.millis(key!("ms"), Duration::from_micros(12_003));
            object.address(key!("v4"), ([10, 0, 255, 1], 80).into());
            object.address(key!("v6"), "[::1]:65535".parse().expect("an address"));
            object.array(key!("none"), &[(); 0], |_, ()| {});
            object.array(key!("two"), &[1, 2], |object, n| {
                object.number(key!("n"), *n);
                object.name(key!("x"), "y");
            });
            object.end();
        }
        let rest = r#","name":"web","text":"\"","most":18446744073709551615,"hex":"ab000000000000000000000000000000","ms":12.003,"v4":"10.0.255.1:80","v6":"[::1]:65535","none":[],"two":[{"n":1,"x":"y"},{"n":2,"x":"y"}]}"#;
        let expected = format!(
            "{{\"time\":\"2000-02-28T23:59:59.999Z\"{rest}\n\
             {{\"time\":\"2000-02-29T00:00:00.000Z\"{rest}\n\
             {{\"time\":\"2000-02-28T23:59:59.000Z\"{rest}\n"
        );
        assert_eq!(String::from_utf8(out).expect("it is UTF-8"), expected);
    }
}
