//! What fails its checks and is used all the same, in words.

use lb_proto::v1;

/// Behind what is wrong with a backend; nothing, if it is not held.
pub fn used_all_the_same(held: &str) -> String {
    match held {
        "" => String::new(),
        why => format!("; used all the same: {why}"),
    }
}

/// An event in one line.
pub fn checks(changed: &v1::ChecksChanged) -> String {
    let v1::ChecksChanged { what, backend_set, why } = changed;
    let whose = if backend_set.is_empty() { "all sets" } else { backend_set };
    match what.as_str() {
        "held" => format!("{whose}: not all that fail their checks are out: {why}"),
        _ => format!("{whose}: checks are acted upon again"),
    }
}
