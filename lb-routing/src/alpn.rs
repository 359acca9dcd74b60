//! The protocols that listeners with TLS offer (ALPN), and what comes of it.

use std::collections::BTreeSet;

use lb_common::spec::{DesiredState, Listener, Protocol};
use lb_prelude::client_hello::ClientHello;

/// A client offers protocols, and none that its listener does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the listener speaks none of the protocols that the client offers by ALPN")]
pub struct NoneInCommon;

/// What a listener offers to speak. A tcp listener leaves that to its backends: it offers what it has
/// routes for, in alphabetic order.
pub fn offered<'a>(listener: &Listener, desired: &'a DesiredState) -> Vec<&'a [u8]> {
    match listener.protocol {
        Protocol::Http => vec![b"http/1.1", b"http/1.0"],
        Protocol::Tcp { .. } => {
            let routes = desired.routes.values().filter(|route| route.serves(listener));
            let named = routes.filter_map(|route| route.matches.alpn.as_deref());
            named.map(str::as_bytes).collect::<BTreeSet<_>>().into_iter().collect()
        }
    }
}

/// What a handshake agrees on (RFC 7301, section 3.2): the listener's choice. Who of the two does not speak
/// of it leaves it open.
///
/// # Errors
/// If both do, and have nothing in common.
pub fn agreed<'a>(
    offered: &[&'a [u8]],
    hello: &ClientHello,
) -> Result<Option<&'a [u8]>, NoneInCommon> {
    if offered.is_empty() || hello.protocols.iter().next().is_none() {
        return Ok(None);
    }
    let spoken = |ours: &&&[u8]| hello.protocols.iter().any(|theirs| theirs == **ours);
    offered.iter().find(spoken).map(|agreed| Some(*agreed)).ok_or(NoneInCommon)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    #[test]
    fn a_tcp_listener_offers_what_it_has_routes_for() {
        let state = fixture::desired(
            "backend_sets = [{ name = 'a' }]
             listeners = [{ name = 'edge', address = '127.0.0.1:1', protocol = 'tcp' },
                          { name = 'web', address = '127.0.0.1:2' }]
             routes = [
                 { name = 'x', listeners = ['edge'], match = { alpn = 'mqtt' }, backend_set = 'a' },
                 { name = 'y', listeners = ['edge'], match = { alpn = 'h2' }, backend_set = 'a' },
                 { name = 'z', listeners = ['edge'], backend_set = 'a' },
             ]",
        );
        assert_eq!(offered(&state.listeners["edge"], &state), [&b"h2"[..], b"mqtt"]);
        assert_eq!(offered(&state.listeners["web"], &state), [&b"http/1.1"[..], b"http/1.0"]);
    }

    #[test]
    fn the_listener_chooses_of_what_both_speak() {
        let hello = |protocols: &[&'static [u8]]| ClientHello::offering(None, protocols.to_vec());
        let ours = [&b"h2"[..], b"mqtt"];
        assert_eq!(agreed(&ours, &hello(&[b"mqtt", b"h2"])), Ok(Some(&b"h2"[..])));
        assert_eq!(agreed(&ours, &hello(&[b"x", b"mqtt"])), Ok(Some(&b"mqtt"[..])));
        assert_eq!(agreed(&ours, &hello(&[b"x"])), Err(NoneInCommon));
        assert_eq!(agreed(&ours, &hello(&[])), Ok(None));
        assert_eq!(agreed(&[], &hello(&[b"x"])), Ok(None));
    }
}
