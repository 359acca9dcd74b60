//! The access log as tests read it.

use std::{fs, path::Path};

use serde_json::Value;

use crate::{
    eventually::{eventually, holds},
    fleet::Fleet,
};

/// Adds a proxy of one worker with such a log to a fleet that has none, and applies `spec`.
///
/// # Panics
/// If it does not come to run that.
pub async fn with_proxy(mut fleet: Fleet, mode: &str, log: &Path, spec: &str) -> Fleet {
    // Lines of one worker are in the order in which requests ended.
    let args = [
        "--workers=1".into(),
        format!("--access-log={mode}"),
        format!("--access-log-to={}", log.display()),
    ];
    fleet.add_proxy("p1", &args);
    fleet.apply(spec).await;
    fleet
}

/// The lines of a log.
///
/// # Panics
/// If one of them is not a JSON object.
pub fn parse(text: &[u8]) -> Vec<Value> {
    let text = std::str::from_utf8(text).expect("a log is UTF-8");
    let parse = |line| match serde_json::from_str(line) {
        Ok(line @ Value::Object(_)) => line,
        other => panic!("{line:?} is {other:?}"),
    };
    text.lines().map(parse).collect()
}

/// Waits until there are so many lines.
///
/// # Panics
/// If they do not come, or more do.
pub async fn lines(log: &Path, count: usize) -> Vec<Value> {
    eventually(&format!("{} has {count} lines", log.display()), async || {
        let text = fs::read(log).map_err(|error| error.to_string())?;
        // The last one may be on its way.
        let end = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        let lines = parse(&text[..end]);
        holds(lines.len() >= count, || format!("{lines:?}"))?;
        assert_eq!(lines.len(), count, "{lines:?}");
        Ok::<_, String>(lines)
    })
    .await
}

/// The only line, once it is there.
///
/// # Panics
/// If it does not come.
pub async fn line(log: &Path) -> Value {
    lines(log, 1).await.remove(0)
}

/// Checks these fields; `null` stands for one that is absent.
///
/// # Panics
/// If one is something else.
#[track_caller]
pub fn check(line: &Value, expected: Value) {
    for (key, expected) in expected.as_object().expect("fields") {
        assert_eq!(&line[key], expected, "{key} of {line:#}");
    }
}

/// How many lines the first proxy says that it has written, and how many it has dropped.
///
/// # Panics
/// If it does not say.
pub async fn counted(fleet: &Fleet) -> (f64, f64) {
    let metrics = fleet.proxies[0].metrics().await;
    let sum = |name| metrics.sum(name, &[]);
    (sum("lb_proxy_access_log_lines_total"), sum("lb_proxy_access_log_dropped_total"))
}
