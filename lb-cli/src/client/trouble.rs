//! Why a proxy does not run what it should, or not all of it.

use lb_proto::v1;

/// What it refused, or what of what it runs does not work there; empty if all is well.
pub fn of(proxy: &v1::Proxy) -> String {
    match proxy.rejection.is_empty() {
        true => note(proxy),
        false => format!("refused the latest update: {}", proxy.rejection),
    }
}

/// The same where it is told already whether it refused.
pub fn note(proxy: &v1::Proxy) -> String {
    if !proxy.rejection.is_empty() {
        return proxy.rejection.clone();
    }
    let problems = proxy.problems.iter();
    let problems: Vec<_> =
        problems.map(|one| format!("{}: {}", one.resource, one.reason)).collect();
    problems.join("; ")
}
