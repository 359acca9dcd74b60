use std::{
    future::poll_fn,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    sync::Arc,
    thread::{self, JoinHandle},
};

use lb_tls::{
    certificate::Certificate,
    handshake::{Handshake, Progress},
    provider,
    server::{ServerOptions, server},
    tickets::Tickets,
};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    pki_types::{ServerName, pem::PemObject},
};

use super::*;
use crate::net::count::Count;

type Client = StreamOwned<ClientConnection, TcpStream>;

/// One of our connections, and what came of what its client did with its own.
async fn connected<T: Send + 'static>(
    talk: impl FnOnce(Client) -> T + Send + 'static,
) -> (Tls, JoinHandle<T>) {
    let made = rcgen::generate_simple_self_signed(["a.test".into()]).expect("it is made");
    let (cert, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    let certificate = Certificate::read(cert.as_bytes(), key.as_bytes()).expect("a pair");
    let options = ServerOptions {
        certificates: &[Arc::new(certificate)],
        only_tls13: false,
        client_auth: None,
        tickets: Arc::new(Tickets::new([&[1; 32]], b"")),
        alpn: &[],
    };
    let config = server(&options).expect("it can be used");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    let client = thread::spawn(move || {
        let mut roots = RootCertStore::empty();
        let cert = PemObject::from_pem_slice(cert.as_bytes()).expect("PEM");
        roots.add(cert).expect("a certificate");
        let config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("there are some")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from("a.test").expect("a name");
        let tls = ClientConnection::new(Arc::new(config), name).expect("it can be");
        talk(StreamOwned::new(tls, TcpStream::connect(address).expect("it listens")))
    });
    let (socket, _) = listener.accept().expect("one connects");
    socket.set_nonblocking(true).expect("it is open");
    let mut socket = Socket::accepted(socket, Count::default().one()).expect("it is watched");
    let mut handshake = Handshake::server(&config).expect("it can be");
    let (mut input, mut memory) = (Vec::new(), [0; 4096]);
    loop {
        let mut output = Vec::new();
        let progress = handshake.advance(&mut input, &mut output).expect("they agree");
        poll_fn(|cx| socket.poll_write(cx, &output)).await.expect("it is open");
        if progress == Progress::Done {
            break;
        }
        let read = poll_fn(|cx| socket.poll_read(cx, &mut memory)).await.expect("it is open");
        input.extend_from_slice(&memory[..read]);
    }
    let (_, session) = handshake.finish().expect("it is done");
    (Tls::new(socket, session, Rc::default(), &input), client)
}

/// Bytes of which each knows its place.
fn bytes(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i % 251) as u8).collect()
}

async fn read(tls: &mut Tls, room: usize) -> Vec<u8> {
    let mut into = vec![0; room];
    let read = poll_fn(|cx| tls.poll_read(cx, &mut into)).await.expect("it is open");
    into.truncate(read);
    into
}

#[tokio::test]
async fn what_the_socket_does_not_take_at_once_comes_whole_and_once() {
    const LENGTH: usize = 20_000_000;
    let (mut tls, client) = connected(|mut client| {
        client.write_all(b"go").expect("it is open");
        let mut all = Vec::new();
        client.read_to_end(&mut all).expect("it ends in order");
        all
    })
    .await;
    assert_eq!(read(&mut tls, 100).await, b"go");
    let (sent, mut at) = (bytes(LENGTH), 0);
    let mut had_to_wait = false;
    poll_fn(|cx| {
        while at < LENGTH {
            let end = (at + 70_000).min(LENGTH);
            let Poll::Ready(taken) = tls.poll_write(cx, &sent[at..end]) else {
                had_to_wait = true;
                return Poll::Pending;
            };
            at += taken.expect("it is open");
        }
        Poll::Ready(())
    })
    .await;
    poll_fn(|cx| tls.poll_end(cx)).await.expect("it is open");
    assert!(had_to_wait && tls.capacity() == 0);
    assert!(client.join().expect("it is well") == sent);
}

#[tokio::test]
async fn a_reader_with_little_room_gets_all_piece_by_piece() {
    let (mut tls, client) = connected(|mut client| {
        client.write_all(&bytes(100_000)).expect("it is open");
        client.conn.send_close_notify();
        client.flush().expect("it is open");
        client
    })
    .await;
    let mut all = Vec::new();
    loop {
        let piece = read(&mut tls, 4_000).await;
        if piece.is_empty() {
            break;
        }
        all.extend(piece);
    }
    assert!(all == bytes(100_000));
    assert_eq!(tls.capacity(), 0);
    drop(client.join());
}

#[tokio::test]
async fn small_pieces_share_a_record_and_long_ones_are_not_copied_into_more() {
    let (mut tls, client) = connected(|mut client| {
        let mut all = Vec::new();
        client.read_to_end(&mut all).expect("it ends in order");
        all
    })
    .await;
    let long = bytes(50_000);
    let slices = [IoSlice::new(b"head"), IoSlice::new(&long), IoSlice::new(b"tail")];
    let mut buffers = Buffers::default();
    buffers.prepare();
    let (taken, filled) = tls.seal(&slices, &mut buffers).expect("it goes on");
    // Header, inner type and tag of four records.
    assert_eq!((taken, filled - taken), (50_008, 4 * 22));
    let sealed = &buffers.output[..filled];
    let mut at = 0;
    while at < filled {
        at += poll_fn(|cx| tls.socket.poll_write(cx, &sealed[at..])).await.expect("it is open");
    }
    poll_fn(|cx| tls.poll_end(cx)).await.expect("it is open");
    assert!(client.join().expect("it is well") == [b"head", &long[..], b"tail"].concat());
}

#[tokio::test]
async fn an_end_without_a_word_is_no_end() {
    let (mut tls, client) = connected(|mut client| {
        client.write_all(b"hello").expect("it is open");
        client.sock.shutdown(std::net::Shutdown::Write).expect("it is open");
        // What nobody has read yet would make a reset of the end.
        let _ = client.sock.read_to_end(&mut Vec::new());
    })
    .await;
    assert_eq!(read(&mut tls, 100).await, b"hello");
    let mut into = [0; 100];
    let error = poll_fn(|cx| tls.poll_read(cx, &mut into)).await.expect_err("it was cut");
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    drop(tls);
    client.join().expect("it is well");
}
