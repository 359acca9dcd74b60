//! Vectors as text: bytes of a connection, and what they mean.
//!
//! ```text
//! a sentence that says what must hold
//!   [HEAD] HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n
//!   -> what is read, one line for each message
//!   => what is written of the message above, head and body
//! ```
//!
//! `\r`, `\n`, `\t`, `\0`, `\xNN`, `\\` and `\"` are bytes, and `\{ab*3}` is `ababab`. Lines that
//! begin with `#` are comments. Each user of these says what the words of its `->` lines are.

pub struct Vector {
    pub name: String,
    /// What is in brackets before the bytes.
    pub option: Option<String>,
    pub bytes: Vec<u8>,
    pub messages: Vec<Expected>,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Expected {
    pub read: String,
    pub written: Option<Vec<u8>>,
}

pub fn parse(text: &str) -> Vec<Vector> {
    let mut vectors: Vec<Vector> = Vec::new();
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let Some(content) = line.strip_prefix("  ") else {
            vectors.push(Vector {
                name: line.to_owned(),
                option: None,
                bytes: Vec::new(),
                messages: Vec::new(),
            });
            continue;
        };
        let vector = vectors.last_mut().expect("a vector begins with its name");
        if let Some(read) = content.strip_prefix("-> ") {
            vector.messages.push(Expected { read: repeat(read), written: None });
        } else if let Some(written) = content.strip_prefix("=> ") {
            let message = vector.messages.last_mut().expect("what is written was read");
            message.written = Some(bytes(written));
        } else {
            let (option, rest) = match content.strip_prefix('[').and_then(|c| c.split_once(']')) {
                // Not a method that begins with a bracket.
                Some((option, rest)) if !rest.starts_with(" /") => {
                    (Some(option), rest.trim_start())
                }
                _ => (None, content),
            };
            vector.option = option.map(str::to_owned);
            vector.bytes = bytes(rest);
        }
    }
    vectors
}

fn bytes(text: &str) -> Vec<u8> {
    let text = repeat(text);
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [byte, after @ ..] = rest {
        rest = after;
        if *byte != b'\\' {
            bytes.push(*byte);
            continue;
        }
        let [kind, after @ ..] = rest else { panic!("a backslash at the end of {text}") };
        rest = after;
        bytes.push(match kind {
            b'r' => b'\r',
            b'n' => b'\n',
            b't' => b'\t',
            b'0' => 0,
            b'\\' => b'\\',
            b'"' => b'"',
            b'x' => {
                let (digits, after) = rest.split_at(2);
                rest = after;
                let digits = std::str::from_utf8(digits).expect("digits are ASCII");
                u8::from_str_radix(digits, 16).expect("two digits follow \\x")
            }
            other => panic!("\\{} in {text}", char::from(*other)),
        });
    }
    bytes
}

/// `\{ab*3}` to `ababab`.
fn repeat(text: &str) -> String {
    let mut repeated = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("\\{") {
        repeated.push_str(before);
        let (inner, after) = after.split_once('}').expect("a repetition is closed");
        let (unit, times) = inner.rsplit_once('*').expect("a repetition has a number");
        repeated.push_str(&unit.repeat(times.parse().expect("a repetition has a number")));
        rest = after;
    }
    repeated.push_str(rest);
    repeated
}
