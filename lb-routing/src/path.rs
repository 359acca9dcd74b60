//! A path's normal form: one way to write what servers read as the same path, so that a route
//! cannot be passed by writing its path otherwise (RFC 3986, section 6.2.2).
//!
//! - Escapes of characters that need none (letters, digits, `-._~`) are undone; the others get
//!   digits in upper case. An escaped slash stays escaped: it separates nothing.
//! - `.` and `..` are resolved, never above the root (section 5.2.4).
//! - Empty segments are left out, before a `..` is resolved, as file systems have it.
//! - A percent sign that begins no escape stands for itself, and so becomes `%25`. Left as it is, it
//!   might begin one together with what is undone after it. What is no ASCII is escaped.
//!
//! What was normalised once is normal. That it ends in a slash or not stays as it was; one that ends
//! in `.` or `..` gets a slash.

/// The normal form of a path, written to `scratch`, or `None` if it has that form already, as most
/// have. What does not begin with a slash is no path (`*`) and stays as it is.
pub fn normalize<'a>(path: &[u8], scratch: &'a mut Vec<u8>) -> Option<&'a [u8]> {
    let [b'/', segments @ ..] = path else { return None };
    if is_normal(segments) {
        return None;
    }
    scratch.clear();
    let mut ends_in_slash = false;
    for segment in segments.split(|c| *c == b'/') {
        let start = scratch.len();
        scratch.push(b'/');
        normalize_escapes(segment, scratch);
        ends_in_slash = match &scratch[start + 1..] {
            b"" | b"." => {
                scratch.truncate(start);
                true
            }
            b".." => {
                let parent = memchr::memrchr(b'/', &scratch[..start]);
                scratch.truncate(parent.unwrap_or_default());
                true
            }
            _ => false,
        };
    }
    if ends_in_slash || scratch.is_empty() {
        scratch.push(b'/');
    }
    Some(scratch)
}

/// `segments` is what follows a path's first slash.
fn is_normal(segments: &[u8]) -> bool {
    // Nearly all segments are plain, and then a look at each byte is all there is.
    let mut segment = 0;
    let mut i = 0;
    while let Some(c) = segments.get(i) {
        match c {
            b'/' if matches!(&segments[segment..i], b"" | b"." | b"..") => return false,
            b'/' => segment = i + 1,
            b'%' => match escaped(*c, &segments[i + 1..]) {
                Some(c)
                    if !is_unreserved(c)
                        && !segments[i + 1..i + 3].iter().any(u8::is_ascii_lowercase) =>
                {
                    i += 2
                }
                _ => return false,
            },
            c if !c.is_ascii() => return false,
            _ => {}
        }
        i += 1;
    }
    !matches!(&segments[segment..], b"." | b"..")
}

fn normalize_escapes(mut segment: &[u8], to: &mut Vec<u8>) {
    while let [c, rest @ ..] = segment {
        segment = rest;
        match escaped(*c, rest) {
            Some(c) => {
                segment = &rest[2..];
                if is_unreserved(c) { to.push(c) } else { escape(c, to) }
            }
            None if *c == b'%' || !c.is_ascii() => escape(*c, to),
            None => to.push(*c),
        }
    }
}

/// What is meant by an escape that `c` begins and `rest` goes on with.
fn escaped(c: u8, rest: &[u8]) -> Option<u8> {
    let digit = |c: u8| char::from(c).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    match (c, rest) {
        (b'%', [high, low, ..]) => Some(digit(*high)? << 4 | digit(*low)?),
        _ => None,
    }
}

fn is_unreserved(c: u8) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, b'-' | b'.' | b'_' | b'~')
}

fn escape(c: u8, to: &mut Vec<u8>) {
    let digit = |d: u8| b"0123456789ABCDEF"[usize::from(d & 15)];
    to.extend_from_slice(&[b'%', digit(c >> 4), digit(c)]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(path: &str, expected: Option<&str>) {
        let mut scratch = b"what was there".to_vec();
        let normal = normalize(path.as_bytes(), &mut scratch).map(String::from_utf8_lossy);
        assert_eq!(normal.as_deref(), expected, "{path}");
    }

    #[test]
    fn what_servers_read_as_the_same_path_becomes_the_same() {
        #[rustfmt::skip]
        let cases = [
            ("//admin/",            "/admin/"),
            ("///admin//x",         "/admin/x"),
            ("/admin//",            "/admin/"),
            ("//",                  "/"),
            ("/x/../admin/",        "/admin/"),
            ("/x//../admin",        "/admin"),
            ("/a/b/../../admin",    "/admin"),
            ("/a/./b",              "/a/b"),
            ("/./a",                "/a"),
            ("/a/.",                "/a/"),
            ("/a/b/..",             "/a/"),
            ("/a/..",               "/"),
            ("/.",                  "/"),
            ("/..",                 "/"),
            ("/../../a",            "/a"),
            ("/a/../../../b/",      "/b/"),
            ("/%61dmin/",           "/admin/"),
            ("/%2e%2E/a",           "/a"),
            ("/x/%2e./admin",       "/admin"),
            ("/x/.%2e/admin",       "/admin"),
            ("/a/%2e/b",            "/a/b"),
            ("/%41%5a%7e%2d%5F%39", "/AZ~-_9"),
            ("/a%2fb",              "/a%2Fb"),
            ("/x%2f../a",           "/x%2F../a"),
            ("/x%2f..%2fa%c3%bc",   "/x%2F..%2Fa%C3%BC"),
            ("/100%",               "/100%25"),
            ("/%zz%4",              "/%25zz%254"),
            ("/%%36%31dmin",        "/%2561dmin"),
            ("/caf\u{e9}",          "/caf%C3%A9"),
        ];
        for (path, expected) in cases {
            check(path, Some(expected));
            check(expected, None);
        }
    }

    #[test]
    fn what_is_normal_is_not_copied() {
        #[rustfmt::skip]
        let paths = [
            "/", "/a", "/a/", "/a/b.html", "/...", "/a../b", "/..a", "/.a/b.", "/a%2F", "/%2F..%2F", "/a;b=c/d", "/%25",
            "/%C3%BC", "/!$&'()*+,;=:@", "/\"<>^`{|}\\", "*", "",
        ];
        for path in paths {
            check(path, None);
        }
    }

    #[test]
    fn what_was_normalized_once_is_normal_whatever_it_was() {
        let parts =
            ["/", "/", ".", "..", "%2e", "%2F", "%", "%3", "a", "%61", "%c3", "%25", "\u{fc}"];
        let mut rng = fastrand::Rng::with_seed(1);
        let (mut scratch, mut again) = (Vec::new(), Vec::new());
        let mut changed = 0;
        for _ in 0..20_000 {
            let parts = (0..rng.usize(..9)).map(|_| parts[rng.usize(..parts.len())]);
            let path = format!("/{}", parts.collect::<String>());
            let Some(normal) = normalize(path.as_bytes(), &mut scratch) else { continue };
            assert_ne!(normal, path.as_bytes());
            assert_eq!(normalize(normal, &mut again), None, "{path}: {normal:?}");
            let segments = normal.split(|c| *c == b'/');
            assert!(segments.clone().all(|segment| !matches!(segment, b"." | b"..")), "{path}");
            assert_eq!(
                segments.skip(1).filter(|s| s.is_empty()).count(),
                usize::from(normal.ends_with(b"/")),
                "{path}"
            );
            changed += 1;
        }
        assert!(changed > 10_000, "{changed}");
    }
}
