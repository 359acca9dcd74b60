//! Whether an update is taken. Pure: what runs, what is offered, and nothing else.
//!
//! # A fleet is not emptied by accident
//!
//! Operators may delete everything, and that is a change like any other: its revision is greater
//! than the one that runs. State that comes without its listeners, routes or backends and is no
//! later change was lost somewhere (an empty store, a controller that publishes before it has
//! loaded), and to serve it would be an outage of everything. So it is refused.

use lb_common::snapshot::{Snapshot, Version};
use lb_proto::{
    update::{self, Sealed, UpdateError},
    v1,
};

use super::InstallError;

/// What an acceptable update comes to.
#[derive(Debug)]
pub enum Offer {
    /// What runs already.
    Running,
    New(Box<Sealed>),
}

/// Why an update is not taken.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    #[error("the update does not say which snapshot it leads to")]
    Unnamed,
    #[error(
        "{offered} is not after {running}, which runs here; (epoch, version) never goes backwards"
    )]
    Stale { offered: Version, running: Version },
    #[error(transparent)]
    Update(#[from] UpdateError),
    #[error(
        "the controller has no {what} at its revision {revision}, and this proxy has some at {running}: \
         nobody removed them, so the controller has lost them. Restore its backup, or apply its file again"
    )]
    Emptied { what: &'static str, running: Version, revision: u64 },
    #[error("{}", .0.reason)]
    Install(#[from] InstallError),
}

/// # Errors
/// Says why the update is not to be taken.
pub fn judge(base: Option<&Sealed>, update: &v1::Update) -> Result<Offer, Refusal> {
    let id = update.snapshot.as_ref().map(update::parse_snapshot_id).ok_or(Refusal::Unnamed)?;
    let running = base.map(|base| &*base.snapshot);
    if let Some(running) = running {
        if id == running.id {
            return Ok(Offer::Running);
        }
        if id.version <= running.id.version {
            let (offered, running) = (id.version, running.id.version);
            return Err(Refusal::Stale { offered, running });
        }
    }
    let sealed = match &update.content {
        Some(v1::update::Content::Full(bytes)) => Sealed::open(id, update.revision, bytes)?,
        Some(v1::update::Content::Delta(bytes)) => match base {
            Some(base) => base.follow(id, update.revision, bytes)?,
            None => Sealed::default().follow(id, update.revision, bytes)?,
        },
        Some(v1::update::Content::Part(_)) | None => return Err(UpdateError::Empty.into()),
    };
    if let Some(running) = running
        && sealed.snapshot.revision <= running.revision
        && let Some(what) = lost(running, &sealed.snapshot)
    {
        let revision = sealed.snapshot.revision;
        return Err(Refusal::Emptied { what, running: running.id.version, revision });
    }
    Ok(Offer::New(Box::new(sealed)))
}

/// Of what there was some and is none any more.
fn lost(from: &Snapshot, to: &Snapshot) -> Option<&'static str> {
    let no_backends = |state: &Snapshot| state.members.values().all(|set| set.is_empty());
    if to.desired.listeners.is_empty() && !from.desired.listeners.is_empty() {
        Some("listeners")
    } else if to.desired.routes.is_empty() && !from.desired.routes.is_empty() {
        Some("routes")
    } else if no_backends(to) && !no_backends(from) {
        Some("backends")
    } else {
        None
    }
}

// === impl Refusal ===

impl Refusal {
    /// The part of the update that is at fault, like `routes[app]`; empty if none can be named.
    pub fn resource(&self) -> &str {
        match self {
            Self::Unnamed | Self::Stale { .. } => "",
            Self::Update(error) => error.resource(),
            Self::Emptied { what, .. } => what,
            Self::Install(error) => &error.resource,
        }
    }
}

#[cfg(test)]
mod tests {
    use lb_proto::{file, parse, update::Content};

    use super::*;

    const ALL: &str = "
        listeners = [{ name = 'web', address = '127.0.0.1:80' }]
        routes = [{ name = 'app', backend_set = 'app' }]
        backend_sets = [{ name = 'app', backends = [{ address = '127.0.0.1:1' }] }]";
    const NO_LISTENERS: &str = "
        routes = [{ name = 'app', backend_set = 'app' }]
        backend_sets = [{ name = 'app', backends = [{ address = '127.0.0.1:1' }] }]";
    const NO_ROUTES: &str = "
        listeners = [{ name = 'web', address = '127.0.0.1:80' }]
        backend_sets = [{ name = 'app', backends = [{ address = '127.0.0.1:1' }] }]";
    const NO_BACKENDS: &str = "
        listeners = [{ name = 'web', address = '127.0.0.1:80' }]
        routes = [{ name = 'app', backend_set = 'app' }]
        backend_sets = [{ name = 'app' }]";
    const NOTHING: &str = "";

    fn sealed(version: (u64, u64), revision: u64, text: &str) -> Sealed {
        let spec = file::parse(text).unwrap_or_else(|errors| panic!("{errors}"));
        let desired = parse::desired_state(&spec).unwrap_or_else(|problems| panic!("{problems}"));
        let version = Version { epoch: version.0, version: version.1 };
        Sealed::new(version, revision, Content::of(desired))
    }

    fn full(sealed: &Sealed) -> v1::Update {
        v1::Update {
            snapshot: Some(update::snapshot_id(sealed.snapshot.id)),
            revision: sealed.snapshot.revision,
            content: Some(v1::update::Content::Full(sealed.resources.encode())),
        }
    }

    #[test]
    fn versions_only_go_forward() {
        let running = sealed((2, 5), 1, ALL);
        #[rustfmt::skip]
        let cases = [
            // offered and what is in it, taken
            ((2, 6), ALL,         true),
            ((2, 9), ALL,         true),
            ((3, 1), ALL,         true),
            ((2, 5), ALL,         true),  // the very same
            ((2, 5), NOTHING,     false), // the same version of something else
            ((2, 4), ALL,         false),
            ((1, 9), ALL,         false),
        ];
        for (version, text, taken) in cases {
            let judged = judge(Some(&running), &full(&sealed(version, 1, text)));
            match &judged {
                Ok(_) => assert!(taken, "{version:?}"),
                Err(Refusal::Stale { .. }) => assert!(!taken, "{version:?}"),
                Err(other) => panic!("{version:?}: {other}"),
            }
        }
    }

    #[test]
    fn only_a_later_change_may_empty_the_fleet() {
        #[rustfmt::skip]
        let cases = [
            // what runs, offered revision and state, what it lacks
            (ALL,         7, NO_LISTENERS, Some("listeners")),
            (ALL,         7, NO_ROUTES,    Some("routes")),
            (ALL,         7, NO_BACKENDS,  Some("backends")),
            (ALL,         7, NOTHING,      Some("listeners")),
            (ALL,         3, NOTHING,      Some("listeners")),
            (ALL,         8, NOTHING,      None), // an operator deleted it all
            (ALL,         8, NO_BACKENDS,  None),
            (ALL,         3, ALL,          None), // a restored store
            (NO_BACKENDS, 7, NO_BACKENDS,  None), // it was empty before
            (NOTHING,     7, NOTHING,      None),
        ];
        for (runs, revision, offered, expected) in cases {
            let running = sealed((1, 1), 7, runs);
            let judged = judge(Some(&running), &full(&sealed((1, 2), revision, offered)));
            let lacks = match judged {
                Ok(_) => None,
                Err(Refusal::Emptied { what, .. }) => Some(what),
                Err(other) => panic!("{other}"),
            };
            assert_eq!(lacks, expected, "revision {revision} of {offered:?}");
        }
    }

    #[test]
    fn a_proxy_that_runs_nothing_takes_whatever_is_valid() {
        assert!(matches!(judge(None, &full(&sealed((1, 1), 0, NOTHING))), Ok(Offer::New(_))));
        let unnamed = v1::Update { snapshot: None, ..full(&sealed((1, 1), 0, ALL)) };
        assert!(matches!(judge(None, &unnamed), Err(Refusal::Unnamed)));
        let hollow = v1::Update { content: None, ..full(&sealed((1, 1), 0, ALL)) };
        assert!(matches!(judge(None, &hollow), Err(Refusal::Update(UpdateError::Empty))));
    }
}
