//! HTTP to a CA, over TLS as the rest of the project speaks it. A CA is asked little: each request has a
//! connection of its own.

use std::{
    error::Error as StdError,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, UNIX_EPOCH},
};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Request, Response, StatusCode, Uri,
    header::{CONTENT_TYPE, HOST, RETRY_AFTER},
};
use http_body_util::{BodyExt, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use lb_common::clock;
use lb_tls::{
    certificate,
    client::{ClientOptions, Trust, client},
};
use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// For one request, from the look-up of the CA's address to its answer's end.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Of an answer.
const MOST_BYTES: usize = 1024 * 1024;

/// Cheap to clone.
#[derive(Clone)]
pub struct Client {
    tls: Arc<ClientConfig>,
    /// How long a CA last asked to be left alone. A mutex, because requests have no other way to say it.
    asked: Arc<Mutex<Option<Duration>>>,
}

/// Why a CA was not asked, or did not answer.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error("{0} is not asked: it is no https URL")]
    NotHttps(Uri),
    #[error("{host} does not answer: {source}")]
    Unreachable { host: String, source: Box<dyn StdError + Send + Sync> },
    #[error("{host} does not answer within {TIMEOUT:?}")]
    Silent { host: String },
    #[error("{host} answered {status}")]
    Status { host: String, status: StatusCode },
}

/// Whom the system trusts, or those of this PEM text. Reads files, so it blocks.
///
/// # Errors
/// If there is nobody.
pub fn connect(ca: Option<&[u8]>) -> Result<Client, String> {
    let (roots, system);
    let trust = match ca {
        Some(text) => {
            roots = certificate::certificates(text).map_err(|error| format!("ca: {error}"))?;
            Trust::Of(&roots)
        }
        None => {
            let mut store = RootCertStore::empty();
            store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if store.is_empty() {
                return Err(
                    "the controller's system trusts no CA: give ca, or install its certificates \
                            (Debian: ca-certificates)"
                        .into(),
                );
            }
            system = Arc::new(store);
            Trust::Roots(&system)
        }
    };
    let alpn: &[&[u8]] = &[b"http/1.1"];
    let options = ClientOptions { trust, certificate: None, only_tls13: false, alpn };
    let tls = client(&options).map_err(|error| format!("ca: {error}"))?.into();
    Ok(Client { tls, asked: Arc::default() })
}

impl Client {
    /// How long the CA asked to be left alone, if it did since the last call.
    pub fn asked(&self) -> Option<Duration> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    async fn send(self, mut request: Request<BodyWrapper<Bytes>>) -> Result<BytesResponse, Failed> {
        let uri = request.uri().clone();
        let Some((host, path)) = place(&uri) else { return Err(Failed::NotHttps(uri)) };
        *request.uri_mut() = path;
        if let Ok(value) = HeaderValue::from_str(&host) {
            request.headers_mut().insert(HOST, value);
        }
        let response = match tokio::time::timeout(TIMEOUT, self.exchange(&uri, request)).await {
            Err(_) => return Err(Failed::Silent { host }),
            Ok(Err(source)) => return Err(Failed::Unreachable { host, source }),
            Ok(Ok(response)) => response,
        };
        let (parts, body) = response.into_parts();
        if let Some(wait) = retry_after(&parts.headers)
            && matches!(
                parts.status,
                StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE
            )
        {
            *self.asked.lock().unwrap_or_else(PoisonError::into_inner) = Some(wait);
        }
        // What is wrong is told as JSON, unless it is told by something before the CA.
        let kind = parts.headers.get(CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
        let is_told = kind.windows(4).any(|window| window == b"json");
        if !(parts.status.is_success() || is_told) {
            return Err(Failed::Status { host, status: parts.status });
        }
        Ok(BytesResponse { parts, body: Box::new(body) })
    }

    async fn exchange(
        &self,
        uri: &Uri,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Result<Response<Bytes>, Box<dyn StdError + Send + Sync>> {
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let socket = TcpStream::connect((&*host, uri.port_u16().unwrap_or(443))).await?;
        let connector = TlsConnector::from(Arc::clone(&self.tls));
        let stream = connector.connect(ServerName::try_from(host)?, socket).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let exchange = async {
            let (parts, body) = sender.send_request(request).await?.into_parts();
            let body = Limited::new(body, MOST_BYTES).collect().await?.to_bytes();
            Ok(Response::from_parts(parts, body))
        };
        // It ends together with the answer.
        tokio::pin!(exchange);
        tokio::select! {
            answer = &mut exchange => answer,
            ended = connection => match ended {
                Ok(()) => exchange.await,
                Err(error) => Err(error.into()),
            }
        }
    }
}

impl HttpClient for Client {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let client = self.clone();
        Box::pin(async move {
            client.send(request).await.map_err(|error| Error::Other(Box::new(error)))
        })
    }
}

/// The authority and the path of an https URL.
fn place(uri: &Uri) -> Option<(String, Uri)> {
    if uri.scheme_str() != Some("https") {
        return None;
    }
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    Some((uri.authority()?.to_string(), path.parse().ok()?))
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    text.parse().map(Duration::from_secs).ok().or_else(|| {
        let until = httpdate::parse_http_date(text).ok()?.duration_since(UNIX_EPOCH).ok()?;
        Some(until.saturating_sub(clock::wall()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_that_is_not_https_is_not_asked() {
        let place = |text: &str| place(&text.parse().expect("a URL"));
        let (host, path) = place("https://ca.test:14000/dir?x=1").expect("it is https");
        assert_eq!((host.as_str(), path.to_string().as_str()), ("ca.test:14000", "/dir?x=1"));
        assert_eq!(place("http://ca.test/dir"), None);
        assert_eq!(place("/dir"), None);
    }

    #[test]
    fn a_ca_says_how_long_to_wait_in_seconds_or_until_when() {
        let asked = |text: &str| {
            let value = HeaderValue::from_str(text).expect("a value");
            retry_after(&[(RETRY_AFTER, value)].into_iter().collect())
        };
        assert_eq!(asked("120"), Some(Duration::from_secs(120)));
        assert_eq!(asked("Thu, 01 Jan 1970 00:00:00 GMT"), Some(Duration::ZERO));
        let soon = httpdate::fmt_http_date(UNIX_EPOCH + clock::wall() + Duration::from_secs(100));
        assert!(asked(&soon).is_some_and(|wait| wait > Duration::from_secs(90)));
        assert_eq!(asked("soon"), None);
    }
}
