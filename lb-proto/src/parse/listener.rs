//! Listeners, and what they demand of clients before these may speak.

use std::num::NonZeroU32;

use http::HeaderValue;
use lb_common::{
    id::{BackendSetName, CertificateName, ListenerName},
    spec::{
        ClientAuth, ClientCertHeaders, ForwardedHeader, Forwarding, Listener, ListenerTls,
        PathNormalization, Protocol, ProxyProtocol,
    },
};

use super::{At, element};
use crate::{defaults, error::Problems, v1};

pub fn listener(wire: &v1::Listener, path: &str, problems: &mut Problems) -> Option<Listener> {
    let mut at = At { path, problems };
    let name = at.name("name", &wire.name, ListenerName::new);
    let address = at.address("address", &wire.address);
    let protocol = match wire.protocol.as_str() {
        "" | "http" => {
            if !wire.backend_set.is_empty() {
                at.problem(
                    "backend_set",
                    "is only for protocol \"tcp\"; an http listener has routes",
                );
            }
            Some(Protocol::Http)
        }
        "tcp" if wire.backend_set.is_empty() => Some(Protocol::Tcp { backend_set: None }),
        "tcp" => at
            .name("backend_set", &wire.backend_set, BackendSetName::new)
            .map(|backend_set| Protocol::Tcp { backend_set: Some(backend_set) }),
        other => at.one_of("protocol", other, "http, tcp"),
    };
    let idle_default = protocol.as_ref().map(defaults::idle_timeout).unwrap_or_default();
    let idle_timeout = at.duration("idle_timeout", wire.idle_timeout, idle_default);
    let header_timeout =
        at.duration("header_timeout", wire.header_timeout, defaults::HEADER_TIMEOUT);
    let body_timeout = at.duration("body_timeout", wire.body_timeout, defaults::BODY_TIMEOUT);
    let write_timeout = at.duration("write_timeout", wire.write_timeout, defaults::WRITE_TIMEOUT);
    let max_header_bytes = at.within(
        "max_header_bytes",
        wire.max_header_bytes,
        defaults::MAX_HEADER_BYTES,
        1024..=1_048_576,
    );
    let max_header_fields = at.within(
        "max_header_fields",
        wire.max_header_fields,
        defaults::MAX_HEADER_FIELDS,
        1..=1000,
    );
    let max_target_bytes = at.within(
        "max_target_bytes",
        wire.max_target_bytes,
        defaults::MAX_TARGET_BYTES,
        64..=65_536,
    );
    let path_normalization = match wire.path_normalization.as_str() {
        "" => Some(defaults::PATH_NORMALIZATION),
        "off" => Some(PathNormalization::Off),
        "match" => Some(PathNormalization::Match),
        "forward" => Some(PathNormalization::Forward),
        other => at.one_of("path_normalization", other, "off, match, forward"),
    };
    let limit = |wire: Option<u32>| wire.and_then(NonZeroU32::new);
    let tls = match &wire.tls {
        Some(wire) => tls(wire, &format!("{path}.tls"), at.problems).map(Some),
        None => Some(None),
    };
    let trusted_proxies = at.networks("trusted_proxies", &wire.trusted_proxies);
    let proxy_protocol = match wire.proxy_protocol.as_str() {
        "" => Some(None),
        "optional" => Some(Some(ProxyProtocol::Optional)),
        "required" => Some(Some(ProxyProtocol::Required)),
        other => at.one_of("proxy_protocol", other, "optional, required"),
    };
    if !wire.proxy_protocol.is_empty() && wire.trusted_proxies.is_empty() {
        at.problem("proxy_protocol", "is for the trusted_proxies, and there are none; name them");
    }
    let forwarded = match wire.forwarded.as_str() {
        "" => Some(defaults::FORWARDED),
        "replace" => Some(Forwarding::Replace),
        "append" => Some(Forwarding::Append),
        other => at.one_of("forwarded", other, "replace, append"),
    };
    let forwarded_header = match wire.forwarded_header.as_str() {
        "" => Some(defaults::FORWARDED_HEADER),
        "x-forwarded" => Some(ForwardedHeader::XForwarded),
        "forwarded" => Some(ForwardedHeader::Forwarded),
        other => at.one_of("forwarded_header", other, "x-forwarded, forwarded"),
    };
    let hsts = hsts(&wire.hsts, &mut at);
    if !wire.hsts.is_empty() && wire.tls.is_none() && wire.trusted_proxies.is_empty() {
        at.problem(
            "hsts",
            "is for clients that come by TLS; give the listener tls or trusted_proxies",
        );
    }
    if wire.redirect_to_https && wire.tls.is_some() {
        at.problem("redirect_to_https", "is for a listener without tls; this one has it");
    }
    Some(Listener {
        name: name?,
        address: address?,
        protocol: protocol?,
        idle_timeout: idle_timeout?,
        header_timeout: header_timeout?,
        body_timeout: body_timeout?,
        write_timeout: write_timeout?,
        max_connections: limit(wire.max_connections),
        max_connections_per_client: limit(wire.max_connections_per_client),
        max_requests_per_connection: limit(wire.max_requests_per_connection),
        max_header_bytes: max_header_bytes?,
        max_header_fields: max_header_fields?,
        max_target_bytes: max_target_bytes?,
        path_normalization: path_normalization?,
        tls: tls?,
        trusted_proxies: trusted_proxies?,
        proxy_protocol: proxy_protocol?,
        forwarded: forwarded?,
        forwarded_header: forwarded_header?,
        hsts: hsts?,
        redirect_to_https: wire.redirect_to_https,
    })
}

/// A policy as RFC 6797 has it, section 6.1.
fn hsts(text: &str, at: &mut At<'_>) -> Option<Option<HeaderValue>> {
    if text.is_empty() {
        return Some(None);
    }
    let directives = || text.split(';').map(str::trim).filter(|directive| !directive.is_empty());
    let is_known = |directive: &str| {
        let age = directive.strip_prefix("max-age=");
        age.is_some_and(|seconds| seconds.parse::<u32>().is_ok())
            || ["includeSubDomains", "preload"].contains(&directive)
    };
    let ages = directives().filter(|directive| directive.starts_with("max-age=")).count();
    match HeaderValue::from_str(text) {
        Ok(value) if ages == 1 && directives().all(is_known) => Some(Some(value)),
        _ => at.invalid(
            "hsts",
            text,
            "\"max-age=31536000\", with includeSubDomains or preload behind",
        ),
    }
}

fn tls(wire: &v1::Tls, path: &str, problems: &mut Problems) -> Option<ListenerTls> {
    let mut at = At { path, problems };
    if wire.certificates.is_empty() {
        at.problem("certificates", "is empty; name at least one of the certificates");
    }
    let mut certificates = Vec::new();
    for (i, name) in wire.certificates.iter().enumerate() {
        let field = element("certificates", "", i);
        let parsed = at.name(&field, name, CertificateName::new)?;
        if certificates.contains(&parsed) {
            at.problem(&field, &format!("{name:?} is there twice"));
        }
        certificates.push(parsed);
    }
    let min_version = at.tls_version("min_version", &wire.min_version);
    let client_auth = match &wire.client_auth {
        Some(wire) => client_auth(wire, &mut at).map(Some),
        None => Some(None),
    };
    let handshake_timeout =
        at.duration("handshake_timeout", wire.handshake_timeout, defaults::HANDSHAKE_TIMEOUT);
    let max_handshakes =
        at.positive("max_handshakes", wire.max_handshakes, defaults::MAX_HANDSHAKES);
    (!certificates.is_empty()).then_some(())?;
    Some(ListenerTls {
        certificates,
        min_version: min_version?,
        client_auth: client_auth?,
        handshake_timeout: handshake_timeout?,
        max_handshakes: max_handshakes?,
    })
}

fn client_auth(wire: &v1::ClientAuth, at: &mut At<'_>) -> Option<ClientAuth> {
    let is_required = match wire.mode.as_str() {
        "required" => Some(true),
        "optional" => Some(false),
        other => at.one_of("client_auth.mode", other, "required, optional"),
    };
    let ca = at.pem("client_auth.ca", &wire.ca);
    let headers = match wire.headers.as_str() {
        "" => Some(defaults::CLIENT_CERT_HEADERS),
        "none" => Some(ClientCertHeaders::Nothing),
        "facts" => Some(ClientCertHeaders::Facts),
        "certificate" => Some(ClientCertHeaders::Certificate),
        other => at.one_of("client_auth.headers", other, "facts, certificate, none"),
    };
    Some(ClientAuth { is_required: is_required?, ca: ca?, headers: headers? })
}
