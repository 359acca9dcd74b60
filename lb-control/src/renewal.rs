//! Files that change by themselves. They are looked at, not watched, so that replacing them by a rename, a
//! symbolic link or a mount all work.

use std::{collections::BTreeMap, fs, os::unix::fs::MetadataExt, time::Duration};

use lb_common::{clock, material::MaterialId};

use crate::{controller::Event, files, owner::Handle};

/// How often they are looked at, and so how soon what is new in them is in force.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);
/// A look costs each file a few microseconds; with very many of them, looks are rarer.
const LOOK_OF_ONE: Duration = Duration::from_micros(100);
/// What was of no use may be by now, though nobody touched it: a certificate's time has come.
const AGAIN: Duration = Duration::from_secs(60);
/// What tells that a file is another one, or has something else in it.
type Mark = (u64, u64, u64, i64, i64);

/// Tells the controller of files that change, for ever. What is found first is told, too: a file may
/// have changed while nobody looked.
pub async fn follow(handle: Handle) {
    let mut seen: BTreeMap<MaterialId, Option<Mark>> = BTreeMap::new();
    let mut again = clock::now() + AGAIN;
    loop {
        if again <= clock::now() {
            let Ok(waiting) = handle.look(|controller| controller.waiting()).await else { return };
            seen.retain(|id, _| !waiting.contains(id));
            again = clock::now() + AGAIN;
        }
        let Ok(files) = handle.look(|controller| controller.files()).await else { return };
        let many = u32::try_from(files.len()).unwrap_or(u32::MAX);
        let looked = tokio::task::spawn_blocking(move || {
            let marks: BTreeMap<_, _> =
                files.into_iter().map(|id| (id.clone(), id.path().and_then(mark))).collect();
            let changed = marks.iter().filter(|(id, mark)| seen.get(*id) != Some(mark));
            let found = files::read(changed.map(|(id, _)| id));
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
