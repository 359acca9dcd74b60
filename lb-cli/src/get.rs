//! `lb get`: the desired state as TOML, as `lb apply` takes it back.

use std::process::ExitCode;

use anyhow::bail;
use clap::builder::PossibleValue;
use lb_proto::{file::Document, parse, v1};

use crate::{
    client::{Remote, by_hand},
    output::{self, Output},
};

/// Print the desired state, or a part of it, as TOML
///
/// lb apply takes it back unchanged. What lb drain and lb weight set is told at its end, as comments:
/// that holds instead of what is asked for. A part says `partial = true` at its top, so that it is never
/// taken for the whole: applied, it changes what it names and leaves the rest as it is.
#[derive(Debug, clap::Args)]
#[command(after_long_help = AFTER_HELP)]
pub struct Args {
    /// Only listeners, routes or backend_sets
    #[arg(value_name = "KIND", hide_possible_values = true)]
    kind: Option<Kind>,

    /// Only the one of this name
    #[arg(requires = "kind")]
    name: Option<String>,

    /// As it was at this revision
    #[arg(long, value_name = "REVISION")]
    revision: Option<u64>,

    #[command(flatten)]
    output: Output,

    #[command(flatten)]
    remote: Remote,
}

const AFTER_HELP: &str = "\
Exit codes:
  0  printed
  1  failed, or there is nothing of that name
  2  wrong usage

Examples:
  lb get > lb.toml
  lb get routes
  lb get backend_set app
  lb get --revision 3 route app | lb apply -f -
  lb get --json | jq '.spec.routes[].name'";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Listeners,
    Routes,
    BackendSets,
    Certificates,
}

/// # Errors
/// If there is nothing of that name, or the controller does not say.
pub async fn main(args: Args) -> anyhow::Result<ExitCode> {
    let controller = args.remote.connect().await?;
    let asked = v1::GetRequest { revision: args.revision };
    let got = controller.call(async |mut api| api.get(asked).await).await?;
    let v1::GetResponse { revision, spec, mut overrides } = got;
    let mut spec = spec.unwrap_or_default();
    if let Some(kind) = args.kind {
        spec = part(spec, kind, args.name.as_deref())?;
        overrides.retain(|one| spec.backend_sets.iter().any(|set| set.name == one.backend_set));
    }
    if args.output.json {
        output::json(&v1::GetResponse { revision, spec: Some(spec), overrides })?;
    } else {
        let document = Document { spec, partial: args.kind.is_some() };
        let by_hand = by_hand::comments(&overrides);
        crate::print(&format!("# revision {revision}\n{}{by_hand}", document.to_toml()));
    }
    Ok(ExitCode::SUCCESS)
}

fn part(spec: v1::Spec, kind: Kind, name: Option<&str>) -> anyhow::Result<v1::Spec> {
    let v1::Spec { listeners, routes, backend_sets, certificates } = spec;
    let nothing = v1::Spec::default();
    Ok(match kind {
        Kind::Listeners => {
            let listeners = named(listeners, "listener", name, |listener| &listener.name)?;
            v1::Spec { listeners, ..nothing }
        }
        Kind::Routes => {
            let routes = named(routes, "route", name, |route| &route.name)?;
            v1::Spec { routes, ..nothing }
        }
        Kind::BackendSets => {
            let backend_sets = named(backend_sets, "backend set", name, |set| &set.name)?;
            v1::Spec { backend_sets, ..nothing }
        }
        Kind::Certificates => {
            let certificates =
                named(certificates, "certificate", name, |certificate| &certificate.name)?;
            v1::Spec { certificates, ..nothing }
        }
    })
}

fn named<T>(
    mut items: Vec<T>,
    noun: &str,
    name: Option<&str>,
    name_of: impl Fn(&T) -> &String,
) -> anyhow::Result<Vec<T>> {
    let Some(name) = name else { return Ok(items) };
    if !items.iter().any(|item| name_of(item) == name) {
        let known = parse::list(items.iter().map(&name_of));
        bail!("no {noun} is called {name:?}; there are {known}");
    }
    items.retain(|item| name_of(item) == name);
    Ok(items)
}

// === impl Kind ===

impl clap::ValueEnum for Kind {
    fn value_variants<'a>() -> &'a [Self] {
        &[Self::Listeners, Self::Routes, Self::BackendSets, Self::Certificates]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(match self {
            Self::Listeners => PossibleValue::new("listeners").alias("listener"),
            Self::Routes => PossibleValue::new("routes").alias("route"),
            Self::BackendSets => PossibleValue::new("backend_sets").aliases([
                "backend_set",
                "backend-sets",
                "backend-set",
                "sets",
                "set",
            ]),
            Self::Certificates => {
                PossibleValue::new("certificates").aliases(["certificate", "certs", "cert"])
            }
        })
    }
}
