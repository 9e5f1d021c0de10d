//! The secrets service.

use super::{Refusal, Reply, Routed, Taskcluster, absent, answer, invalid};
use serde_json::json;
use taskcluster_api::Secret;
use taskcluster_api::secrets::SecretList;

impl Taskcluster {
    pub(super) fn set(&mut self, routed: &Routed<'_>) -> Result<Reply, Refusal> {
        let secret: Secret = routed.payload()?;
        if let Some(unknown) = secret.other.keys().next() {
            return Err(invalid(format!("{unknown} is not allowed")));
        }
        self.secrets.insert(routed.argument("name")?, secret);
        answer(json!({}))
    }

    pub(super) fn get(&self, routed: &Routed<'_>) -> Result<Reply, Refusal> {
        let secret = self.secrets.get(&routed.argument::<String>("name")?);
        let secret = secret.ok_or_else(|| absent("Secret not found"))?;
        if secret.expires <= self.timestamp() {
            return Err((410, "ResourceExpired", "The requested resource has expired.".to_owned()));
        }
        answer(secret)
    }

    pub(super) fn remove(&mut self, routed: &Routed<'_>) -> Result<Reply, Refusal> {
        self.secrets.remove(&routed.argument::<String>("name")?);
        answer(json!({}))
    }

    pub(super) fn list(&self, routed: &Routed<'_>) -> Result<Reply, Refusal> {
        let (secrets, continuation_token) = routed.page(self.secrets.keys().cloned())?;
        answer(SecretList { secrets, continuation_token })
    }
}
