//! What is wrong with a server, in people's words.

use rustls::{AlertDescription, CertificateError, Error};

/// By where to look for it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("its certificate has expired")]
    Expired,
    #[error("its certificate is not for {0}")]
    OtherName(String),
    #[error("its certificate is not signed by the ca")]
    UnknownIssuer,
    #[error("its certificate cannot be used: {0}")]
    Certificate(String),
    /// It does not take what it was shown of this side, or wants to be shown something.
    #[error("it refuses the client: alert {0}")]
    Refused(String),
    #[error("it refuses: alert {0}")]
    Alert(String),
    #[error("{0}")]
    Protocol(String),
    /// It has nothing to do with the server.
    #[error("{0}")]
    Ours(String),
}

/// Texts that servers have a part in are cut.
const MOST_CHARS: usize = 200;

impl Fault {
    /// Without what the server and its certificate say: what anybody may know who asks for something.
    pub fn in_short(&self) -> String {
        match self {
            Self::OtherName(_) => "its certificate is for another name".into(),
            Self::Certificate(_) => "its certificate cannot be used".into(),
            Self::Protocol(_) => "it speaks something else".into(),
            // Nobody but us and the standard has words in these.
            Self::Expired
            | Self::UnknownIssuer
            | Self::Refused(_)
            | Self::Alert(_)
            | Self::Ours(_) => self.to_string(),
        }
    }

    pub fn of(error: &Error) -> Self {
        match error {
            Error::InvalidCertificate(error) => Self::of_certificate(error),
            Error::NoCertificatesPresented => Self::Certificate("it shows none".into()),
            Error::AlertReceived(alert) => Self::of_alert(*alert),
            Error::InvalidMessage(_) => Self::Protocol("it speaks no TLS".into()),
            Error::FailedToGetCurrentTime
            | Error::FailedToGetRandomBytes
            | Error::BadMaxFragmentSize
            | Error::InconsistentKeys(_) => Self::Ours(error.to_string()),
            other => Self::Protocol(cut(&other.to_string())),
        }
    }

    fn of_certificate(error: &CertificateError) -> Self {
        use CertificateError as E;
        match error {
            E::Expired | E::ExpiredContext { .. } => Self::Expired,
            // A CA that has another key now, and the same name.
            E::UnknownIssuer | E::BadSignature => Self::UnknownIssuer,
            E::NotValidForNameContext { expected, presented } => {
                // As rustls spells them: DnsName("a.test").
                let bare = |name: &String| {
                    let inner = name.split_once('"').and_then(|(_, rest)| rest.rsplit_once('"'));
                    inner.map_or_else(|| name.clone(), |(inner, _)| inner.to_owned())
                };
                let names = presented.iter().map(bare).collect::<Vec<_>>().join(", ");
                Self::OtherName(cut(&format!("{}, but for {names}", expected.to_str())))
            }
            E::NotValidForName => Self::OtherName("the name".into()),
            E::Other(error) if format!("{error:?}").contains("CaUsedAsEndEntity") => {
                Self::Certificate("it is a CA's, and no server's".into())
            }
            other => Self::Certificate(cut(&other.to_string())),
        }
    }

    pub(crate) fn of_alert(alert: AlertDescription) -> Self {
        use AlertDescription as A;
        let name = format!("{alert:?}");
        match alert {
            A::NoCertificate
            | A::BadCertificate
            | A::UnsupportedCertificate
            | A::CertificateRevoked
            | A::CertificateExpired
            | A::CertificateUnknown
            | A::UnknownCA
            | A::CertificateRequired => Self::Refused(name),
            _ => Self::Alert(name),
        }
    }
}

fn cut(text: &str) -> String {
    text.chars().take(MOST_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use rustls::{InvalidMessage, pki_types::ServerName};

    use super::*;

    #[test]
    fn what_is_wrong_is_told_shortly_and_by_name() {
        let other = CertificateError::NotValidForNameContext {
            expected: ServerName::try_from("a.test").expect("a name"),
            presented: vec!["DnsName(\"b.test\")".into(), "x".repeat(1000)],
        };
        let told = Fault::of(&Error::InvalidCertificate(other)).to_string();
        assert!(
            told.starts_with("its certificate is not for a.test, but for b.test, xxx"),
            "{told}"
        );
        assert!(told.len() < 300, "{told}");
        let other = Fault::OtherName("a.test, but for secret.test".into());
        assert_eq!(other.in_short(), "its certificate is for another name");
        let told = |error| Fault::of(&error).to_string();
        let alert = Error::AlertReceived(AlertDescription::CertificateRequired);
        assert_eq!(told(alert), "it refuses the client: alert CertificateRequired");
        let alert = Error::AlertReceived(AlertDescription::HandshakeFailure);
        assert_eq!(told(alert), "it refuses: alert HandshakeFailure");
        let http = Error::InvalidMessage(InvalidMessage::InvalidContentType);
        assert_eq!(told(http), "it speaks no TLS");
        assert!(matches!(Fault::of(&Error::FailedToGetRandomBytes), Fault::Ours(_)));
    }
}
