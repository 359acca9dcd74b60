//! One order, from its beginning to a certificate.
//!
//! ```text
//!   account -> order -> challenges -> (proxies have them) -> ready -> key, CSR -> certificate
//! ```
//!
//! An order that was begun before, by this controller or by one before it, is gone on with.

use std::{collections::BTreeMap, time::Duration};

use instant_acme::{
    Account, AuthorizationStatus, ChallengeStatus, ChallengeType, Error, Identifier, NewOrder,
    Order as AtCa, OrderStatus, RetryPolicy,
};
use lb_common::{
    clock,
    id::CertificateName,
    material::{MaterialId, Materials},
    secret::Secret,
    spec::{Acme, Challenge, Pem},
};
use lb_tls::certificate::{Certificate, Facts};
use rcgen::{CertificateParams, DistinguishedName, KeyPair};

use super::{
    account::Accounts,
    challenge,
    client::{self, Client},
    failure::{Failure, is_passing, told},
    ledger::News,
    material::{keep, look},
    record::{Open, Record},
    schedule,
};
use crate::{controller::Event, owner::Handle, timestamp};

/// What one order takes.
pub struct Order {
    pub certificate: CertificateName,
    pub acme: Acme,
    pub challenge: Challenge,
    /// What is known of those before it.
    pub record: Record,
    pub handle: Handle,
    pub accounts: Accounts,
}

/// What came of it.
pub struct Issued {
    /// The key and the chain, as PEM.
    pub pem: Secret,
    pub facts: Facts,
}

/// For all of it. What takes longer is begun again, and goes on where it was.
const TIMEOUT: Duration = Duration::from_secs(600);
/// How long proxies get to have a challenge before the CA is told that it is there.
const SPREAD_WITHIN: Duration = Duration::from_secs(10);
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// How a CA is asked whether it is done.
const POLLS: RetryPolicy = RetryPolicy::new()
    .initial_delay(Duration::from_millis(250))
    .backoff(1.5)
    .timeout(Duration::from_secs(180));

impl Order {
    /// # Errors
    /// Why there is no certificate.
    pub async fn run(mut self) -> Result<Issued, Failure> {
        match tokio::time::timeout(TIMEOUT, self.go()).await {
            Ok(result) => result,
            Err(_) => {
                let is_open = true;
                Err(Failure { is_open, ..Failure::new(format!("is not done within {TIMEOUT:?}")) })
            }
        }
    }

    async fn go(&mut self) -> Result<Issued, Failure> {
        let client = self.client().await?;
        let result = self.go_with(&client).await;
        result.map_err(|failure| Failure { wait: failure.wait.max(client.asked()), ..failure })
    }

    async fn client(&self) -> Result<Client, Failure> {
        let ca = match &self.acme.ca {
            None => None,
            Some(Pem::Text(text)) => Some(Secret::new(text.clone().into())),
            Some(Pem::File(path)) => {
                let id = MaterialId::file(path);
                let found = look(&self.handle, [id.clone()]).await?.remove(&id);
                Some(found.ok_or_else(|| Failure::new("ca: was not read yet"))?)
            }
        };
        let connect = move || client::connect(ca.as_ref().map(Secret::reveal));
        let connected = tokio::task::spawn_blocking(connect).await;
        connected.unwrap_or_else(|error| Err(error.to_string())).map_err(Failure::new)
    }

    async fn go_with(&mut self, client: &Client) -> Result<Issued, Failure> {
        let account = self.accounts.get(&self.handle, &self.acme, client, None).await?;
        let (mut order, key) = match self.resumed(&account).await? {
            Some(resumed) => resumed,
            None => match self.begun(&account).await {
                Err(failure) if failure.has_no_account => {
                    tracing::warn!(
                        directory = self.acme.directory,
                        "its CA knows the account no more"
                    );
                    let gone = Some(account.id());
                    let account = self.accounts.get(&self.handle, &self.acme, client, gone).await?;
                    self.begun(&account).await?
                }
                begun => begun?,
            },
        };
        if order.state().status == OrderStatus::Pending {
            self.authorize(&mut order).await?;
        }
        if order.state().status == OrderStatus::Ready {
            order.finalize_csr(&self.request(&key)?).await?;
        }
        let chain = order.poll_certificate(&POLLS).await?;
        self.judge(&key, &chain)
    }

    /// The one that is under way, unless nothing can come of it any more.
    async fn resumed(&self, account: &Account) -> Result<Option<(AtCa, KeyPair)>, Failure> {
        let Some(Open { url, key, .. }) = &self.record.open else { return Ok(None) };
        let Ok(key) = KeyPair::from_pem(key) else { return Ok(None) };
        match account.order(url.clone()).await {
            Ok(mut order) => {
                let is_over = order.state().status == OrderStatus::Invalid;
                if !is_over {
                    let certificate = &self.certificate;
                    tracing::info!(%certificate, order = order.url(), "going on with an order");
                }
                Ok((!is_over).then_some((order, key)))
            }
            Err(Error::Api(problem)) if !is_passing(&problem) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    async fn begun(&mut self, account: &Account) -> Result<(AtCa, KeyPair), Failure> {
        let domains = self.acme.domains.iter().cloned().map(Identifier::Dns).collect::<Vec<_>>();
        let order = account.new_order(&NewOrder::new(&domains)).await?;
        tracing::info!(certificate = %self.certificate, order = order.url(), "order begun at a CA");
        let key = KeyPair::generate()?;
        let (url, pem) = (order.url().to_owned(), key.serialize_pem());
        self.record.open = Some(Open { url, key: pem, answers: BTreeMap::new() });
        self.keep().await?;
        Ok((order, key))
    }

    async fn keep(&self) -> Result<(), Failure> {
        let id = MaterialId::acme_order(&self.certificate);
        Ok(keep(&self.handle, Materials::unit(id, self.record.to_secret())).await?)
    }

    /// Shows the CA that the domains are ours.
    async fn authorize(&mut self, order: &mut AtCa) -> Result<(), Failure> {
        let kind = match self.challenge {
            Challenge::Http01 => ChallengeType::Http01,
            Challenge::TlsAlpn01 => ChallengeType::TlsAlpn01,
        };
        let mut answers = Materials::new();
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization?;
            let domain = authorization.identifier().to_string();
            if authorization.status != AuthorizationStatus::Pending {
                continue;
            }
            let Some(challenge) = authorization.challenge(kind.clone()) else {
                let kind = self.challenge.as_str();
                return Err(Failure::new(format!("{domain}: the CA does not offer {kind} for it")));
            };
            let authorization = challenge.key_authorization();
            answers.extend(match self.challenge {
                Challenge::Http01 => challenge::http_01(&challenge.token, authorization.as_str()),
                Challenge::TlsAlpn01 => {
                    let digest = authorization.digest();
                    let digest = digest.as_ref().try_into().expect("SHA-256 has 32 bytes");
                    challenge::tls_alpn_01(&domain, digest)?
                }
            });
        }
        if !answers.is_empty() {
            if let Some(open) = &mut self.record.open {
                open.set_answers(&answers);
            }
            self.keep().await?;
            let answers_of = answers.len();
            self.spread(answers).await?;
            tracing::info!(certificate = %self.certificate, domains = answers_of, "the CA may look");
        }
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization?;
            if authorization.status == AuthorizationStatus::Pending
                && let Some(mut challenge) = authorization.challenge(kind.clone())
                // The CA may have been told by a controller before this one.
                && challenge.status == ChallengeStatus::Pending
            {
                challenge.set_ready().await?;
            }
        }
        match order.poll_ready(&POLLS).await {
            Ok(OrderStatus::Invalid) | Err(Error::Api(_)) => Err(self.refusal(order).await),
            Ok(_) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Gets the answers to proxies. The CA may come to any of them, so it is not told before all have
    /// them; but one that is away or stuck does not keep the others waiting for ever.
    async fn spread(&self, answers: Materials) -> Result<(), Failure> {
        let certificate = self.certificate.clone();
        let what = News::Answers(answers);
        self.handle.send(Event::Ordered { certificate, what }).await?;
        let version = loop {
            match self.handle.look(|controller| controller.version()).await? {
                Some(version) => break version,
                None => tokio::time::sleep(LOOK_INTERVAL).await,
            }
        };
        let deadline = clock::now() + SPREAD_WITHIN;
        loop {
            let spread = self.handle.look(move |controller| controller.spread(version)).await?;
            let is_late = deadline <= clock::now();
            if spread.connected > 0 && (spread.behind.is_empty() || is_late) {
                if !spread.behind.is_empty() {
                    let (certificate, proxies) = (&self.certificate, spread.behind.join(", "));
                    tracing::warn!(%certificate, proxies, "they could not answer the CA yet");
                }
                return Ok(());
            }
            if is_late {
                return Err(Failure::new("no proxy is connected that could answer the CA"));
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }

    /// Why the CA is not convinced.
    async fn refusal(&self, order: &mut AtCa) -> Failure {
        let kind = self.challenge.as_str();
        let mut reasons = Vec::new();
        let mut authorizations = order.authorizations();
        while let Some(Ok(mut authorization)) = authorizations.next().await {
            if authorization.refresh().await.is_err() {
                continue;
            }
            let domain = authorization.identifier().to_string();
            for error in authorization.challenges.iter().filter_map(|c| c.error.as_ref()) {
                reasons.push(format!("{domain}, by {kind}: {}", told(error)));
            }
        }
        if reasons.is_empty() {
            let of_order = order.state().error.as_ref().map(told);
            reasons.push(of_order.unwrap_or_else(|| format!("the CA refuses it, by {kind}")));
        }
        Failure::new(reasons.join("; "))
    }

    fn request(&self, key: &KeyPair) -> Result<Vec<u8>, Failure> {
        let mut params = CertificateParams::new(self.acme.domains.clone())?;
        params.distinguished_name = DistinguishedName::new();
        Ok(params.serialize_request(key)?.der().to_vec())
    }

    /// Whether what came is what was asked for.
    fn judge(&self, key: &KeyPair, chain: &str) -> Result<Issued, Failure> {
        let pem = Secret::new((key.serialize_pem() + chain).into());
        let certificate = Certificate::read(pem.reveal(), pem.reveal())
            .map_err(|error| Failure::new(format!("what the CA has issued {error}")))?;
        let facts = certificate.facts;
        if let Some(domain) = self.acme.domains.iter().find(|name| !facts.names.contains(name)) {
            return Err(Failure::new(format!("what the CA has issued is not for {domain}")));
        }
        match schedule::is_valid(&facts, clock::wall()) {
            true => Ok(Issued { pem, facts }),
            false => Err(Failure::new(format!(
                "what the CA has issued is valid from {} to {}, and the controller's clock says {}: \
                 one of them is wrong",
                timestamp(facts.not_before),
                timestamp(facts.not_after),
                timestamp(clock::wall()),
            ))),
        }
    }
}
