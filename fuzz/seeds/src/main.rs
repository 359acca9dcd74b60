//! Writes the vectors of the crates' tests as seeds: `seeds FOLDER`.

use std::{env, fs, io, path::Path};

use lb_fuzz_seeds::{hello, text};

/// Longer ones are for limits, and slow.
const LONGEST: usize = 2_000;

fn main() -> io::Result<()> {
    let folder = env::args().nth(1).unwrap_or_else(|| "corpus".to_owned());
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../lb-http/tests/h1");
    for (from, targets) in [("requests", &["request", "hyper"][..]), ("responses", &["response"])] {
        for file in fs::read_dir(tests.join(from))? {
            for vector in text::parse(&fs::read_to_string(file?.path())?) {
                if LONGEST < vector.bytes.len() {
                    continue;
                }
                for target in targets {
                    write(&folder, target, &vector.name, &vector.bytes)?;
                }
                if let Some(head) = vector.bytes.windows(4).position(|end| end == b"\r\n\r\n") {
                    write(&folder, "chunked", &vector.name, &vector.bytes[head + 4..])?;
                }
            }
        }
    }
    let vectors = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../lb-prelude/tests/prelude/proxy_protocol.txt");
    for vector in text::parse(&fs::read_to_string(vectors)?) {
        write(&folder, "proxy_protocol", &vector.name, &vector.bytes)?;
    }
    for (name, content) in hello::some() {
        for each in [1, 40, 16 * 1024] {
            let bytes = hello::records(&hello::message(1, &content), each);
            write(&folder, "client_hello", &format!("{name} in {each}"), &bytes)?;
        }
    }
    Ok(())
}

fn write(folder: &str, target: &str, name: &str, bytes: &[u8]) -> io::Result<()> {
    let folder = Path::new(folder).join(target);
    fs::create_dir_all(&folder)?;
    let is_plain = |c: &char| c.is_ascii_alphanumeric() || *c == ' ';
    let name: String = name.chars().filter(is_plain).take(100).collect();
    fs::write(folder.join(name.replace(' ', "-")), bytes)
}
