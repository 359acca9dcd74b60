//! What is in files that the desired state names: certificates, keys, CAs.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use lb_common::{material::MaterialId, secret::Secret};

use crate::vault::Found;

/// Larger files are none of those that are meant.
const MOST_BYTES: u64 = 1024 * 1024;

/// Reads those of these that are files.
pub fn read<'a>(ids: impl IntoIterator<Item = &'a MaterialId>) -> Found {
    let mut found = Found::default();
    for id in ids {
        let Some(path) = id.path() else { continue };
        match content(path) {
            Ok(content) => {
                found.materials.insert(id.clone(), Secret::new(content));
            }
            Err(error) => {
                found.unreadable.insert(id.clone(), format!("cannot be read: {error}"));
            }
        }
    }
    found
}

fn content(path: &str) -> io::Result<Vec<u8>> {
    if !Path::new(path).is_absolute() {
        let why = "it is relative; give an absolute path, because the controller reads it";
        return Err(io::Error::other(why));
    }
    let mut content = Vec::new();
    let file = File::open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no file"));
    }
    file.take(MOST_BYTES + 1).read_to_end(&mut content)?;
    if content.len() as u64 > MOST_BYTES {
        return Err(io::Error::other("it has more than 1 MiB"));
    }
    Ok(content)
}
