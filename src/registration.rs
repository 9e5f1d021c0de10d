//! Registration: a proof becomes credentials, and later old credentials become new ones.

use crate::platform;
use crate::provider::{Claim, Found, Provider, ProviderError};
use crate::run_state::{Admitted, Lease};
use jiff::{SignedDuration, Timestamp};
use serde_json::Map;
use std::time::Duration;
use taskcluster_api::retry::Tries;
use taskcluster_api::{
    ApiError, Client, ProviderId, RegisterWorker, Registration, Renewal, Repeat, ReregisterWorker, RetryPolicy,
    SecretString, WorkerManager, WorkerName, WorkerProof,
};

/// For how long worker-manager is asked: a registration that is lost is a machine that is lost.
pub const PATIENCE: Duration = Duration::from_secs(15 * 60);

/// For how long a cloud machine shows fresh proofs to a service that refuses them: worker-manager may not have
/// written the worker's row yet, or may have failed to fetch a cloud's certificate.
const REFUSAL_PATIENCE: RetryPolicy = RetryPolicy {
    first: Duration::from_secs(1),
    longest: Duration::from_secs(10),
    total: Duration::from_secs(60),
    tries: usize::MAX,
    repeat: Repeat::Any,
};

/// The machine was not registered.
#[derive(Debug, thiserror::Error)]
pub enum RegistrationError {
    /// worker-manager doesn't take it.
    #[error("worker-manager did not register this machine")]
    Refused(#[source] ApiError),
    /// A fresh proof can't be had.
    #[error("a fresh proof of this machine's identity cannot be had")]
    Proof(#[source] ProviderError),
}

/// Turns a machine's claim into credentials.
///
/// # Errors
/// Where worker-manager refuses for good, or doesn't answer for a quarter of an hour.
pub async fn admit(
    client: &Client,
    provider: &dyn Provider,
    found: Found,
    is_cloud: bool,
) -> Result<Admitted, RegistrationError> {
    let identity = found.identity;
    match found.claim {
        Claim::Preissued(credentials) => Ok(Admitted { identity, credentials, lease: None, worker_config: Map::new() }),
        Claim::Proof(mut proof) => {
            let (worker, mut refusals) = (identity.worker(), None);
            loop {
                let error = match register(client, &worker, &identity.provider_id, &proof).await {
                    Ok(registration) => return Ok(admitted(identity, registration)),
                    Err(error) => error,
                };
                let may_pass = is_cloud && matches!(error.status(), Some(400 | 404)) && !error.is_already_registered();
                let refusals = refusals.get_or_insert_with(|| Tries::begin(REFUSAL_PATIENCE));
                let Some(pause) = refusals.next_pause(None).filter(|_| may_pass) else {
                    return Err(RegistrationError::Refused(error));
                };
                tracing::warn!(
                    "{error}: {}; trying again with a fresh proof in {:.1} s",
                    error.failure,
                    pause.as_secs_f32()
                );
                tokio::time::sleep(pause).await;
                proof = provider.prove().await.map_err(RegistrationError::Proof)?;
            }
        }
    }
}

async fn register(
    client: &Client,
    worker: &WorkerName,
    provider_id: &ProviderId,
    proof: &WorkerProof,
) -> Result<Registration, ApiError> {
    let mut request = RegisterWorker::new(worker, provider_id, proof);
    request.system_boot_time = platform::system_boot_time();
    // Sent again even where the answer was lost: a static machine may register again, and for any other it is the only
    // hope there is.
    let manager = WorkerManager::new(client.with_retry(RetryPolicy::persistent(PATIENCE)));
    match manager.register_worker(&request).await {
        // Deployments of before 2026 know no such member, and take none that they don't know.
        Err(error) if error.status() == Some(400) && error.code() == Some("InputValidationError") => {
            tracing::debug!("worker-manager does not take this request: asking without the time of the system's boot");
            request.system_boot_time = None;
            manager.register_worker(&request).await
        }
        result => result,
    }
}

fn admitted(identity: crate::run_state::Identity, registration: Registration) -> Admitted {
    let Registration { credentials, expires, secret, worker_config } = registration;
    Admitted { identity, credentials, lease: Some(Lease { expires, secret }), worker_config }
}

/// Credentials could not be renewed.
#[derive(Debug, thiserror::Error)]
pub enum RenewalError {
    /// Trying again changes nothing: the secret is dead.
    #[error("{0}: {cause}", cause = .0.failure)]
    Refused(ApiError),
    /// It may go better next time.
    #[error("{0}: {cause}", cause = .0.failure)]
    Failed(ApiError),
}

/// New credentials for old ones, in one try: whoever asks decides when to try again.
///
/// # Errors
/// What worker-manager says. A lost answer has killed the secret all the same.
pub async fn renew(client: &Client, worker: &WorkerName, secret: &SecretString) -> Result<Renewal, RenewalError> {
    let request = ReregisterWorker::new(worker, secret);
    let renewed = WorkerManager::new(client.with_retry(RetryPolicy::NONE)).reregister_worker(&request).await;
    renewed.map_err(|error| match error.status() {
        Some(400 | 403) => RenewalError::Refused(error),
        Some(_) | None => RenewalError::Failed(error),
    })
}

/// When credentials are renewed: this long before they end (half an hour usually) at the latest, and half of that sooner
/// at the soonest, as `luck` (a random number from 0 to 1) has it, for machines that booted together must not renew
/// together. But not within five minutes from now, and half a minute before they end at the latest, and some seconds
/// before the worker would be stopped because they weren't: where they last no longer, it is in the first half of what
/// that leaves.
pub fn renewal_time(
    now: Timestamp,
    expires: Timestamp,
    before: Duration,
    stop_before: Duration,
    luck: f64,
) -> Timestamp {
    let seconds = |seconds| SignedDuration::from_secs(seconds);
    let ahead = |by: SignedDuration| expires.saturating_sub(by).unwrap_or(expires);
    let before = SignedDuration::try_from(before).unwrap_or(seconds(30 * 60));
    let latest = last_renewal(expires, stop_before);
    let soonest = now.saturating_add(seconds(5 * 60)).unwrap_or(now).min(latest);
    let mut end = ahead(before).min(latest);
    if end <= soonest {
        end = soonest.saturating_add(latest.duration_since(soonest) / 2).unwrap_or(soonest);
    }
    let begin = end.saturating_sub(before / 2).unwrap_or(end).max(soonest);
    begin.saturating_add(end.duration_since(begin).mul_f64(luck)).unwrap_or(begin)
}

/// The last moment at which renewing is of use: half a minute before the credentials end, and some seconds before the worker
/// is stopped because they weren't renewed.
pub fn last_renewal(expires: Timestamp, stop_before: Duration) -> Timestamp {
    let stop_before = SignedDuration::try_from(stop_before).unwrap_or(SignedDuration::from_secs(25));
    let before = SignedDuration::from_secs(30).max(stop_before.saturating_add(SignedDuration::from_secs(5)));
    expires.saturating_sub(before).unwrap_or(expires)
}

#[cfg(test)]
mod tests {
    use super::renewal_time;
    use jiff::Timestamp;
    use proptest::prelude::*;
    use std::time::Duration;

    const HALF_AN_HOUR: Duration = Duration::from_secs(30 * 60);

    const STOP: Duration = Duration::from_secs(25);

    #[test]
    fn renewal_comes_before_the_worker_would_be_stopped() {
        let time = renewal_time(at(0), at(7200), HALF_AN_HOUR, Duration::from_secs(3600), 1.0);
        assert_eq!(time, at(3595));
        assert_eq!(renewal_time(at(0), at(7200), HALF_AN_HOUR, Duration::from_secs(3600), 0.0), at(2695));
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn renewal_is_early_but_not_at_once_and_never_too_late() {
        let table = [
            (96 * 3600, 96 * 3600 - 2700, 96 * 3600 - 1800),
            (1800, 300, 1035),
            (400, 300, 335),
            (320, 290, 290),
            (10, -20, -20),
        ];
        for (expires, soonest, latest) in table {
            for (luck, expected) in [(0.0, soonest), (0.5, i64::midpoint(soonest, latest)), (1.0, latest)] {
                let time = renewal_time(at(0), at(expires), HALF_AN_HOUR, STOP, luck);
                assert_eq!(time.as_second(), expected, "{expires} {luck}");
            }
        }
    }

    proptest! {
        #[test]
        fn renewal_is_always_half_a_minute_before_the_end(
            now in 0i64..4_000_000_000,
            life in 0i64..400_000_000,
            luck in 0.0..1.0,
        ) {
            let time = renewal_time(at(now), at(now + life), HALF_AN_HOUR, STOP, luck);
            prop_assert!(time <= at(now + life - 30));
            prop_assert!(time >= at(now + 300) || time == at(now + life - 30));
        }
    }
}
