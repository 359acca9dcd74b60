//! The addresses that a text names, and those that stand for them in a test.

const HOST: &str = "127.0.0.1:";

pub fn replace_ports(text: &str, other: impl Fn(u16) -> u16) -> String {
    let mut parts = text.split(HOST);
    let mut replaced = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let end = part.find(|c: char| !c.is_ascii_digit()).unwrap_or(part.len());
        let port = part[..end].parse().expect("a port follows the host");
        replaced += &format!("{HOST}{}{}", other(port), &part[end..]);
    }
    replaced
}
