//! Google Compute Engine, through its metadata server.
//!
//! Source: <https://cloud.google.com/compute/docs/metadata/predefined-metadata-keys>,
//! <https://cloud.google.com/compute/docs/metadata/querying-metadata#waitforchange>,
//! <https://cloud.google.com/compute/docs/instances/verifying-instance-identity>.

use super::metadata_http::{Answer, Failure, MetadataHttp, MetadataService, Question};
use super::{Claim, Found, Notice, Provider, ProviderError, Recognition, known, note_trouble, recognise_id};
use crate::run_state::Identity;
use async_trait::async_trait;
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

/// How long the server may hold a request that waits for a change, in seconds.
const HOLD: u64 = 60;

/// Between two tries, where one failed: from the first to the last of these, doubling.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// GCE.
pub struct Google {
    metadata: MetadataHttp,
    watch: Watch,
    trouble: bool,
}

/// How far the watch for preemption has come. The first look waits for nothing; each later one begins where the
/// one before ended, by its etag, so nothing happens in between.
enum Watch {
    NotBegun,
    Since(String),
    Announced,
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
    pub fn new(service: &MetadataService) -> Result<Self, ProviderError> {
        let seal = (HeaderName::from_static("metadata-flavor"), "Google");
        let metadata = MetadataHttp::new(service, HOST, FOLDER, Some(seal))?;
        Ok(Self { metadata, watch: Watch::NotBegun, trouble: false })
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

    /// One look: a notice, or what the next look goes on from.
    async fn look(&self, since: Option<&str>) -> Result<Result<Notice, String>, Failure> {
        let ask = match since {
            None => question(PREEMPTED),
            Some(etag) => {
                let etag = utf8_percent_encode(etag, NON_ALPHANUMERIC);
                question(&format!("{PREEMPTED}?wait_for_change=true&last_etag={etag}&timeout_sec={HOLD}"))
                    .within(Duration::from_secs(HOLD + 10))
            }
        };
        let answer = self.metadata.ask(&ask).await?;
        if let Some(notice) = preemption(&answer) {
            return Ok(Ok(notice));
        }
        let etag = answer.headers.get("etag").and_then(|etag| etag.to_str().ok());
        etag.map(|etag| Err(etag.to_owned())).ok_or(Failure::Strange("the answer has no etag to wait from"))
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
        if let Some(notice) = preempted.as_ref().and_then(preemption) {
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

    async fn next_notice(&mut self) -> Notice {
        let mut pause = FIRST_PAUSE;
        loop {
            let since = match &self.watch {
                Watch::NotBegun => None,
                Watch::Since(etag) => Some(etag.as_str()),
                // A preemption is final.
                Watch::Announced => std::future::pending().await,
            };
            let found = self.look(since).await;
            note_trouble(&mut self.trouble, found.as_ref().err());
            match found {
                Ok(Ok(notice)) => {
                    self.watch = Watch::Announced;
                    return notice;
                }
                Ok(Err(etag)) => {
                    // A server that answers at once although nothing changed must not be asked in a tight loop.
                    let unchanged = matches!(&self.watch, Watch::Since(before) if *before == etag);
                    self.watch = Watch::Since(etag);
                    if unchanged {
                        tokio::time::sleep(FIRST_PAUSE).await;
                    }
                    pause = FIRST_PAUSE;
                }
                Err(_) => {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }
}

fn question(path: &str) -> Question {
    Question::get(path).header("metadata-flavor", "Google")
}

fn preemption(answer: &Answer) -> Option<Notice> {
    let source = "Google is preempting this instance, in 30 s at most".to_owned();
    (answer.text.trim() == "TRUE").then_some(Notice { source, deadline: None })
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
