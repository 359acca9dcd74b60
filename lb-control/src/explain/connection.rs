//! What becomes of a connection to a tcp listener.

use std::net::IpAddr;

use lb_common::spec::{DesiredState, Protocol, WeightedBackendSet};
use lb_http::message::Request;
use lb_prelude::client_hello::ClientHello;
use lb_proto::v1::{self, explain_response::Outcome};
use lb_routing::alpn;

use super::{
    compiled::Compiled,
    outcome::{self, Asker, Statuses},
    verdict::{self, Taken},
};

/// A connection to the listener that takes it.
pub struct Question {
    pub taken: Taken,
    /// What routes go by, or why there is no handshake with the listener.
    said: Result<ClientHello, String>,
}

const NO_ROUTE: &str = "no route takes it, and the listener has no backend_set: it is closed";

impl Question {
    /// `hello` is what a client says that speaks TLS.
    pub fn new(hello: Option<ClientHello>, taken: Taken, desired: &DesiredState) -> Self {
        let said = match (&taken.listener.tls, hello) {
            (None, hello) => Ok(hello.unwrap_or_default()),
            (Some(_), None) => Err("the listener speaks TLS, and the client does not".into()),
            // Of what the client offers, what is agreed on is left.
            (Some(_), Some(hello)) => {
                let offered = alpn::offered(&taken.listener, desired);
                let agreed = alpn::agreed(&offered, &hello);
                let name = hello.server_name.as_deref();
                agreed
                    .map(|agreed| ClientHello::offering(name, agreed))
                    .map_err(|none| none.to_string())
            }
        };
        Self { taken, said }
    }

    /// Where it goes.
    pub fn backend_sets(&self, compiled: &Compiled) -> Vec<WeightedBackendSet> {
        let Ok(hello) = &self.said else { return Vec::new() };
        let routes = compiled.tcp_routes(&self.taken.listener.name);
        match (routes.find(hello, self.client()), &self.taken.listener.protocol) {
            (Some(route), _) => route.backend_sets().to_vec(),
            (None, Protocol::Tcp { backend_set: Some(backend_set) }) => {
                vec![WeightedBackendSet { backend_set: backend_set.clone(), weight: 1 }]
            }
            (None, _) => Vec::new(),
        }
    }

    pub fn verdicts(&self, compiled: &Compiled) -> Vec<v1::RouteVerdict> {
        let routes = compiled.tcp_routes(&self.taken.listener.name);
        let explained = |hello| routes.explain(hello, self.client());
        match &self.said {
            Ok(hello) => verdict::verdicts(&explained(hello)),
            Err(why) => verdict::not_asked(&explained(&ClientHello::default()), why),
        }
    }

    pub fn outcome(&self, compiled: &Compiled, statuses: &Statuses) -> Outcome {
        let refused = |reason: &str| {
            Outcome::Refusal(v1::RefusalOutcome { status: 0, reason: reason.into() })
        };
        match (&self.said, &self.backend_sets(compiled)[..]) {
            (Err(why), _) => refused(why),
            (Ok(_), []) => refused(NO_ROUTE),
            (Ok(_), sets) => {
                // It has nothing but an address to be picked by.
                let asker = Asker { address: self.client(), request: &Request::default() };
                outcome::forward(sets, &asker, compiled, statuses)
            }
        }
    }

    /// Who is connected.
    pub fn client(&self) -> IpAddr {
        self.taken.from.to_canonical()
    }
}
