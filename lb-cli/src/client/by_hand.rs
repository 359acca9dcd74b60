//! What was set by hand of backends, in words.

use lb_proto::v1;

use super::when;

/// `draining and weight 3, by ann@ops1 5m ago`
pub fn said(by_hand: &v1::Override) -> String {
    let v1::Override { weight, state, author, time, .. } = by_hand;
    let state = Some(state.clone()).filter(|state| !state.is_empty());
    let weight = weight.map(|weight| format!("weight {weight}"));
    let what: Vec<_> = state.into_iter().chain(weight).collect();
    let by = if author.is_empty() { String::new() } else { format!("by {author} ") };
    format!("{}, {by}{}", what.join(" and "), when::ago(time.as_ref()))
}

/// That a rollback does not change it, a line each.
pub fn notes<'a>(overrides: impl Iterator<Item = &'a v1::Override>) -> String {
    let note = |by_hand: &v1::Override| {
        let v1::Override { backend_set, backend, .. } = by_hand;
        format!("stays as it was set by hand: {backend_set}/{backend}: {}\n", said(by_hand))
    };
    overrides.map(note).collect()
}

/// Comments for the end of a spec in TOML: what holds instead of what it says.
pub fn comments(overrides: &[v1::Override]) -> String {
    if overrides.is_empty() {
        return String::new();
    }
    let mut text = String::from("\n# Set by hand, and in force whatever this file says:\n");
    for by_hand in overrides {
        let v1::Override { backend_set, backend, weight, state, .. } = by_hand;
        let name = format!("{backend_set}/{backend}");
        let mut ends = Vec::new();
        match state.as_str() {
            "" => {}
            "draining" => ends.push(format!("lb undrain {name}")),
            _ => ends.push(format!("lb undrain {name} --reset")),
        }
        if weight.is_some() {
            ends.push(format!("lb weight {name} --reset"));
        }
        text.push_str(&format!("#   {name}: {} ({})\n", said(by_hand), ends.join(", ")));
    }
    text
}
