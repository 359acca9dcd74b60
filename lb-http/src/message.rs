//! One form for messages of every HTTP version: a head is a block of bytes and a small table that
//! says where its fields are. Heads are read in place, never edited, and written out once.

mod fields;
mod method;
mod name;
mod request;
mod response;

pub use fields::{Field, Fields, Nominated, Span};
pub use method::Method;
pub use name::Name;
pub(crate) use request::Form;
pub use request::{Request, RequestBody};
pub use response::{Response, ResponseBody};

/// Of HTTP/1; a minor version above 1 counts as 1.1 (RFC 9110, section 2.5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    Http10,
    #[default]
    Http11,
}

/// What `Connection` says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConnectionOptions {
    pub close: bool,
    pub keep_alive: bool,
    pub upgrade: bool,
}

impl Version {
    /// As `Via` and logs have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http10 => "1.0",
            Self::Http11 => "1.1",
        }
    }
}

impl ConnectionOptions {
    /// Whether the sender wants the connection to go on after this message (RFC 9112, section
    /// 9.3).
    pub fn keeps_alive(self, version: Version) -> bool {
        match version {
            _ if self.close => false,
            Version::Http11 => true,
            Version::Http10 => self.keep_alive,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_goes_on_unless_it_is_said_or_meant_otherwise() {
        let none = ConnectionOptions::default();
        let keep_alive = ConnectionOptions { keep_alive: true, ..none };
        let close = ConnectionOptions { close: true, ..keep_alive };
        assert!(none.keeps_alive(Version::Http11) && !none.keeps_alive(Version::Http10));
        assert!(keep_alive.keeps_alive(Version::Http10));
        assert!(!close.keeps_alive(Version::Http10) && !close.keeps_alive(Version::Http11));
    }
}
