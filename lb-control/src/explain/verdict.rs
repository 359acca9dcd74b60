//! What is said of each route.

use std::{net::IpAddr, sync::Arc};

use lb_common::{id::RouteName, spec};
use lb_proto::v1;
use lb_routing::route::{Standing, Verdict};

/// The listener that takes what is asked about.
pub struct Taken {
    pub listener: Arc<spec::Listener>,
    /// Why that one.
    pub why: String,
    /// Who is connected.
    pub from: IpAddr,
}

/// In the API's words.
pub fn verdicts<R>(verdicts: &[Verdict<'_, R>]) -> Vec<v1::RouteVerdict> {
    let matching = verdicts.iter().filter(|v| !matches!(v.standing, Standing::Mismatched(_)));
    let (chosen, matching) = (matching.clone().next(), matching.count());
    let chosen = chosen.map(|verdict| &verdict.route.name);
    verdicts.iter().map(|verdict| wire(verdict, chosen, matching)).collect()
}

/// Of routes that nobody asks, because of this.
pub fn not_asked<R>(verdicts: &[Verdict<'_, R>], because: &str) -> Vec<v1::RouteVerdict> {
    let verdict = |verdict: &Verdict<'_, R>| v1::RouteVerdict {
        route: verdict.route.name.to_string(),
        why: format!("not asked, because {because}"),
        ..v1::RouteVerdict::default()
    };
    verdicts.iter().map(verdict).collect()
}

fn wire<R>(
    verdict: &Verdict<'_, R>,
    chosen: Option<&RouteName>,
    matching: usize,
) -> v1::RouteVerdict {
    let why = match &verdict.standing {
        Standing::Chosen if matching == 1 => "the only one that matches".into(),
        Standing::Chosen => format!("the most specific of {matching} that match"),
        Standing::Surpassed => {
            format!("less specific than {}", chosen.map_or("another", RouteName::as_str))
        }
        Standing::Mismatched(reasons) => {
            let reasons: Vec<_> = reasons.iter().map(ToString::to_string).collect();
            reasons.join("; ")
        }
    };
    v1::RouteVerdict {
        route: verdict.route.name.to_string(),
        chosen: matches!(verdict.standing, Standing::Chosen),
        matches: !matches!(verdict.standing, Standing::Mismatched(_)),
        why,
    }
}
