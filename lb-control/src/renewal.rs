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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use futures_util::StreamExt;
    use lb_proto::v1::{self, event::Event as News};

    use super::*;
    use crate::{
        controller::Change,
        desired::{Batch, tests::request},
        owner::Terms,
    };

    /// A certificate and its key in one file, good from then on.
    fn write(path: &Path, from: Duration) {
        let mut params = rcgen::CertificateParams::new(["a.test".into()]).expect("a name");
        params.not_before = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(from.as_secs());
        params.not_after = rcgen::date_time_ymd(2090, 1, 1);
        let key = rcgen::KeyPair::generate().expect("it is made");
        let cert = params.self_signed(&key).expect("it signs").pem();
        let next = path.with_extension("next");
        fs::write(&next, [cert, key.serialize_pem()].concat()).expect("it is our directory");
        fs::rename(next, path).expect("it is our directory");
    }

    #[tokio::test(start_paused = true)]
    async fn a_certificate_whose_time_had_not_come_is_in_force_once_it_has() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("a.pem");
        write(&path, Duration::ZERO);
        let started = crate::start(None, None).await.expect("it starts");
        let path_text = path.to_str().expect("it is text");
        let certificate =
            format!("{{\"name\": \"a\", \"cert\": {path_text:?}, \"key\": {path_text:?}}}");
        let batch = Batch::parse(request(&format!("{{\"certificates\": [{certificate}]}}")));
        let change = Change::Batch(Box::new(batch.expect("it is right")));
        let applied = started.handle.mutate(change, Terms::default()).await;
        applied.expect("it is in force");

        let mut events = started.handle.watch();
        let following = tokio::spawn(follow(started.handle.clone()));
        let begin = clock::wall() + Duration::from_secs(2);
        write(&path, begin);
        let mut told = Vec::new();
        // The time of day is not paused: looks follow each other as fast as they can until then.
        let is_told = async {
            while told.last().is_none_or(|what| what != "mended") {
                if let Some(News::Certificate(v1::CertificateChanged { what, .. })) =
                    events.next().await.expect("it goes on").event
                {
                    told.push(what);
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(24 * 3600), is_told).await.expect("it comes");
        assert_eq!(told, ["problem", "in_force", "mended"]);
        assert!(clock::wall() + Duration::from_secs(1) >= begin, "not before its time");
        following.abort();
        started.running.stop().await;
    }
}
