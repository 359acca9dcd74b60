//! What several tests of this crate are set up with.

use std::{fmt::Display, sync::Arc};

use lb_common::spec::DesiredState;
use lb_http::{
    h1::{HeadParser, Limits},
    message::Request,
};

use crate::route::TcpRoutes;

/// The desired state of a TOML text.
pub fn desired(text: &str) -> DesiredState {
    let spec = lb_proto::file::parse(text).unwrap_or_else(|errors| panic!("{errors}\n{text}"));
    lb_proto::parse::desired_state(&spec).unwrap_or_else(|problems| panic!("{problems}"))
}

/// Routes of a tcp listener by name, each with the TOML of its match. What they hold is their name.
pub fn tcp_routes<S: Display>(matches: &[(S, S)]) -> TcpRoutes<String> {
    let routes: String = matches
        .iter()
        .map(|(name, matches)| {
            format!(
                "[[routes]]\nname = '{name}'\nlisteners = ['edge']\nmatch = {matches}\n\
                 backend_set = 'a'\n"
            )
        })
        .collect();
    let state = desired(&format!(
        "backend_sets = [{{ name = 'a' }}]
         listeners = [{{ name = 'edge', address = '127.0.0.1:1', protocol = 'tcp' }}]
         {routes}"
    ));
    let routes = state.routes.values();
    TcpRoutes::new(routes.map(|route| (Arc::clone(route), route.name.to_string())))
}

/// A request as a proxy reads it: its first line, and the lines of its fields.
#[track_caller]
pub fn request(line: &str, fields: &[&str]) -> Request {
    let text =
        format!("{line}\r\n{}\r\n", fields.iter().map(|f| format!("{f}\r\n")).collect::<String>());
    let limits = Limits { head: 1 << 20, fields: 100, target: 1 << 20 };
    let mut request = Request::default();
    let read = request.read(&mut HeadParser::default(), text.as_bytes(), &limits);
    assert_eq!(read, Ok(Some(text.len())), "{text}");
    request
}
