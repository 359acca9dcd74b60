//! What the operator's commands share: the way to the controller, and what they say.
//!
//! - [`Remote`] is where the controller is, [`Controller`] a connection to it.
//! - [`proposal`]: show what would change, ask, and change it only if nothing else changed since.
//! - [`changes`]: differences, as they are shown. [`when`]: times and numbers, as they are shown.
//! - [`by_hand`] and [`held`]: why a backend is not as the spec or its checks say.
//! - [`name`]: `SET/BACKEND`, and what it names. [`trouble`]: why a proxy is not in sync.

use std::{env, error::Error, fmt, fs, process::ExitCode, time::Duration};

use anyhow::anyhow;
use http::Uri;
use lb_proto::{
    MAX_MESSAGE_BYTES,
    v1::{self, fleet_client::FleetClient},
};
use tonic::{
    Code, Request, Response, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Channel, Endpoint},
};

pub mod by_hand;
pub mod changes;
pub mod expiry;
pub mod held;
pub mod name;
pub mod proposal;
pub mod trouble;
pub mod when;

/// Where the controller is.
#[derive(Debug, clap::Args)]
pub struct Remote {
    /// The controller; of several, the first one that can be reached
    #[arg(
        long,
        env = "LB_CONTROL",
        value_name = "URL,..",
        value_delimiter = ',',
        default_value = "http://127.0.0.1:7000",
        value_parser = url
    )]
    control: Vec<Uri>,
}

/// A connection to a controller.
#[derive(Clone, Debug)]
pub struct Controller {
    api: Api,
    url: Uri,
}

/// What the controller answered instead, or why there is no answer.
#[derive(Debug)]
pub struct Refused {
    pub code: Code,
    message: String,
}

pub type Api = FleetClient<InterceptedService<Channel, Author>>;

/// Says with each call who makes it.
#[derive(Clone, Debug)]
pub struct Author(Option<MetadataValue<Ascii>>);

const AUTHOR: &str = "lb-author";

/// Somebody else changed the fleet in between.
pub const CONFLICT: u8 = 4;

const CONNECT_WITHIN: Duration = Duration::from_secs(5);
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// How soon a stream that says nothing is known to be broken.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// Runs a command that talks to the controller.
///
/// # Errors
/// Those of the command.
pub fn run(command: impl Future<Output = anyhow::Result<ExitCode>>) -> anyhow::Result<ExitCode> {
    // A thread of its own for the connection: it has to answer the controller's pings while this one
    // waits for an editor or for somebody's answer.
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let ended = runtime.block_on(command);
    // Standard input may be read still, by a thread that nobody waits for.
    runtime.shutdown_background();
    ended
}

/// What the process ends with after this error.
pub fn exit_code(error: &anyhow::Error) -> ExitCode {
    match error.downcast_ref::<Refused>() {
        Some(Refused { code: Code::Aborted, .. }) => ExitCode::from(CONFLICT),
        _ => ExitCode::FAILURE,
    }
}

/// # Errors
/// What would be valid.
fn url(text: &str) -> Result<Uri, String> {
    let hint = "give a URL like http://127.0.0.1:7000";
    let text = text.trim();
    let text = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    let url: Uri = text.parse().map_err(|_| hint.to_owned())?;
    let plain = url.scheme_str() == Some("http") && url.port_u16().is_some();
    let nothing_more = matches!(url.path(), "" | "/") && url.query().is_none();
    if plain && nothing_more { Ok(url) } else { Err(hint.to_owned()) }
}

// === impl Remote ===

impl Remote {
    /// # Errors
    /// If none of them can be reached.
    pub async fn connect(&self) -> anyhow::Result<Controller> {
        let mut failures = Vec::new();
        for url in &self.control {
            let endpoint = Endpoint::from(url.clone())
                .connect_timeout(CONNECT_WITHIN)
                .http2_keep_alive_interval(KEEP_ALIVE)
                .keep_alive_timeout(KEEP_ALIVE)
                .keep_alive_while_idle(true);
            match endpoint.connect().await {
                Ok(channel) => {
                    let api = FleetClient::with_interceptor(channel, Author::of_process())
                        .max_decoding_message_size(MAX_MESSAGE_BYTES)
                        .max_encoding_message_size(MAX_MESSAGE_BYTES);
                    return Ok(Controller { api, url: url.clone() });
                }
                Err(error) => failures.push(format!("at {}: {}", shown(url), root(&error))),
            }
        }
        Err(anyhow!(
            "cannot reach a controller {}; is it running, and is its --grpc address the one in \
             --control (LB_CONTROL)?",
            failures.join(", nor ")
        ))
    }
}

fn shown(url: &Uri) -> String {
    url.to_string().trim_end_matches('/').to_owned()
}

/// The innermost error: the outer ones say only that there is one.
fn root(error: &dyn Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

impl fmt::Display for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.control.iter().map(shown).collect::<Vec<_>>().join(", "))
    }
}

// === impl Author ===

impl Author {
    /// `LB_AUTHOR`, or else `USER@HOST`. Whoever has no name is known by his address.
    fn of_process() -> Self {
        let given = |name| env::var(name).ok().filter(|value| !value.is_empty());
        let of_login = || {
            let user = given("USER").or_else(|| given("LOGNAME"))?;
            let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
            Some(format!("{user}@{}", host.trim()))
        };
        Self(given("LB_AUTHOR").or_else(of_login).and_then(|who| who.parse().ok()))
    }
}

impl Interceptor for Author {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(author) = &self.0 {
            request.metadata_mut().insert(AUTHOR, author.clone());
        }
        Ok(request)
    }
}

// === impl Controller ===

impl Controller {
    /// Which one it is.
    pub fn url(&self) -> String {
        shown(&self.url)
    }

    /// One call with one answer.
    ///
    /// # Errors
    /// What the controller says, or why it says nothing.
    pub async fn call<T>(
        &self,
        call: impl AsyncFnOnce(Api) -> Result<Response<T>, Status>,
    ) -> Result<T, Refused> {
        match tokio::time::timeout(ANSWER_WITHIN, call(self.api.clone())).await {
            Ok(answer) => answer.map(Response::into_inner).map_err(|status| self.refused(&status)),
            Err(_) => Err(Refused {
                code: Code::DeadlineExceeded,
                message: format!("{} does not answer within {ANSWER_WITHIN:?}", shown(&self.url)),
            }),
        }
    }

    /// The desired state and its revision.
    ///
    /// # Errors
    /// As [`Controller::call`].
    pub async fn get(&self, revision: Option<u64>) -> Result<(u64, v1::Spec), Refused> {
        let answer = self.call(async |mut api| api.get(v1::GetRequest { revision }).await).await?;
        Ok((answer.revision, answer.spec.unwrap_or_default()))
    }

    /// # Errors
    /// As [`Controller::call`].
    pub async fn apply(&self, request: v1::ApplyRequest) -> Result<v1::ApplyResponse, Refused> {
        self.call(async |mut api| api.apply(request).await).await
    }

    /// In the words of people.
    pub fn refused(&self, status: &Status) -> Refused {
        let code = status.code();
        let url = shown(&self.url);
        let message = match (code, status.source()) {
            // These come from the connection, not from the controller.
            (Code::Unimplemented, None) if status.message().is_empty() => {
                format!("{url} is no controller, or one that is older than this lb")
            }
            (Code::Unavailable, Some(source)) => {
                format!("the connection to {url} was lost: {}", root(source))
            }
            (_, Some(source)) => format!(
                "{url} does not answer as a controller does: {}; is it the controller's --grpc \
                 address?",
                root(source)
            ),
            (_, None) if status.message().is_empty() => format!("{url} answers: {code}"),
            (_, None) => status.message().to_owned(),
        };
        Refused { code, message }
    }
}

// === impl Refused ===

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for Refused {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_controller_is_given_with_or_without_a_scheme() {
        let of = |text| url(text).map(|url| shown(&url));
        assert_eq!(of("http://10.0.0.1:7000/").as_deref(), Ok("http://10.0.0.1:7000"));
        assert_eq!(of("lb.internal:7000").as_deref(), Ok("http://lb.internal:7000"));
        for bad in ["", "http://", "http://10.0.0.1", "https://10.0.0.1:7000", "http://a:1/b"] {
            assert!(of(bad).is_err(), "{bad:?}");
        }
    }
}
