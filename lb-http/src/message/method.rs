//! Methods, as far as a proxy treats them differently.

/// A method. What is not one of these is passed on all the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Method {
    #[default]
    Get,
    Head,
    Post,
    Put,
    Delete,
    Connect,
    Options,
    Trace,
    Patch,
    Other,
}

impl Method {
    /// Methods are case-sensitive (RFC 9110, section 9.1).
    pub fn of(text: &[u8]) -> Self {
        match text {
            b"GET" => Self::Get,
            b"HEAD" => Self::Head,
            b"POST" => Self::Post,
            b"PUT" => Self::Put,
            b"DELETE" => Self::Delete,
            b"CONNECT" => Self::Connect,
            b"OPTIONS" => Self::Options,
            b"TRACE" => Self::Trace,
            b"PATCH" => Self::Patch,
            _ => Self::Other,
        }
    }

    /// Whether a request may be made twice (RFC 9110, section 9.2.2).
    pub fn is_idempotent(self) -> bool {
        matches!(
            self,
            Self::Get | Self::Head | Self::Put | Self::Delete | Self::Options | Self::Trace
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_are_known_by_their_case_and_some_may_be_made_twice() {
        #[rustfmt::skip]
        let cases = [
            ("GET", Method::Get, true), ("HEAD", Method::Head, true), ("POST", Method::Post, false),
            ("PUT", Method::Put, true), ("DELETE", Method::Delete, true), ("CONNECT", Method::Connect, false),
            ("OPTIONS", Method::Options, true), ("TRACE", Method::Trace, true), ("PATCH", Method::Patch, false),
            ("get", Method::Other, false), ("QUERY", Method::Other, false),
        ];
        for (text, method, is_idempotent) in cases {
            assert_eq!(Method::of(text.as_bytes()), method);
            assert_eq!(method.is_idempotent(), is_idempotent, "{text}");
        }
    }
}
