//! Whether two answers of a command say the same, apart from what differs each time.

/// A line of an expected answer that stands for any lines, or none.
pub const ANYTHING: &str = "...";

/// # Errors
/// The first line that differs.
pub fn same(expected: &str, actual: &str) -> Result<(), String> {
    // How a drain goes on its way depends on when it is looked at.
    let is_progress = |line: &&str| line.contains(" in flight, ") || line.contains("waiting for ");
    let lines = |text: &str| -> Vec<_> {
        text.lines().filter(|line| !is_progress(line)).map(constant).collect()
    };
    let (expected, actual) = (lines(expected), lines(actual));
    same_lines(&expected, &actual)
}

fn same_lines(expected: &[String], actual: &[String]) -> Result<(), String> {
    match (expected, actual) {
        ([], []) => Ok(()),
        ([first, rest @ ..], _) if first == ANYTHING => {
            let fits = (0..=actual.len()).any(|skip| same_lines(rest, &actual[skip..]).is_ok());
            if fits { Ok(()) } else { Err(format!("nothing after ... fits {rest:?}")) }
        }
        ([first, rest @ ..], [other, others @ ..]) if first == other => same_lines(rest, others),
        ([], [other, ..]) => Err(format!("there is more: {other:?}")),
        ([first, ..], []) => Err(format!("{first:?} is missing")),
        ([first, ..], [other, ..]) => Err(format!("{first:?} became {other:?}")),
    }
}

/// The line without what differs each time, and without the width of its columns. How many versions
/// came before one depends on how the first probes went.
fn constant(line: &str) -> String {
    let mut after_version = false;
    let words = line.split_whitespace().map(|text| {
        let shown = if after_version { "#".into() } else { word(text) };
        let before_version = ["(version", "version", "sync", "unknown"];
        after_version = before_version.contains(&text);
        shown
    });
    // "now" is less than a second "ago".
    words.collect::<Vec<_>>().join(" ").replace("# ago", "now")
}

fn word(word: &str) -> String {
    // As in the name of a file.
    let is_stamp = |part: &&str| {
        let (date, time) = part.split_once('T').unwrap_or_default();
        let is_all = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        date.len() == 8 && is_all(date) && time.strip_suffix('Z').is_some_and(is_all)
    };
    if let Some(stamp) = word.split(['-', '.']).find(is_stamp) {
        return word.replacen(stamp, "#", 1);
    }
    let bare = word.trim_matches(|c: char| !c.is_ascii_alphanumeric());
    let is_number = |text: &str| text.parse::<f64>().is_ok();
    let unit = bare.trim_end_matches(|c: char| c.is_alphabetic() || c == '/');
    let is_duration = unit != bare && is_number(unit);
    let is_rate = bare.contains('.') && is_number(bare);
    let is_hash = bare.len() >= 8 && bare.chars().all(|c| c.is_ascii_hexdigit());
    let is_version = bare
        .split_once('.')
        .is_some_and(|(epoch, version)| epoch.len() > 9 && is_number(epoch) && is_number(version));
    let is_time = bare.len() >= 8
        && bare.contains(':')
        && bare.starts_with(char::is_numeric)
        && bare.chars().all(|c| c.is_ascii_digit() || "-:TZ.+".contains(c))
        || bare.len() == 10 && bare.split('-').count() == 3 && bare.starts_with("20");
    // Those that are named in a guide are below the system's own.
    let port = bare.strip_prefix("127.0.0.1:").and_then(|port| port.parse::<u16>().ok());
    let is_ephemeral = port.is_some_and(|port| port > 32_767);
    let is_time = is_time && port.is_none();
    if is_duration || is_rate || is_hash || is_version || is_time || is_ephemeral {
        word.replacen(bare, "#", 1)
    } else {
        word.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_widths_may_differ_and_all_else_may_not() {
        let line = "p1  in sync  1795320000000.4  3.5s ago  2026-11-22T04:05:06Z";
        let later = "p1 in sync 1795320000999.4 12s ago 2026-11-23T00:00:00Z";
        assert_eq!(same(line, later), Ok(()));
        for (before, after) in [("p1", "p2"), ("in sync", "behind")] {
            assert!(same(line, &line.replace(before, after)).is_err(), "{before} -> {after}");
        }
        assert!(same("weight: 1 -> 3\n", "weight: 1 -> 4\n").is_err());
        assert_eq!(same("revision 3 (version 4)", "revision 3 (version 5)"), Ok(()));
        assert_eq!(same("p2 lost 2s ago unknown 4", "p2 lost 9s ago unknown 6"), Ok(()));
        let backup = "backups/lb-20261126T181501Z-revision-2.backup";
        assert_eq!(same(backup, &backup.replace("1501", "0000")), Ok(()));
        assert!(same(backup, &backup.replace("-2", "-3")).is_err());
        assert_eq!(same("p1 127.0.0.1:40001", "p1 127.0.0.1:50002"), Ok(()));
        assert!(same("127.0.0.1:3001 up", "127.0.0.1:3002 up").is_err());
        assert!(same("a\nb\n", "a\n").is_err());
        assert_eq!(same("a\n...\nd", "a\nb\nc\nd"), Ok(()));
        assert!(same("a\n...\nd", "a\nb\nc").is_err());
    }
}
