//! What becomes of a change at the proxies.

use std::{collections::BTreeSet, process::ExitCode, time::Duration};

use lb_common::clock;
use lb_proto::{duration, v1};

use super::{Controller, Refused};

/// So long it is looked at without being asked to: proxies take milliseconds.
const A_LOOK: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(20);

/// A proxy refused it, or part of it does not work there.
pub const REFUSED: u8 = 5;
/// Not all run it within the time, or nobody is there to.
pub const LATE: u8 = 6;

#[derive(Debug, Default, PartialEq, Eq)]
struct Arrival {
    /// So many are connected.
    connected: usize,
    /// Who does not run it or not all of it, and why.
    refused: Vec<String>,
    /// Who has not answered.
    late: Vec<String>,
    /// Who was connected when it was asked for, and is not any more.
    lost: Vec<String>,
}

/// Says what connected proxies made of a revision: at once if they all run it, or else after a moment, or
/// after `wait`. Returns what the command is to exit with.
///
/// # Errors
/// If the controller goes away meanwhile.
pub async fn tell(
    controller: &Controller,
    revision: u64,
    wait: Option<Duration>,
) -> Result<ExitCode, Refused> {
    let deadline = clock::now() + wait.unwrap_or(A_LOOK);
    let mut seen = BTreeSet::new();
    let Arrival { connected, refused, late, lost } = loop {
        let request = v1::ListProxiesRequest {};
        let listed = controller.call(async |mut api| api.list_proxies(request).await).await?;
        let arrival = Arrival::of(revision, &listed.proxies, &mut seen);
        // Right after a restart of the controller, its proxies are about to come back.
        let is_through = arrival.late.is_empty() && (arrival.connected > 0 || wait.is_none());
        if is_through || clock::now() >= deadline {
            break arrival;
        }
        tokio::time::sleep(PAUSE).await;
    };
    let nobody = connected == 0 && wait.is_some();
    if nobody {
        crate::complain(&format!("revision {revision}: no proxy is connected that could run it"));
    }
    for id in &lost {
        let what = "was lost meanwhile, and is not waited for";
        crate::complain(&format!("revision {revision}: {id} {what}"));
    }
    for one in &refused {
        crate::complain(&format!("revision {revision}: {one}"));
    }
    if !late.is_empty() {
        let late = crate::output::some(&late);
        let within = wait.map(|wait| format!(" within {}", duration::format(wait)));
        let within = within.unwrap_or_else(|| " yet; --wait waits for that".into());
        crate::complain(&format!("revision {revision} is not run by {late}{within}"));
    }
    let is_late = nobody || (!late.is_empty() && wait.is_some());
    Ok(match (refused.is_empty(), is_late) {
        (false, _) => ExitCode::from(REFUSED),
        (true, true) => ExitCode::from(LATE),
        (true, false) => ExitCode::SUCCESS,
    })
}

// === impl Arrival ===

impl Arrival {
    /// `seen` are those that were connected before.
    fn of(revision: u64, proxies: &[v1::Proxy], seen: &mut BTreeSet<String>) -> Self {
        let mut arrival = Self::default();
        for proxy in proxies {
            let v1::Proxy { id, rejection, .. } = proxy;
            if !proxy.connected {
                arrival.lost.extend(seen.get(id).cloned());
                continue;
            }
            arrival.connected += 1;
            seen.insert(id.clone());
            if !rejection.is_empty() && proxy.rejected_revision >= revision {
                arrival.refused.push(format!("{id} refuses it: {rejection}"));
            } else if proxy.revision < revision {
                arrival.late.push(id.clone());
            } else if !proxy.problems.is_empty() {
                let what = super::trouble::note(proxy);
                arrival.refused.push(format!("{id} does not run all of it: {what}"));
            }
        }
        arrival
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxies_run_it_refuse_it_or_have_not_answered() {
        let proxy = |id: &str, revision| v1::Proxy {
            id: id.into(),
            connected: true,
            revision,
            ..v1::Proxy::default()
        };
        let refuses = |id, rejected_revision| v1::Proxy {
            rejection: "too odd".into(),
            rejected_revision,
            ..proxy(id, 3)
        };
        let problem = v1::Problem { resource: "listeners[web]".into(), reason: "in use".into() };
        let proxies = [
            proxy("runs", 4),
            proxy("later", 5),
            proxy("slow", 3),
            refuses("refused", 4),
            refuses("refused-before", 3),
            v1::Proxy { problems: vec![problem], ..proxy("partly", 4) },
            v1::Proxy { connected: false, ..proxy("gone", 1) },
        ];
        let expected = Arrival {
            connected: 6,
            refused: vec![
                "refused refuses it: too odd".into(),
                "partly does not run all of it: listeners[web]: in use".into(),
            ],
            late: vec!["slow".into(), "refused-before".into()],
            lost: vec![],
        };
        let mut seen = BTreeSet::new();
        assert_eq!(Arrival::of(4, &proxies, &mut seen), expected);
        let lost = [v1::Proxy { connected: false, ..proxy("slow", 3) }];
        let lost = Arrival::of(4, &lost, &mut seen);
        assert_eq!(lost, Arrival { lost: vec!["slow".into()], ..Arrival::default() });
    }
}
