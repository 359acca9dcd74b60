//! TLS with backends: who is believed, what they are shown, sessions, renewal, and what breaks.

mod failures;
mod health;
mod renewal;
mod requests;
mod tunnels;

use integration_tests::{
    backend::Backend,
    certs::Ca,
    fleet::app,
    tls_front::{Terms, TlsFront},
};

/// What [`set`] asks backends for.
const NAME: &str = "app.internal";

/// A backend behind TLS that answers to [`NAME`].
struct Site {
    ca: Ca,
    backend: Backend,
    front: TlsFront,
}

impl Site {
    async fn new(backend: Backend) -> Self {
        Self::on(backend, <_>::default()).await
    }

    async fn on(backend: Backend, terms: Terms<'_>) -> Self {
        let ca = Ca::new("a test's");
        let front = TlsFront::start(backend.address(), &ca.sign(&[NAME]), terms).await;
        Self { ca, backend, front }
    }

    /// `more` is more of the set's TLS, `set` more of the set.
    fn spec(&self, more: &str, set: &str) -> String {
        let tls = tls(self.ca.pem(), more);
        app("", &format!("{set}\n{tls}"), &[self.front.address()])
    }
}

/// Of a backend set whose backends this CA signs.
fn tls(ca: &str, more: &str) -> String {
    format!("[backend_sets.tls]\nca = '''{ca}'''\nserver_name = '{NAME}'\n{more}")
}
