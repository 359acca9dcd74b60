//! Files that the desired state names: certificates, keys, CAs. They are looked at, not watched, so that
//! replacing them by a rename, a symbolic link or a mount all work.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::Path,
    time::Duration,
};

use lb_common::{material::MaterialId, secret::Secret};

use crate::{controller::Event, owner::Handle, vault::Found};

/// How often they are looked at, and so how soon what is new in them is in force.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);
/// A look costs each file a few microseconds; with very many of them, looks are rarer.
const LOOK_OF_ONE: Duration = Duration::from_micros(100);
/// Larger files are none of those that are meant.
const MOST_BYTES: u64 = 1024 * 1024;

/// What tells that a file is another one, or has something else in it.
type Mark = (u64, u64, u64, i64, i64);

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

/// Tells the controller of files that change, for ever. What is found first is told, too: a file may
/// have changed while nobody looked.
pub async fn follow(handle: Handle) {
    let mut seen: BTreeMap<MaterialId, Option<Mark>> = BTreeMap::new();
    loop {
        let Ok(files) = handle.look(|controller| controller.files()).await else { return };
        let many = u32::try_from(files.len()).unwrap_or(u32::MAX);
        let looked = tokio::task::spawn_blocking(move || {
            let marks: BTreeMap<_, _> =
                files.into_iter().map(|id| (id.clone(), id.path().and_then(mark))).collect();
            let changed = marks.iter().filter(|(id, mark)| seen.get(*id) != Some(mark));
            let found = read(changed.map(|(id, _)| id));
            (marks, found)
        });
        let Ok((marks, found)) = looked.await else { return };
        seen = marks;
        if !(found.materials.is_empty() && found.unreadable.is_empty())
            && handle.send(Event::Found(found)).await.is_err()
        {
            return;
        }
        tokio::time::sleep(LOOK_INTERVAL.max(LOOK_OF_ONE * many)).await;
    }
}

fn mark(path: &str) -> Option<Mark> {
    let metadata = fs::metadata(path).ok()?;
    let (changed, nanos) = (metadata.ctime(), metadata.ctime_nsec());
    Some((metadata.dev(), metadata.ino(), metadata.size(), changed, nanos))
}
