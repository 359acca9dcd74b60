//! Sockets that a service manager opened for this process (systemd's socket activation).
//!
//! They outlive the process: whoever connects between its end and the next one's start waits in a
//! queue that the manager keeps, instead of being refused. So nobody here closes what is in it.

use std::{env, io, net::SocketAddr, net::TcpListener};

use listenfd::ListenFd;

/// What was handed over and is not taken yet.
#[derive(Debug, Default)]
pub struct Sockets(Vec<Inherited>);

#[derive(Debug)]
struct Inherited {
    /// `FileDescriptorName=` of its unit.
    name: String,
    address: SocketAddr,
    socket: TcpListener,
}

// === impl Sockets ===

impl Sockets {
    /// What the environment says, if it means this process. To be called before there is another
    /// thread, because the environment is changed: children are not meant.
    ///
    /// # Errors
    /// If something that was handed over is not a listening TCP socket.
    pub fn from_env() -> io::Result<Self> {
        let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
        let mut names = names.split(':');
        let mut listed = ListenFd::from_env();
        let mut sockets = Self::default();
        for index in 0..listed.len() {
            let name = names.next().unwrap_or_default();
            if let Some(socket) = listed.take_tcp_listener(index)? {
                sockets.add(name, socket)?;
            }
        }
        Ok(sockets)
    }

    /// # Errors
    /// If it is not bound.
    pub fn add(&mut self, name: &str, socket: TcpListener) -> io::Result<()> {
        let address = socket.local_addr()?;
        self.0.push(Inherited { name: name.into(), address, socket });
        Ok(())
    }

    /// The socket of that name, wherever it is, or else the one at that address.
    pub fn find(&self, name: &str, address: SocketAddr) -> Option<&TcpListener> {
        self.position(name, address).map(|index| &self.0[index].socket)
    }

    /// As [`Sockets::find`], and then it is gone.
    pub fn take(&mut self, name: &str, address: SocketAddr) -> Option<TcpListener> {
        self.position(name, address).map(|index| self.0.remove(index).socket)
    }

    fn position(&self, name: &str, address: SocketAddr) -> Option<usize> {
        let named = self.0.iter().position(|one| one.name == name);
        named.or_else(|| self.0.iter().position(|one| covers(one.address, address)))
    }

    /// Name and address of each.
    pub fn iter(&self) -> impl Iterator<Item = (&str, SocketAddr)> {
        self.0.iter().map(|one| (one.name.as_str(), one.address))
    }
}

/// systemd's `ListenStream=8080` is `[::]:8080`, which takes IPv4 too.
fn covers(socket: SocketAddr, wanted: SocketAddr) -> bool {
    let all = |address: SocketAddr| address.ip().is_unspecified();
    socket == wanted
        || (socket.is_ipv6() && all(socket) && all(wanted) && socket.port() == wanted.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn local() -> TcpListener {
        TcpListener::bind("127.0.0.1:0").expect("there are free ports")
    }

    #[test]
    fn the_name_decides_and_then_the_address() {
        let (named, other) = (local(), local());
        let [at_named, at_other] = [&named, &other].map(|s| s.local_addr().expect("it is bound"));
        let mut sockets = Sockets::default();
        sockets.add("web", named).expect("it is bound");
        sockets.add("lb.socket", other).expect("it is bound");
        let nowhere = "127.0.0.1:1".parse().expect("an address");

        let found = |sockets: &Sockets, name, address| {
            sockets.find(name, address).map(|socket| socket.local_addr().expect("it is bound"))
        };
        assert_eq!(found(&sockets, "web", nowhere), Some(at_named));
        assert_eq!(found(&sockets, "web", at_other), Some(at_named));
        assert_eq!(found(&sockets, "api", at_other), Some(at_other));
        assert_eq!(found(&sockets, "api", nowhere), None);

        assert!(sockets.take("web", nowhere).is_some());
        assert!(sockets.take("web", nowhere).is_none(), "it is taken");
        assert_eq!(sockets.iter().collect::<Vec<_>>(), [("lb.socket", at_other)]);
    }

    #[test]
    fn a_socket_for_both_families_is_good_for_either() {
        let address = |text: &str| text.parse::<SocketAddr>().expect("an address");
        let cases = [
            ("[::]:80", "0.0.0.0:80", true),
            ("[::]:80", "[::]:80", true),
            ("[::]:80", "0.0.0.0:81", false),
            ("[::]:80", "127.0.0.1:80", false),
            ("0.0.0.0:80", "[::]:80", false),
            ("0.0.0.0:80", "0.0.0.0:80", true),
        ];
        for (socket, wanted, expected) in cases {
            assert_eq!(covers(address(socket), address(wanted)), expected, "{socket} {wanted}");
        }
    }
}
