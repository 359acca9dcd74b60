//! Tells the service manager how this process does (systemd's `Type=notify`). Without one that asks
//! for it, nothing happens.

use std::{
    env,
    ffi::OsStr,
    io,
    os::{
        linux::net::SocketAddrExt as _,
        unix::{ffi::OsStrExt as _, net::SocketAddr, net::UnixDatagram},
    },
};

/// What there is to tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It has started, and does what it is for.
    Ready,
    /// It ends, in order.
    Stopping,
}

/// Tells whoever `NOTIFY_SOCKET` names.
pub fn notify(state: State) {
    let Some(socket) = env::var_os("NOTIFY_SOCKET").filter(|socket| !socket.is_empty()) else {
        return;
    };
    if let Err(error) = send(&socket, state) {
        tracing::warn!(?socket, ?state, %error, "the service manager could not be told");
    }
}

fn send(socket: &OsStr, state: State) -> io::Result<()> {
    let address = match socket.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(socket)?,
    };
    let text = match state {
        State::Ready => "READY=1",
        State::Stopping => "STOPPING=1",
    };
    UnixDatagram::unbound()?.send_to_addr(text.as_bytes(), &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(name: &str, address: &SocketAddr) {
        let manager = UnixDatagram::bind_addr(address).expect("nobody else has this name");
        for (state, expected) in [(State::Ready, "READY=1"), (State::Stopping, "STOPPING=1")] {
            send(name.as_ref(), state).expect("somebody listens");
            let mut buffer = [0; 64];
            let length = manager.recv(&mut buffer).expect("something was sent");
            assert_eq!(&buffer[..length], expected.as_bytes());
        }
    }

    fn unique(what: &str) -> String {
        format!("lb-notify-{what}-{}", std::process::id())
    }

    #[test]
    fn a_manager_at_a_path_is_told() {
        let path = env::temp_dir().join(unique("path"));
        check(path.to_str().expect("text"), &SocketAddr::from_pathname(&path).expect("short"));
        std::fs::remove_file(path).expect("it is there");
    }

    #[test]
    fn a_manager_at_an_abstract_name_is_told() {
        let name = unique("abstract");
        let address = SocketAddr::from_abstract_name(&name).expect("it is short");
        check(&format!("@{name}"), &address);
    }

    #[test]
    fn a_manager_that_is_not_there_is_an_error_and_no_more() {
        assert!(send("/nowhere/at/all".as_ref(), State::Ready).is_err());
    }
}
