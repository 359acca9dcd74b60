//! Names of things. A name that exists is valid, so nobody asks again.

use std::{borrow::Borrow, fmt, sync::Arc};

/// The longest name accepted, in bytes.
pub const MAX_NAME_LEN: usize = 128;

/// Why a text is not a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidName {
    #[error("is empty; give it a name")]
    Empty,
    #[error("{0:?} is longer than {MAX_NAME_LEN} bytes")]
    TooLong(String),
    #[error("{name:?} has {found:?} in it; names are made of letters, digits and . _ - : [ ] / @")]
    Character { name: String, found: char },
}

macro_rules! names {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// # Errors
            /// If the text is empty, longer than [`MAX_NAME_LEN`] or has an unusual character.
            pub fn new(text: &str) -> Result<Self, InvalidName> {
                check(text).map(|()| Self(text.into()))
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    )*};
}

names! {
    ListenerName;
    RouteName;
    BackendSetName;
    CertificateName;
    /// Unique within its backend set. Its address, unless it was given a name of its own.
    BackendName;
    ProxyId;
}

fn check(text: &str) -> Result<(), InvalidName> {
    if text.is_empty() {
        return Err(InvalidName::Empty);
    }
    if text.len() > MAX_NAME_LEN {
        return Err(InvalidName::TooLong(text.into()));
    }
    let odd = |c: &char| !(c.is_ascii_alphanumeric() || "._-:[]/@".contains(*c));
    match text.chars().find(odd) {
        Some(found) => Err(InvalidName::Character { name: text.into(), found }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_name_and_a_sentence_is_not() {
        assert!(BackendName::new("[::1]:3001").is_ok());
        assert_eq!(
            RouteName::new("to app"),
            Err(InvalidName::Character { name: "to app".into(), found: ' ' })
        );
        assert_eq!(RouteName::new(""), Err(InvalidName::Empty));
        assert!(RouteName::new(&"x".repeat(MAX_NAME_LEN + 1)).is_err());
    }
}
