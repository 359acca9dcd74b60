//! Why a probe brought nothing good, and whose fault that is.

use std::{error::Error, io, net::SocketAddr};

use lb_common::shortage::is_shortage;
use lb_tls::fault::Fault;

/// Before what is wrong with it.
pub const TLS: &str = "TLS: ";

/// Why a probe brought nothing good.
#[derive(Debug, PartialEq, Eq)]
pub enum Problem {
    OfBackend(String),
    /// This process is short of something.
    Ours(String),
}

/// The cause that people know by name: libraries wrap it in several layers of their own.
pub fn describe(error: &(dyn Error + 'static), to: SocketAddr) -> Problem {
    let mut cause = error;
    loop {
        if let Some(error) = cause.downcast_ref::<io::Error>() {
            if is_shortage(error, to) {
                return Problem::Ours(error.to_string());
            }
            let inner = error.get_ref();
            if let Some(error) = inner.and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
                return match Fault::of(error) {
                    Fault::Ours(why) => Problem::Ours(format!("{TLS}{why}")),
                    fault => Problem::OfBackend(format!("{TLS}{fault}")),
                };
            }
            if let Some(known) = describe_io(error) {
                return Problem::OfBackend(known.into());
            }
        }
        match cause.source() {
            Some(source) => cause = source,
            None => return Problem::OfBackend(cause.to_string()),
        }
    }
}

fn describe_io(error: &io::Error) -> Option<&'static str> {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => Some("connection refused"),
        io::ErrorKind::ConnectionReset => Some("connection reset"),
        io::ErrorKind::HostUnreachable => Some("host unreachable"),
        io::ErrorKind::NetworkUnreachable => Some("network unreachable"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::*;

    #[test]
    fn what_this_process_is_short_of_is_found_below_what_libraries_make_of_it() {
        let error = |errno: Errno| io::Error::from_raw_os_error(errno.raw_os_error());
        let here = SocketAddr::from(([127, 0, 0, 1], 80));
        let wrapped = io::Error::other(tonic::Status::from_error(error(Errno::MFILE).into()));
        assert!(matches!(describe(&wrapped, here), Problem::Ours(_)));
        let refused = tonic::Status::from_error(error(Errno::CONNREFUSED).into());
        assert!(
            matches!(describe(&refused, here), Problem::OfBackend(what) if what == "connection refused")
        );
    }
}
