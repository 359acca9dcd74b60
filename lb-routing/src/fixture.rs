//! What several tests of this crate are set up with.

use lb_common::spec::DesiredState;

/// The desired state of a TOML text.
pub fn desired(text: &str) -> DesiredState {
    let spec = lb_proto::file::parse(text).unwrap_or_else(|errors| panic!("{errors}\n{text}"));
    lb_proto::parse::desired_state(&spec).unwrap_or_else(|problems| panic!("{problems}"))
}
