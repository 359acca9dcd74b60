//! Which listener a request is for: the one that was named, or where its URL leads.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use lb_common::{
    id::ListenerName,
    spec::{Listener, Protocol},
};
use lb_proto::error::Problems;

use super::asked::{Asked, Server};

/// The listener, and why it is that one.
///
/// # Errors
/// If there is none or more than one; says which there are.
pub fn find(
    listeners: &BTreeMap<ListenerName, Arc<Listener>>,
    asked: &Asked,
) -> Result<(ListenerName, String), Problems> {
    let http: Vec<&Listener> = listeners
        .values()
        .filter(|listener| listener.protocol == Protocol::Http)
        .map(|listener| &**listener)
        .collect();
    let problem = |message: String| {
        let mut problems = Problems::default();
        problems.add("listener", message);
        problems
    };
    if http.is_empty() {
        return Err(problem("there is no http listener; apply one first".into()));
    }
    if let Some(name) = asked.listener.as_deref() {
        return match listeners.get(name) {
            Some(listener) if listener.protocol == Protocol::Http => {
                Ok((listener.name.clone(), "it was asked for".into()))
            }
            Some(_) => Err(problem(format!(
                "{name:?} is a tcp listener and has no routes; http listeners are {}",
                list(&http)
            ))),
            None => Err(problem(format!(
                "no listener is called {name:?}; http listeners are {}",
                list(&http)
            ))),
        };
    }
    let by_port = asked.server.as_ref().map(|server| (server, at(&http, server)));
    match by_port.as_ref().map(|(server, found)| (server.port, &found[..])) {
        Some((port, [only])) => {
            return Ok((only.name.clone(), format!("its port is the URL's, {port}")));
        }
        Some((port, several @ [_, _, ..])) => {
            return Err(problem(format!(
                "is needed, because several have port {port}; name one of {}",
                list(several)
            )));
        }
        Some((_, [])) | None => {}
    }
    if let [only] = http[..] {
        return Ok((only.name.clone(), "it is the only http listener".into()));
    }
    let why = match &asked.server {
        Some(Server { port, .. }) => format!("none has the URL's port {port}"),
        None => "the URL says no port".into(),
    };
    Err(problem(format!("is needed, because {why}; name one of {}", list(&http))))
}

/// Those that a client of this URL could reach, if it is known which one.
fn at<'a>(http: &[&'a Listener], server: &Server) -> Vec<&'a Listener> {
    let with_port = http.iter().copied().filter(|listener| listener.address.port() == server.port);
    let with_port: Vec<_> = with_port.collect();
    let host: Option<IpAddr> = server.host.trim_matches(['[', ']']).parse().ok();
    let exact = with_port.iter().copied().filter(|listener| Some(listener.address.ip()) == host);
    let exact: Vec<_> = exact.collect();
    if exact.len() == 1 { exact } else { with_port }
}

fn list(listeners: &[&Listener]) -> String {
    let with_address =
        listeners.iter().map(|listener| format!("{} ({})", listener.name, listener.address));
    with_address.collect::<Vec<_>>().join(", ")
}
