//! The forms in which a key could be seen, where nobody is to see it.

/// A key in all forms in which it could be seen: a line of its PEM, which is its base64, and its bytes.
/// It may be given without the lines around it, too, and in base64url.
///
/// # Panics
/// If it is too short to be one.
pub fn forms(pem: &str) -> Vec<Vec<u8>> {
    let lines: Vec<_> = pem.lines().filter(|line| !line.starts_with("-----")).collect();
    let base64 = lines.concat();
    // The part that is random: what comes before says what kind it is.
    let start = base64.len() / 8 * 4;
    let middle = &base64[start..start + 32];
    let line = lines[lines.len() / 2].as_bytes()[..24].to_vec();
    vec![line, middle.as_bytes().to_vec(), decoded(middle)]
}

fn decoded(base64: &str) -> Vec<u8> {
    let digit = |c: u8| match c {
        b'A'..=b'Z' => c - b'A',
        b'a'..=b'z' => c - b'a' + 26,
        b'0'..=b'9' => c - b'0' + 52,
        b'+' | b'-' => 62,
        _ => 63,
    };
    let bits = |four: &[u8]| four.iter().fold(0, |all, c| all << 6 | u32::from(digit(*c)));
    let threes = base64.as_bytes().chunks(4).map(|four| bits(four).to_be_bytes());
    threes.flat_map(|bytes| bytes[1..].to_vec()).collect()
}

pub fn has(text: &[u8], form: &[u8]) -> bool {
    text.windows(form.len()).any(|window| window == form)
}
