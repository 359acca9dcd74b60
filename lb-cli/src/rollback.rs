//! `lb rollback`: back to what was.

use std::process::ExitCode;

use lb_proto::{parse, v1};

use crate::{
    client::{
        Remote, by_hand,
        proposal::{self, Consent},
    },
    output::Output,
};

/// Make the fleet what it was at a revision
///
/// Shows what would change, asks, and changes exactly that: if somebody else changes the fleet in
/// between, nothing is changed. It is a revision of its own, so it can be rolled back too.
#[derive(Debug, clap::Args)]
#[command(after_long_help = after_help())]
pub struct Args {
    /// Which one; lb history lists them
    revision: u64,

    #[command(flatten)]
    consent: Consent,

    #[command(flatten)]
    output: Output,

    #[command(flatten)]
    remote: Remote,
}

fn after_help() -> String {
    format!(
        "{}\n\n\
         Examples:\n  \
         lb rollback 11\n  \
         lb rollback 11 --dry-run\n  \
         lb rollback 11 --yes --comment 'the canary fails'",
        proposal::EXIT_CODES
    )
}

/// # Errors
/// If there is no such revision, or the controller refuses.
pub async fn main(args: Args) -> anyhow::Result<ExitCode> {
    let Args { revision, consent, output, remote } = args;
    let controller = remote.connect().await?;
    let asked = v1::GetRequest::default();
    let got = controller.call(async |mut api| api.get(asked).await).await?;
    if !output.json && !got.overrides.is_empty() {
        let (_, then) = controller.get(Some(revision)).await?;
        let is_there = |by_hand: &&v1::Override| {
            let sets = then.backend_sets.iter().filter(|set| set.name == by_hand.backend_set);
            let mut backends = sets.flat_map(|set| &set.backends);
            backends.any(|backend| parse::name_of(backend) == by_hand.backend)
        };
        crate::print(&by_hand::notes(got.overrides.iter().filter(is_there)));
    }
    proposal::settle(&controller, &output, &consent, false, async |expected_revision, dry_run| {
        let comment = consent.comment.clone();
        let request = v1::RollbackRequest { revision, expected_revision, dry_run, comment };
        controller.call(async |mut api| api.rollback(request).await).await
    })
    .await
}
