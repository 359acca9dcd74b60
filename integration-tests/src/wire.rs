//! HTTP/1 as it is on the wire, for both ends of a connection.
//!
//! Small and strict on purpose: it takes what RFC 9112 says and nothing else, so that whatever a
//! proxy gets wrong fails a test instead of being put right by a library.

use std::{
    fmt,
    io::{self, ErrorKind::InvalidData},
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// One end of a connection.
#[derive(Debug)]
pub struct Wire {
    /// None of a connection that is over, and of which all bytes are in the buffer.
    stream: Option<TcpStream>,
    /// Read, and not yet taken.
    buffer: Vec<u8>,
    tap: Option<Tap>,
}

/// All that a [`Wire`] has read.
pub type Tap = Arc<Mutex<Vec<u8>>>;

/// A start line and header fields, in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Head {
    pub start: String,
    pub fields: Fields,
}

/// Header or trailer fields, in their order and spelling.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fields(pub Vec<(String, String)>);

/// A body and what came after it.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Body {
    pub bytes: Vec<u8>,
    pub trailers: Fields,
}

/// How a body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    None,
    Length(usize),
    Chunked,
    UntilClose,
}

const READ: usize = 64 * 1024;

// === impl Wire ===

impl Wire {
    pub fn new(stream: TcpStream) -> Self {
        // Tests send small pieces one by one.
        let _ = stream.set_nodelay(true);
        Self { stream: Some(stream), buffer: Vec::new(), tap: None }
    }

    /// What came on a connection before it ended.
    pub fn replay(bytes: Vec<u8>) -> Self {
        Self { stream: None, buffer: bytes, tap: None }
    }

    /// Keeps a copy of all that is read from now on.
    pub fn record(&mut self) -> Tap {
        Arc::clone(self.tap.insert(Tap::default()))
    }

    /// Where this end is.
    ///
    /// # Panics
    /// If the socket is broken.
    pub fn local_address(&self) -> SocketAddr {
        let stream = self.stream.as_ref();
        stream.and_then(|stream| stream.local_addr().ok()).expect("it is connected")
    }

    /// # Errors
    /// Those of the connection.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream()?.write_all(bytes.as_ref()).await
    }

    /// Sends while it reads so many bytes.
    ///
    /// # Errors
    /// Those of the connection.
    pub async fn send_and_read(&mut self, bytes: &[u8], length: usize) -> io::Result<Vec<u8>> {
        let mut read = std::mem::take(&mut self.buffer);
        let (mut from, mut to) = self.stream()?.split();
        let reading = async {
            while read.len() < length {
                read.reserve(READ);
                if from.read_buf(&mut read).await? == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
            Ok(())
        };
        tokio::try_join!(to.write_all(bytes), reading)?;
        self.buffer = read.split_off(length);
        Ok(read)
    }

    /// Sends no more, but goes on reading.
    ///
    /// # Errors
    /// Those of the connection.
    pub async fn half_close(&mut self) -> io::Result<()> {
        self.stream()?.shutdown().await
    }

    /// The next head, or `None` if the other end has closed instead of sending one.
    ///
    /// # Errors
    /// Those of the connection, and what is no head.
    pub async fn head(&mut self) -> io::Result<Option<Head>> {
        loop {
            if let Some(end) = find(&self.buffer, b"\r\n\r\n") {
                let text = self.take(end + 4);
                return Head::parse(&text[..end]).map(Some);
            }
            if self.fill().await? == 0 {
                return match self.buffer.is_empty() {
                    true => Ok(None),
                    false => Err(self.cut("a head")),
                };
            }
        }
    }

    /// # Errors
    /// Those of the connection, and what is no body.
    pub async fn body(&mut self, framing: Framing) -> io::Result<Body> {
        let bytes = match framing {
            Framing::None => Vec::new(),
            Framing::Length(length) => self.exactly(length).await?,
            Framing::Chunked => return self.chunked().await,
            Framing::UntilClose => self.rest().await?,
        };
        Ok(Body { bytes, trailers: Fields::default() })
    }

    /// The next chunk of a body; empty at its end, with its trailers left out.
    ///
    /// # Errors
    /// Those of the connection, and what is no chunk.
    pub async fn chunk(&mut self) -> io::Result<Vec<u8>> {
        match self.next_chunk().await? {
            Some(chunk) => Ok(chunk),
            None => self.trailers().await.map(|_| Vec::new()),
        }
    }

    /// # Errors
    /// Those of the connection.
    pub async fn exactly(&mut self, length: usize) -> io::Result<Vec<u8>> {
        while self.buffer.len() < length {
            if self.fill().await? == 0 {
                return Err(self.cut(&format!("{length} bytes")));
            }
        }
        Ok(self.take(length))
    }

    /// All that comes until the other end closes.
    ///
    /// # Errors
    /// Those of the connection.
    pub async fn rest(&mut self) -> io::Result<Vec<u8>> {
        while self.fill().await? > 0 {}
        Ok(std::mem::take(&mut self.buffer))
    }

    /// Whatever comes next; empty at the end.
    ///
    /// # Errors
    /// Those of the connection.
    pub async fn some(&mut self) -> io::Result<Vec<u8>> {
        if self.buffer.is_empty() {
            self.fill().await?;
        }
        Ok(std::mem::take(&mut self.buffer))
    }

    /// Waits for the next bytes or the end, and leaves them there.
    ///
    /// # Errors
    /// Those of the connection.
    pub async fn peek(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            self.fill().await?;
        }
        Ok(())
    }

    /// Returns once the other end has closed or reset the connection; what it sends until then is
    /// kept.
    pub async fn closed(&mut self) {
        while matches!(self.fill().await, Ok(n) if n > 0) {}
    }

    /// Closes with a reset instead of an end.
    pub fn reset(self) {
        if let Some(stream) = self.stream {
            let _ = stream.set_zero_linger();
        }
    }

    async fn chunked(&mut self) -> io::Result<Body> {
        let mut body = Body::default();
        while let Some(chunk) = self.next_chunk().await? {
            body.bytes.extend(chunk);
        }
        body.trailers = self.trailers().await?;
        Ok(body)
    }

    async fn next_chunk(&mut self) -> io::Result<Option<Vec<u8>>> {
        let line = self.line().await?;
        let size = usize::from_str_radix(&line, 16)
            .map_err(|_| io::Error::new(InvalidData, format!("{line:?} is no chunk size")))?;
        if size == 0 {
            return Ok(None);
        }
        let chunk = self.exactly(size).await?;
        if self.exactly(2).await? != *b"\r\n" {
            return Err(io::Error::new(InvalidData, "a chunk is longer than its size"));
        }
        Ok(Some(chunk))
    }

    async fn trailers(&mut self) -> io::Result<Fields> {
        let mut trailers = Fields::default();
        loop {
            match self.line().await? {
                line if line.is_empty() => return Ok(trailers),
                line => trailers.0.push(field(&line)?),
            }
        }
    }

    async fn line(&mut self) -> io::Result<String> {
        loop {
            if let Some(end) = find(&self.buffer, b"\r\n") {
                let line = self.take(end + 2);
                return text(&line[..end]);
            }
            if self.fill().await? == 0 {
                return Err(self.cut("a line"));
            }
        }
    }

    async fn fill(&mut self) -> io::Result<usize> {
        let Some(stream) = &mut self.stream else { return Ok(0) };
        self.buffer.reserve(READ);
        let read = stream.read_buf(&mut self.buffer).await?;
        if let Some(tap) = &self.tap {
            let new = &self.buffer[self.buffer.len() - read..];
            tap.lock().expect("nobody panics with it").extend_from_slice(new);
        }
        Ok(read)
    }

    fn stream(&mut self) -> io::Result<&mut TcpStream> {
        self.stream.as_mut().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    fn take(&mut self, length: usize) -> Vec<u8> {
        // What is taken may be kept, so it is not to keep the whole buffer.
        self.buffer.drain(..length).collect()
    }

    fn cut(&self, expected: &str) -> io::Error {
        let got = String::from_utf8_lossy(&self.buffer);
        let got: String = got.chars().take(200).collect();
        let message = format!("closed in the middle of {expected}, after {got:?}");
        io::Error::new(io::ErrorKind::UnexpectedEof, message)
    }
}

// === impl Head ===

impl Head {
    fn parse(bytes: &[u8]) -> io::Result<Self> {
        let text = text(bytes)?;
        let mut lines = text.split("\r\n");
        let start = lines.next().unwrap_or_default().to_owned();
        let fields = lines.map(field).collect::<io::Result<_>>()?;
        Ok(Self { start, fields: Fields(fields) })
    }

    /// How the body of this request ends.
    ///
    /// # Errors
    /// If it is ambiguous.
    pub fn request_framing(&self) -> io::Result<Framing> {
        Ok(self.framing()?.unwrap_or(Framing::None))
    }

    /// How the body of this response ends. `to_head`: it answers a HEAD.
    ///
    /// # Errors
    /// If it is ambiguous.
    pub fn response_framing(&self, to_head: bool) -> io::Result<Framing> {
        let framing = self.framing()?.unwrap_or(Framing::UntilClose);
        Ok(match self.status() {
            100..=199 | 204 | 304 => Framing::None,
            _ if to_head => Framing::None,
            _ => framing,
        })
    }

    fn framing(&self) -> io::Result<Option<Framing>> {
        let encodings = self.fields.all("transfer-encoding");
        let lengths = self.fields.all("content-length");
        match (&*encodings, &*lengths) {
            ([], []) => Ok(None),
            (["chunked"], []) => Ok(Some(Framing::Chunked)),
            ([], [length]) => match length.parse() {
                Ok(length) => Ok(Some(Framing::Length(length))),
                Err(_) => Err(io::Error::new(InvalidData, format!("content-length {length:?}"))),
            },
            _ => Err(io::Error::new(InvalidData, format!("ambiguous framing: {self:?}"))),
        }
    }

    /// Of a response; 0 if it is none.
    pub fn status(&self) -> u16 {
        let code = self.start.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5));
        code.and_then(|code| code.parse().ok()).unwrap_or(0)
    }

    /// Of a request.
    pub fn method(&self) -> &str {
        self.start.split(' ').next().unwrap_or_default()
    }

    /// Of a request.
    pub fn target(&self) -> &str {
        self.start.split(' ').nth(1).unwrap_or_default()
    }
}

// === impl Fields ===

impl Fields {
    /// The only value of this name.
    ///
    /// # Panics
    /// If there are several.
    pub fn get(&self, name: &str) -> Option<&str> {
        let all = self.all(name);
        assert!(all.len() < 2, "{name} is there more than once: {all:?}");
        all.first().copied()
    }

    pub fn all(&self, name: &str) -> Vec<&str> {
        let named = self.0.iter().filter(|(other, _)| other.eq_ignore_ascii_case(name));
        named.map(|(_, value)| value.as_str()).collect()
    }

    pub fn has(&self, name: &str) -> bool {
        !self.all(name).is_empty()
    }
}

fn field(line: impl AsRef<str>) -> io::Result<(String, String)> {
    let line = line.as_ref();
    let invalid = || io::Error::new(InvalidData, format!("{line:?} is no field"));
    let (name, value) = line.split_once(':').ok_or_else(invalid)?;
    let is_token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    if name.is_empty() || !name.chars().all(is_token) {
        return Err(invalid());
    }
    Ok((name.to_owned(), value.trim_matches([' ', '\t']).to_owned()))
}

/// Text whose only control characters are whole line ends.
fn text(bytes: &[u8]) -> io::Result<String> {
    match String::from_utf8(bytes.to_vec()) {
        Ok(text) if !text.replace("\r\n", "").contains(['\0', '\r', '\n']) => Ok(text),
        _ => Err(io::Error::new(InvalidData, format!("{:?}", String::from_utf8_lossy(bytes)))),
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

// === impl Body ===

impl Body {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into()
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text: String = self.text().chars().take(200).collect();
        write!(f, "{} bytes {text:?}, trailers {:?}", self.bytes.len(), self.trailers)
    }
}
