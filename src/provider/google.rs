//! Google Compute Engine, through its metadata server.
//!
//! Source: <https://cloud.google.com/compute/docs/metadata/predefined-metadata-keys>,
//! <https://cloud.google.com/compute/docs/metadata/querying-metadata#waitforchange>,
//! <https://cloud.google.com/compute/docs/instances/verifying-instance-identity>,
//! <https://cloud.google.com/compute/docs/instances/preemptible#preemption-process>,
//! <https://cloud.google.com/compute/docs/metadata/getting-live-migration-notice>.

use super::metadata_http::{Failure, MetadataHttp, MetadataService, Question};
use super::{
    Announced, Claim, Found, Notice, NoticeKind, Pace, Provider, ProviderError, Recognition, Trouble, Watch, Word,
    known, recognise_id,
};
use crate::run_state::Identity;
use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::header::HeaderName;
use serde::Deserialize;
use std::time::Duration;
use taskcluster_api::{RootUrl, WorkerProof};

const HOST: &str = "metadata.google.internal";
const FOLDER: &str = "/computeMetadata/v1";

const ID: &str = "/instance/id";
const TASKCLUSTER: &str = "/instance/attributes/taskcluster";
const PROJECT: &str = "/project/project-id";
const IMAGE: &str = "/instance/image";
const MACHINE_TYPE: &str = "/instance/machine-type";
const ZONE: &str = "/instance/zone";
const HOSTNAME: &str = "/instance/hostname";
const LOCAL_IP: &str = "/instance/network-interfaces/0/ip";
const EXTERNAL_IP: &str = "/instance/network-interfaces/0/access-configs/0/external-ip";
const PREEMPTED: &str = "/instance/preempted";
const MAINTENANCE: &str = "/instance/maintenance-event";

/// A preempted instance has 30 s; some of them are gone when we hear of it.
const PREEMPTION: SignedDuration = SignedDuration::from_secs(25);

/// Maintenance is announced 60 s ahead.
const MAINTENANCE_AHEAD: SignedDuration = SignedDuration::from_secs(60);

/// How long the server may hold a request that waits for a change, in seconds.
const HOLD: u64 = 60;

/// Between two tries, where one failed, it is waited so many times longer than usual at most, doubling.
const LONGEST_PAUSE: u32 = 10;

/// GCE.
pub struct Google {
    metadata: MetadataHttp,
    pace: Pace,
}

/// The look-out at one value, by requests that hang until it changes. The first look waits for nothing; each later
/// one begins where the one before ended, by its etag, so nothing happens in between.
struct ValueWatch {
    metadata: MetadataHttp,
    pace: Pace,
    path: &'static str,
    /// What the value means; the time is that of the look.
    read: fn(&str, Timestamp) -> Option<Notice>,
    since: Option<String>,
    value: Option<String>,
    announced: Announced,
    current: Vec<Notice>,
    trouble: Trouble,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Attributes {
    worker_pool_id: String,
    provider_id: String,
    worker_group: String,
    root_url: String,
}

impl Google {
    pub fn new(service: &MetadataService, pace: Pace) -> Result<Self, ProviderError> {
        let seal = (HeaderName::from_static("metadata-flavor"), "Google");
        let metadata = MetadataHttp::new(service, HOST, FOLDER, Some(seal))?;
        Ok(Self { metadata, pace })
    }

    fn watch(&self, path: &'static str, read: fn(&str, Timestamp) -> Option<Notice>) -> Box<dyn Watch> {
        Box::new(ValueWatch {
            metadata: self.metadata.clone(),
            pace: self.pace,
            path,
            read,
            since: None,
            value: None,
            announced: Announced::default(),
            current: Vec::new(),
            trouble: Trouble::default(),
        })
    }

    async fn identity_token(&self, root_url: &RootUrl) -> Result<WorkerProof, ProviderError> {
        let audience = utf8_percent_encode(root_url.as_str(), NON_ALPHANUMERIC);
        let path = format!("/instance/service-accounts/default/identity?audience={audience}&format=full");
        let token = self.metadata.required(question(&path)).await?.text;
        Ok(WorkerProof::Google { token: token.into() })
    }

    async fn attributes(&self) -> Result<(Attributes, RootUrl), ProviderError> {
        let answer = self.metadata.required(question(TASKCLUSTER)).await?;
        let attributes: Attributes = self.metadata.json(TASKCLUSTER, &answer)?;
        let root_url = self.metadata.parse(TASKCLUSTER, "rootUrl", &attributes.root_url)?;
        Ok((attributes, root_url))
    }
}

impl ValueWatch {
    /// One look. Whether the value may have changed since the one before.
    async fn look(&mut self) -> Result<bool, Failure> {
        let path = self.path;
        let ask = match &self.since {
            None => question(path),
            Some(etag) => {
                let etag = utf8_percent_encode(etag, NON_ALPHANUMERIC);
                question(&format!("{path}?wait_for_change=true&last_etag={etag}&timeout_sec={HOLD}"))
                    .within(Duration::from_secs(HOLD + 10))
            }
        };
        let answer = self.metadata.ask(&ask).await?;
        let etag = answer.headers.get("etag").and_then(|etag| etag.to_str().ok()).map(str::to_owned);
        // The value decides, not the etag: the deadline of what was known before stays as it was.
        let changed = self.value.as_deref() != Some(answer.text.trim());
        if changed {
            self.current = (self.read)(answer.text.trim(), Timestamp::now()).into_iter().collect();
            self.value = Some(answer.text.trim().to_owned());
        }
        self.since = etag;
        if self.since.is_none() { Err(Failure::Strange("the answer has no etag to wait from")) } else { Ok(changed) }
    }
}

#[async_trait]
impl Watch for ValueWatch {
    async fn next(&mut self) -> Word {
        let mut pause = self.pace.quick;
        loop {
            if let Some(word) = self.announced.news(&self.current) {
                return word;
            }
            let looked = self.look().await;
            self.trouble.note(self.path, looked.as_ref().err());
            match looked {
                Ok(true) => pause = self.pace.quick,
                // A server that answers at once although nothing changed must not be asked in a tight loop.
                Ok(false) => {
                    pause = self.pace.quick;
                    tokio::time::sleep(pause).await;
                }
                Err(_) => {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(self.pace.quick * LONGEST_PAUSE);
                }
            }
        }
    }
}

#[async_trait]
impl Provider for Google {
    async fn identify(&self) -> Result<Found, ProviderError> {
        let required = |path| async move { Ok(self.metadata.required(question(path)).await?) };
        let optional = |path| async move { Ok(self.metadata.optional(question(path)).await) };
        // Only the identity token waits for anything: it needs the root URL.
        let ((user, root_url), id, project, image, machine_type, zone, hostname, local_ip, external_ip, preempted) = tokio::try_join!(
            self.attributes(),
            required(ID),
            required(PROJECT),
            required(IMAGE),
            required(MACHINE_TYPE),
            required(ZONE),
            required(HOSTNAME),
            required(LOCAL_IP),
            optional(EXTERNAL_IP),
            optional(PREEMPTED),
        )?;
        if let Some(notice) = preempted.as_ref().and_then(|answer| preemption(answer.text.trim(), Timestamp::now())) {
            return Err(ProviderError::Reclaimed(notice));
        }
        let proof = self.identity_token(&root_url).await?;
        let (zone, region) = zone_and_region(&zone.text);
        let facts = [
            ("instance-id", Some(id.text.clone())),
            ("project-id", Some(project.text)),
            ("image", Some(image.text)),
            ("instance-type", Some(machine_type.text)),
            ("zone", Some(zone.clone())),
            ("region", Some(region.clone())),
            ("public-hostname", Some(hostname.text)),
            ("public-ipv4", external_ip.map(|answer| answer.text)),
            ("local-ipv4", Some(local_ip.text)),
        ];
        let location = [("cloud", "google".to_owned()), ("region", region), ("zone", zone)];
        let metadata = &self.metadata;
        let identity = Identity {
            root_url,
            provider_id: metadata.parse(TASKCLUSTER, "providerId", &user.provider_id)?,
            worker_pool_id: metadata.parse(TASKCLUSTER, "workerPoolId", &user.worker_pool_id)?,
            worker_group: metadata.parse(TASKCLUSTER, "workerGroup", &user.worker_group)?,
            worker_id: metadata.parse(ID, "the whole answer", &id.text)?,
            metadata: known(facts),
            location: location.map(|(key, value)| (key.to_owned(), value)).into(),
        };
        Ok(Found { identity, claim: Claim::Proof(proof) })
    }

    async fn prove(&self) -> Result<WorkerProof, ProviderError> {
        let (_, root_url) = self.attributes().await?;
        self.identity_token(&root_url).await
    }

    async fn recognise(&self, cached: &Identity) -> Recognition {
        let id = self.metadata.required(question(ID)).await.map(|answer| answer.text).map_err(ProviderError::from);
        recognise_id(cached.worker_id.as_str(), id.as_deref())
    }

    fn watches(&self) -> Vec<Box<dyn Watch>> {
        vec![self.watch(PREEMPTED, preemption), self.watch(MAINTENANCE, maintenance)]
    }

    /// There is nothing to acknowledge here.
    async fn acknowledge(&self, _event: &str) {}

    /// That API is not asked here.
    async fn terminate(&self, _identity: &Identity) -> bool {
        false
    }
}

fn question(path: &str) -> Question {
    Question::get(path).header("metadata-flavor", "Google")
}

fn preemption(value: &str, now: Timestamp) -> Option<Notice> {
    (value == "TRUE").then(|| Notice {
        id: "preempted".to_owned(),
        kind: NoticeKind::Reclaim,
        deadline: now.checked_add(PREEMPTION).ok(),
        finish_tasks: false,
        source: "Google is preempting this instance".to_owned(),
        acknowledge: None,
    })
}

fn maintenance(value: &str, now: Timestamp) -> Option<Notice> {
    let notice = |kind, source: &str| {
        Some(Notice {
            id: "maintenance".to_owned(),
            kind,
            deadline: now.checked_add(MAINTENANCE_AHEAD).ok(),
            finish_tasks: false,
            source: source.to_owned(),
            acknowledge: None,
        })
    };
    match value {
        "TERMINATE_ON_HOST_MAINTENANCE" => {
            notice(NoticeKind::Reclaim, "Google is about to stop this instance for maintenance of its host")
        }
        "MIGRATE_ON_HOST_MAINTENANCE" => {
            notice(NoticeKind::Freeze, "Google is about to move this instance to another host")
        }
        // `NONE`, and whatever is no word of this service.
        _ => None,
    }
}

/// `projects/123/zones/us-west1-a` is in the zone `us-west1-a`, and that in the region `us-west1`.
fn zone_and_region(text: &str) -> (String, String) {
    let zone = text.trim().rsplit('/').next().unwrap_or_default();
    let region = zone.rsplit_once('-').map_or(zone, |(region, _)| region);
    (zone.to_owned(), region.to_owned())
}

#[cfg(test)]
mod tests {
    use super::zone_and_region;

    #[test]
    fn the_zone_is_the_last_part_and_the_region_is_the_zone_without_its_letter() {
        for text in ["projects/1/zones/us-west1-a", "us-west1-a"] {
            assert_eq!(zone_and_region(text), ("us-west1-a".into(), "us-west1".into()));
        }
    }
}
