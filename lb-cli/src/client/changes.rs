//! Differences between two states, as operators see them.

use lb_proto::v1::{self, change::Kind};

use crate::output::{self, Output, Paint, Screen, count, one_line};

/// That a change was made, and which.
///
/// # Errors
/// If it cannot be written.
pub fn tell_done(done: &v1::ApplyResponse, output: &Output) -> anyhow::Result<()> {
    if output.json {
        output::json(done)?;
    } else if done.changes.is_empty() {
        crate::print(&format!(
            "nothing to change: revision {} has it all already\n",
            done.revision
        ));
    } else {
        crate::print(&lines(&done.changes, &output.colors.screen()));
        crate::print(&format!("done: revision {}\n", done.revision));
    }
    Ok(())
}

/// One change a line:
///
/// ```text
///   + routes[new]: { backend_set: app }
///   - backend_sets[app].backends[10.0.0.1:3002]: { address: 10.0.0.1:3002 }
///   ~ backend_sets[app].backends[10.0.0.1:3001].weight: 1 -> 3
/// ```
pub fn lines(changes: &[v1::Change], screen: &Screen) -> String {
    let line = |change| {
        let (sign, paint, text) = parts(change);
        let text = screen.wrap(&text, 4, 6);
        format!("  {} {text}\n", screen.paint(paint, sign))
    };
    changes.iter().map(line).collect()
}

/// `3 changes: 1 added, 2 changed`
pub fn summary(changes: &[v1::Change]) -> String {
    let of = |kind: Kind| changes.iter().filter(|change| change.kind() == kind).count();
    let kinds = [(Kind::Added, "added"), (Kind::Removed, "removed"), (Kind::Changed, "changed")];
    let kinds = kinds.map(|(kind, word)| (of(kind), word));
    let kinds: Vec<_> =
        kinds.iter().filter(|(n, _)| *n > 0).map(|(n, word)| format!("{n} {word}")).collect();
    format!("{}: {}", count(changes.len(), "change"), kinds.join(", "))
}

/// All of them in one line, for a table.
pub fn short(changes: &[v1::Change]) -> String {
    match changes {
        [] => "nothing".into(),
        [only] => one(only),
        [first, rest @ ..] => format!("{} (+{} more)", one(first), rest.len()),
    }
}

fn one(change: &v1::Change) -> String {
    let (sign, _, text) = parts(change);
    let v1::Change { field, .. } = change;
    // What comes or goes is too long for a line, and its name says enough.
    match change.kind() {
        Kind::Added | Kind::Removed => format!("{sign} {field}"),
        Kind::Changed | Kind::Unspecified => text,
    }
}

fn parts(change: &v1::Change) -> (&'static str, Paint, String) {
    let v1::Change { field, before, after, .. } = change;
    let (sign, paint, text) = match change.kind() {
        Kind::Added => ("+", Paint::Good, format!("{field}: {after}")),
        Kind::Removed => ("-", Paint::Bad, format!("{field}: {before}")),
        Kind::Changed | Kind::Unspecified => {
            ("~", Paint::Warn, format!("{field}: {before} -> {after}"))
        }
    };
    (sign, paint, one_line(&text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(kind: Kind, field: &str, before: &str, after: &str) -> v1::Change {
        v1::Change {
            kind: kind.into(),
            field: field.into(),
            before: before.into(),
            after: after.into(),
        }
    }

    #[test]
    fn changes_are_told_by_line_by_number_and_in_short() {
        let changes = [
            change(Kind::Changed, "routes[a].timeout", "30s", "5s"),
            change(Kind::Added, "routes[b]", "", "{ name: b }"),
        ];
        let screen = Screen { width: None, color: false };
        assert_eq!(
            lines(&changes, &screen),
            "  ~ routes[a].timeout: 30s -> 5s\n  + routes[b]: { name: b }\n"
        );
        assert_eq!(summary(&changes), "2 changes: 1 added, 1 changed");
        assert_eq!(short(&changes), "routes[a].timeout: 30s -> 5s (+1 more)");
        assert_eq!(short(&changes[1..]), "+ routes[b]");
    }
}
