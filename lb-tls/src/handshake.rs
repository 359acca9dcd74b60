//! A TLS handshake, without its socket. rustls decides all of it.

use std::sync::Arc;

use rustls::{
    ClientConfig, ServerConfig,
    client::UnbufferedClientConnection,
    pki_types::{CertificateDer, ServerName},
    server::UnbufferedServerConnection,
    unbuffered::{ConnectionState, UnbufferedStatus},
};

use crate::{
    record,
    session::{Session, SessionError},
};

/// One end of it.
pub struct Handshake(End);

/// In boxes, because they are large, and there is one only until it is done.
enum End {
    Server(Box<UnbufferedServerConnection>),
    Client(Box<UnbufferedClientConnection>),
}

/// Where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The other side is to say something.
    Waiting,
    Done,
}

/// What the two ends have agreed on.
#[derive(Clone, Debug)]
pub struct Agreed {
    pub version: rustls::ProtocolVersion,
    pub suite: rustls::CipherSuite,
    pub is_resumed: bool,
    /// The other side's, its own first.
    pub certificates: Vec<CertificateDer<'static>>,
}

/// What one step asks for.
enum Step {
    Again,
    Stop(Progress),
}

impl Handshake {
    /// # Errors
    /// If the configuration cannot be used.
    pub fn server(config: &Arc<ServerConfig>) -> Result<Self, rustls::Error> {
        let conn = UnbufferedServerConnection::new(Arc::clone(config))?;
        Ok(Self(End::Server(Box::new(conn))))
    }

    /// # Errors
    /// If the configuration cannot be used.
    pub fn client(
        config: &Arc<ClientConfig>,
        name: ServerName<'static>,
    ) -> Result<Self, rustls::Error> {
        let conn = UnbufferedClientConnection::new(Arc::clone(config), name)?;
        Ok(Self(End::Client(Box::new(conn))))
    }

    /// Goes on with what has come; what of it was used is taken out of `input`. What is to be sent is put
    /// behind `output`, and it is all that there is to be sent until more comes.
    ///
    /// rustls is shown one record more at a time, so that what follows the handshake is left for the
    /// [`Session`].
    ///
    /// # Errors
    /// If there is no agreement. `output` has what the other side is to be told of that.
    pub fn advance(
        &mut self,
        input: &mut Vec<u8>,
        output: &mut Vec<u8>,
    ) -> Result<Progress, rustls::Error> {
        let mut shown = 0;
        loop {
            let (used, step) = self.step(&mut input[..shown], output);
            input.drain(..used);
            shown -= used;
            match step {
                Ok(Step::Again) => {}
                Ok(Step::Stop(Progress::Waiting)) => match next_record(&input[shown..]) {
                    Some(length) => shown += length,
                    None => return Ok(Progress::Waiting),
                },
                Ok(Step::Stop(Progress::Done)) => return Ok(Progress::Done),
                Err(error) => {
                    // With nothing left to be said, a step would look at the same bytes once more.
                    while self.has_words()
                        && let (_, Ok(Step::Again)) = self.step(&mut input[..shown], output)
                    {
                    }
                    return Err(error);
                }
            }
        }
    }

    fn step(
        &mut self,
        window: &mut [u8],
        output: &mut Vec<u8>,
    ) -> (usize, Result<Step, rustls::Error>) {
        match &mut self.0 {
            End::Server(conn) => step(conn.process_tls_records(window), output),
            End::Client(conn) => step(conn.process_tls_records(window), output),
        }
    }

    /// Whether something is to be said that was not put into an output yet.
    fn has_words(&self) -> bool {
        match &self.0 {
            End::Server(conn) => conn.wants_write(),
            End::Client(conn) => conn.wants_write(),
        }
    }

    /// What was agreed on, and the connection as it goes on.
    ///
    /// # Errors
    /// If it is not done.
    pub fn finish(self) -> Result<(Agreed, Session), SessionError> {
        match self.0 {
            End::Server(conn) => {
                let agreed = Agreed::of(&conn);
                let (secrets, kernel) = conn.dangerous_into_kernel_connection()?;
                Ok((agreed, Session::of_server(&secrets, kernel)?))
            }
            End::Client(conn) => {
                let agreed = Agreed::of(&conn);
                let (secrets, kernel) = conn.dangerous_into_kernel_connection()?;
                Ok((agreed, Session::of_client(&secrets, kernel)?))
            }
        }
    }
}

/// The length of the record that begins here, if all of it is there. One that is none is rustls's to
/// judge, as a whole.
fn next_record(bytes: &[u8]) -> Option<usize> {
    match record::length(bytes) {
        Ok(length) => length.filter(|length| *length <= bytes.len()),
        Err(_) => Some(bytes.len()),
    }
}

fn step<Data>(
    status: UnbufferedStatus<'_, '_, Data>,
    output: &mut Vec<u8>,
) -> (usize, Result<Step, rustls::Error>) {
    let UnbufferedStatus { discard, state } = status;
    let step = state.map(|state| match state {
        ConnectionState::EncodeTlsData(mut data) => {
            let start = output.len();
            // It says itself how much room it needs.
            let mut room = 512;
            loop {
                output.resize(start + room, 0);
                match data.encode(&mut output[start..]) {
                    Ok(written) => {
                        output.truncate(start + written);
                        break Step::Again;
                    }
                    Err(rustls::unbuffered::EncodeError::InsufficientSize(size)) => {
                        room = size.required_size;
                    }
                    Err(_) => {
                        output.truncate(start);
                        break Step::Again;
                    }
                }
            }
        }
        // All is sent together once it has to wait.
        ConnectionState::TransmitTlsData(data) => {
            data.done();
            Step::Again
        }
        ConnectionState::WriteTraffic(_) => Step::Stop(Progress::Done),
        // Whatever it is else, there is nothing to be done before more comes.
        _ => Step::Stop(Progress::Waiting),
    });
    (discard, step)
}

impl Agreed {
    fn of(common: &rustls::CommonState) -> Self {
        let suite = common.negotiated_cipher_suite();
        let certificates = common.peer_certificates().unwrap_or_default();
        Self {
            version: common.protocol_version().unwrap_or(rustls::ProtocolVersion::TLSv1_2),
            suite: suite.map_or(rustls::CipherSuite::TLS_NULL_WITH_NULL_NULL, |s| s.suite()),
            is_resumed: common.handshake_kind() == Some(rustls::HandshakeKind::Resumed),
            certificates: certificates.to_vec(),
        }
    }
}
