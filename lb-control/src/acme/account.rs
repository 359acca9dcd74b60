//! Accounts at CAs. Certificates with the same directory, email and key id have one account together;
//! what it is known by is kept in the store and never told.

use std::{collections::BTreeMap, sync::Arc};

use instant_acme::{Account, AccountCredentials, Error, ExternalAccountKey, NewAccount};
use lb_common::{
    material::{MaterialId, Materials},
    secret::Secret,
    spec::Acme,
};
use lb_proto::pem;
use tokio::sync::Mutex;

use super::{
    client::Client,
    failure::Failure,
    material::{keep, look},
};
use crate::owner::Handle;

/// How accounts are had. Mutexes, because two orders that need the same one must not make two; one for
/// each, because a CA that does not answer is no concern of another one's orders.
#[derive(Clone, Default)]
pub struct Accounts(Arc<Mutex<BTreeMap<MaterialId, Arc<Mutex<()>>>>>);

impl Accounts {
    /// The account that is kept, or a new one. `gone` is one that its CA does not know any more.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn get(
        &self,
        handle: &Handle,
        acme: &Acme,
        client: &Client,
        gone: Option<&str>,
    ) -> Result<Account, Failure> {
        let id = acme.account();
        let turn = Arc::clone(self.0.lock().await.entry(id.clone()).or_default());
        let _one_at_a_time = turn.lock().await;
        let kept = look(handle, [id.clone()]).await?;
        let kept = kept
            .get(&id)
            .and_then(|kept| serde_json::from_slice::<AccountCredentials>(kept.reveal()).ok());
        let builder = || Account::builder_with_http(Box::new(client.clone()));
        if let Some(kept) = kept {
            let account = builder().from_credentials(kept).await?;
            if gone != Some(account.id()) {
                return Ok(account);
            }
        }
        let contact = format!("mailto:{}", acme.email);
        let wanted = NewAccount {
            contact: if acme.email.is_empty() { &[] } else { &[&*contact] },
            terms_of_service_agreed: true,
            only_return_existing: false,
        };
        let eab = self.external(handle, acme).await?;
        let (account, credentials) =
            builder().create(&wanted, acme.directory.clone(), eab.as_ref()).await?;
        tracing::info!(directory = acme.directory, account = account.id(), "account made at a CA");
        let credentials = serde_json::to_vec(&credentials).map_err(Error::from)?;
        keep(handle, Materials::unit(id, Secret::new(credentials))).await?;
        Ok(account)
    }

    async fn external(
        &self,
        handle: &Handle,
        acme: &Acme,
    ) -> Result<Option<ExternalAccountKey>, Failure> {
        let Some(eab) = &acme.eab else { return Ok(None) };
        let id = eab.key.material();
        let found = look(handle, [id.clone()]).await?;
        let key = found.get(&id).ok_or_else(|| Failure::new("eab.key: is not there"))?;
        let bytes =
            pem::eab_bytes(key.reveal()).map_err(|why| Failure::new(format!("eab.key: {why}")))?;
        Ok(Some(ExternalAccountKey::new(eab.kid.clone(), &bytes)))
    }
}
