//! The field names that a proxy must know. All others are just passed on.

/// What a field is to a proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Name {
    /// Nothing in particular.
    Other,
    /// One of the names below if `_` were `-`, as it is to many an application (CGI, WSGI): never
    /// passed on, so that nobody can say through it what only the proxy may say.
    Alias,
    // What frames a message, or concerns one connection only.
    Connection,
    ContentLength,
    Expect,
    Host,
    KeepAlive,
    MaxForwards,
    ProxyAuthenticate,
    ProxyAuthorization,
    ProxyConnection,
    Te,
    Trailer,
    TransferEncoding,
    Upgrade,
    // Who passed a message on, and for whom.
    Forwarded,
    Via,
    XForwardedFor,
    XForwardedHost,
    XForwardedPort,
    XForwardedProto,
    /// Any other `X-Forwarded-*`, also with `_` for `-`: what applications believe of them differs.
    XForwarded,
    XRealIp,
    /// `Client-Cert` and `X-Client-Cert`, and whatever begins with one of them and a dash, also with `_`
    /// for `-`: what only a proxy may say of a client's certificate.
    ClientCert,
    // What a trailer may not say (RFC 9110, section 6.5.1), and what logs and traces read.
    Authorization,
    CacheControl,
    ContentEncoding,
    ContentRange,
    ContentType,
    Cookie,
    Date,
    Location,
    Referer,
    SetCookie,
    StrictTransportSecurity,
    Traceparent,
    Tracestate,
    UserAgent,
    WwwAuthenticate,
    XLbExplain,
}

/// In lower case, by length.
const fn known(length: usize) -> &'static [(&'static [u8], Name)] {
    match length {
        2 => &[(b"te", Name::Te)],
        3 => &[(b"via", Name::Via)],
        4 => &[(b"host", Name::Host), (b"date", Name::Date)],
        6 => &[(b"cookie", Name::Cookie), (b"expect", Name::Expect)],
        7 => {
            &[(b"upgrade", Name::Upgrade), (b"trailer", Name::Trailer), (b"referer", Name::Referer)]
        }
        8 => &[(b"location", Name::Location)],
        9 => &[(b"x-real-ip", Name::XRealIp), (b"forwarded", Name::Forwarded)],
        10 => &[
            (b"connection", Name::Connection),
            (b"user-agent", Name::UserAgent),
            (b"keep-alive", Name::KeepAlive),
            (b"set-cookie", Name::SetCookie),
            (b"tracestate", Name::Tracestate),
        ],
        11 => &[(b"traceparent", Name::Traceparent)],
        12 => &[
            (b"content-type", Name::ContentType),
            (b"x-lb-explain", Name::XLbExplain),
            (b"max-forwards", Name::MaxForwards),
        ],
        13 => &[
            (b"cache-control", Name::CacheControl),
            (b"authorization", Name::Authorization),
            (b"content-range", Name::ContentRange),
        ],
        14 => &[(b"content-length", Name::ContentLength)],
        15 => &[(b"x-forwarded-for", Name::XForwardedFor)],
        16 => &[
            (b"content-encoding", Name::ContentEncoding),
            (b"x-forwarded-host", Name::XForwardedHost),
            (b"x-forwarded-port", Name::XForwardedPort),
            (b"proxy-connection", Name::ProxyConnection),
            (b"www-authenticate", Name::WwwAuthenticate),
        ],
        17 => &[
            (b"transfer-encoding", Name::TransferEncoding),
            (b"x-forwarded-proto", Name::XForwardedProto),
        ],
        18 => &[(b"proxy-authenticate", Name::ProxyAuthenticate)],
        19 => &[(b"proxy-authorization", Name::ProxyAuthorization)],
        25 => &[(b"strict-transport-security", Name::StrictTransportSecurity)],
        _ => &[],
    }
}

impl Name {
    /// Of a field's name, which is a token, in any case.
    pub fn of(name: &[u8]) -> Self {
        let names = known(name.len());
        match names.iter().find(|(lower, _)| is_same(name, lower)) {
            Some((_, known)) => *known,
            None if begins_with(name, X_FORWARDED) => Self::XForwarded,
            None if is_of_client_cert(name) => Self::ClientCert,
            None if name.contains(&b'_')
                && names.iter().any(|(lower, _)| is_alias(name, lower)) =>
            {
                Self::Alias
            }
            None => Self::Other,
        }
    }

    /// Whether it concerns one connection only, or is written anew from what was understood: never
    /// passed on as it came.
    pub fn is_hop_by_hop(self) -> bool {
        matches!(
            self,
            Self::Alias
                | Self::Connection
                | Self::ContentLength
                | Self::Expect
                | Self::Host
                | Self::KeepAlive
                | Self::ProxyAuthenticate
                | Self::ProxyAuthorization
                | Self::ProxyConnection
                | Self::Te
                | Self::Trailer
                | Self::TransferEncoding
                | Self::Upgrade
        )
    }

    /// Whether it says for whom a request was passed on, and what is known of that client. What clients
    /// say of it is not to be trusted.
    pub fn is_forwarded(self) -> bool {
        matches!(
            self,
            Self::Forwarded
                | Self::XForwardedFor
                | Self::XForwardedHost
                | Self::XForwardedPort
                | Self::XForwardedProto
                | Self::XForwarded
                | Self::XRealIp
                | Self::ClientCert
        )
    }

    /// Whether a trailer may be passed on: not if whoever merges it into a head could be misled
    /// about framing, routing, authentication or content (RFC 9110, section 6.5.1).
    pub fn may_trail(self) -> bool {
        self == Self::Other
    }
}

const X_FORWARDED: &[u8] = b"x-forwarded-";
/// RFC 9440 has one of these names, and what others say of certificates begins with the other.
const CLIENT_CERT: [&[u8]; 2] = [b"client-cert", b"x-client-cert"];

fn is_of_client_cert(name: &[u8]) -> bool {
    CLIENT_CERT.iter().any(|start| {
        begins_with(name, start) && matches!(name.get(start.len()), None | Some(b'-' | b'_'))
    })
}

/// Whether it begins with that, if `_` were `-`.
fn begins_with(name: &[u8], start: &[u8]) -> bool {
    name.get(..start.len()).is_some_and(|begin| is_alias(begin, start))
}

/// Tells small letters from capitals. No other byte of a token differs by it from a letter or a dash.
const CASE: u8 = 0x20;

/// Whether a token is this known name, but for the case. Eight bytes at a time: it is asked for each
/// field of each message.
fn is_same(name: &[u8], lower: &[u8]) -> bool {
    let (words, rest) = name.as_chunks();
    let (lower_words, lower_rest) = lower.as_chunks();
    let folded = |word: &[u8; 8]| u64::from_ne_bytes(*word) | u64::from_ne_bytes([CASE; 8]);
    words.iter().zip(lower_words).all(|(word, lower)| folded(word) == u64::from_ne_bytes(*lower))
        && rest.iter().zip(lower_rest).all(|(c, lower)| c | CASE == *lower)
}

/// The same, if `_` were `-`.
fn is_alias(name: &[u8], lower: &[u8]) -> bool {
    let dashed = |c: u8| if c == b'_' { b'-' } else { c | CASE };
    name.iter().zip(lower).all(|(c, lower)| dashed(*c) == *lower)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_known_in_any_case_and_by_their_aliases() {
        #[rustfmt::skip]
        let cases = [
            ("Host", Name::Host), ("hOsT", Name::Host), ("hos", Name::Other), ("hosts", Name::Other),
            ("X-Forwarded-For", Name::XForwardedFor), ("X_Forwarded_For", Name::XForwarded),
            ("X-Forwarded_For", Name::XForwarded), ("X-Forwarded-Prefix", Name::XForwarded),
            ("x_forwarded-ssl", Name::XForwarded), ("X-Forwarde", Name::Other), ("X-Forwarded", Name::Other),
            ("content_length", Name::Alias), ("X-Real_IP", Name::Alias),
            ("x-other_name", Name::Other), ("", Name::Other), ("TE", Name::Te),
            ("Client-Cert", Name::ClientCert), ("client_cert_chain", Name::ClientCert), ("Client-Certificate", Name::Other),
            ("X-Client-Cert-Subject", Name::ClientCert), ("X_Client-Cert", Name::ClientCert), ("X-Client-Cer", Name::Other),
            ("Proxy-Authenticate", Name::ProxyAuthenticate), ("Proxy-Authorization", Name::ProxyAuthorization),
        ];
        for (name, expected) in cases {
            assert_eq!(Name::of(name.as_bytes()), expected, "{name}");
        }
    }

    #[test]
    fn all_known_names_are_in_their_place() {
        for length in 0..64 {
            for (name, known) in known(length) {
                assert_eq!(name.len(), length);
                assert_eq!(Name::of(name), *known);
            }
        }
    }
}
