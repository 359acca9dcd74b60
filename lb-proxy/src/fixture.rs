//! What several tests of this crate are set up with.

use lb_common::spec::DesiredState;
use lb_http::{
    h1::{HeadParser, Limits},
    message::Request,
};

/// The desired state of a TOML text.
pub fn desired(text: &str) -> DesiredState {
    let spec = lb_proto::file::parse(text).unwrap_or_else(|errors| panic!("{errors}\n{text}"));
    lb_proto::parse::desired_state(&spec).unwrap_or_else(|problems| panic!("{problems}"))
}

/// The request that these bytes are.
pub fn request(text: &str) -> Request {
    let limits = Limits { head: 65_536, fields: 100, target: 16_384 };
    let mut request = Request::default();
    let read = request.read(&mut HeadParser::default(), text.as_bytes(), &limits);
    assert_eq!(read, Ok(Some(text.len())), "{text}");
    request
}
