//! Writes the vectors of `lb-http`'s tests as seeds: `seeds FOLDER`.

use std::{env, fs, io, path::Path};

use lb_fuzz_seeds::text;

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
    Ok(())
}

fn write(folder: &str, target: &str, name: &str, bytes: &[u8]) -> io::Result<()> {
    let folder = Path::new(folder).join(target);
    fs::create_dir_all(&folder)?;
    let is_plain = |c: &char| c.is_ascii_alphanumeric() || *c == ' ';
    let name: String = name.chars().filter(is_plain).take(100).collect();
    fs::write(folder.join(name.replace(' ', "-")), bytes)
}
