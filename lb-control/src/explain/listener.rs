//! Which listener a request is for: the one that was named, or where its URL leads.

use std::{net::IpAddr, sync::Arc};

use lb_common::{
    id::ListenerName,
    map::Map,
    spec::{Listener, Protocol, Scheme},
};
use lb_proto::error::Problems;

use super::asked::{Asked, Server, What, default_port};

/// The listener, and why it is that one.
///
/// # Errors
/// If there is none or more than one; says which there are.
pub fn find(
    listeners: &Map<ListenerName, Arc<Listener>>,
    asked: &Asked,
) -> Result<(Arc<Listener>, String), Problems> {
    let asks_http = matches!(asked.what, What::Request(_));
    let kind = if asks_http { "http" } else { "tcp" };
    let takes = |listener: &&Arc<Listener>| (listener.protocol == Protocol::Http) == asks_http;
    let (fit, unfit): (Vec<_>, Vec<_>) = listeners.values().partition(takes);
    let takes_none = match asks_http {
        true => "a tcp listener, which takes no requests",
        false => "an http listener, which is asked about with an http URL",
    };
    let problem = |message: String| {
        let mut problems = Problems::default();
        problems.add("listener", message);
        Err(problems)
    };
    let found = |listener: &Arc<Listener>, why| Ok((Arc::clone(listener), why));
    if fit.is_empty() {
        return problem(format!("there is no {kind} listener; apply one first"));
    }
    let others = || format!("{kind} listeners are {}", list(&fit));
    if let Some(name) = asked.listener.as_deref() {
        return match listeners.get(name) {
            Some(listener) if takes(&listener) => found(listener, "it was asked for".into()),
            Some(_) => problem(format!("{name:?} is {takes_none}; {}", others())),
            None => problem(format!("no listener is called {name:?}; {}", others())),
        };
    }
    let has_default = asks_http || asked.is_tls();
    let port_of =
        |server: &Server| server.port.or_else(|| has_default.then(|| default_port(server.scheme)));
    let port = asked.server.as_ref().and_then(port_of);
    if let (Some(server), Some(port)) = (&asked.server, port) {
        match (&at(&fit, server, port)[..], &at(&unfit, server, port)[..]) {
            ([only], _) if asks_http && only.scheme() != server.scheme => {
                let (name, speaks) = (&only.name, if only.tls.is_some() { "" } else { "no " });
                let why = format!("port {port} is that of {name}, which speaks {speaks}TLS");
                return problem(format!("{why}; {}", others()));
            }
            ([only], _) => return found(only, format!("its port is the URL's, {port}")),
            (several @ [_, _, ..], _) => {
                let several = list(several);
                let why = format!("several have port {port}; name one of {several}");
                return problem(format!("is needed, because {why}"));
            }
            ([], [unfit, ..]) => {
                let why = format!("port {port} is that of {}, {takes_none}", unfit.name);
                return problem(format!("{why}; {}", others()));
            }
            // Nobody would answer. Without a port of its own, a URL may be that of whatever leads
            // to the proxies.
            ([], []) if server.port.is_some() => {
                return problem(format!("none has the URL's port {port}; {}", others()));
            }
            ([], []) => {}
        }
    }
    let scheme = asked.server.as_ref().filter(|_| asks_http).map(|server| server.scheme);
    let speaking: Vec<_> =
        fit.iter().copied().filter(|l| scheme.is_none_or(|scheme| l.scheme() == scheme)).collect();
    if let ([only], [_, _, ..], Some(scheme)) = (&speaking[..], &fit[..], scheme) {
        let with = if scheme == Scheme::Https { "with" } else { "without" };
        return found(only, format!("it is the only http listener {with} TLS"));
    }
    if let [only] = fit[..] {
        return found(only, format!("it is the only {kind} listener"));
    }
    let why = match port {
        Some(port) => format!("none has the URL's port {port}"),
        None => "the URL says no port".into(),
    };
    problem(format!("is needed, because {why}; name one of {}", list(&fit)))
}

/// Those that a client of this URL could reach, if it is known which one.
fn at<'a>(listeners: &[&'a Arc<Listener>], server: &Server, port: u16) -> Vec<&'a Arc<Listener>> {
    let with_port = listeners.iter().copied().filter(|listener| listener.address.port() == port);
    let with_port: Vec<_> = with_port.collect();
    let host: Option<IpAddr> = server.host.trim_matches(['[', ']']).parse().ok();
    let exact = with_port.iter().copied().filter(|listener| Some(listener.address.ip()) == host);
    let exact: Vec<_> = exact.collect();
    if exact.len() == 1 { exact } else { with_port }
}

fn list(listeners: &[&Arc<Listener>]) -> String {
    let with_address =
        listeners.iter().map(|listener| format!("{} ({})", listener.name, listener.address));
    with_address.collect::<Vec<_>>().join(", ")
}
