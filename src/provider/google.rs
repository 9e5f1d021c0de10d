//! Google Compute Engine, through its metadata server.
//!
//! Source: <https://cloud.google.com/compute/docs/metadata/predefined-metadata-keys>,
//! <https://cloud.google.com/compute/docs/metadata/querying-metadata#aggcontents>,
//! <https://cloud.google.com/compute/docs/metadata/querying-metadata#waitforchange>,
//! <https://cloud.google.com/compute/docs/instances/verifying-instance-identity>,
//! <https://cloud.google.com/compute/docs/instances/preemptible#preemption-process>,
//! <https://cloud.google.com/compute/docs/metadata/getting-live-migration-notice>.

use super::metadata_http::{Failure, MetadataHttp, MetadataService, Question};
use super::{
    Announced, Claim, Found, HearRootUrl, Notice, NoticeKind, Pace, Provider, ProviderError, Recognition, Trouble,
    Watch, Word, known, recognise_id,
};
use crate::run_state::Identity;
use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::header::HeaderName;
use serde::Deserialize;
use serde_json::Value;
use std::time::Duration;
use taskcluster_api::{RootUrl, WorkerProof};

const HOST: &str = "metadata.google.internal";
const FOLDER: &str = "/computeMetadata/v1";

/// The folder that most is in, as one answer.
const INSTANCE: &str = "/instance/?recursive=true";

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

/// And an hour ahead to machines with GPUs; some of it is left for them to end.
///
/// Source: <https://cloud.google.com/compute/docs/gpus/gpu-host-maintenance>.
const GPU_MAINTENANCE_AHEAD: SignedDuration = SignedDuration::from_secs(55 * 60);

/// The machine types that have GPUs. Those of others, which have them attached, are not told apart here.
///
/// Source: <https://cloud.google.com/compute/docs/gpus>.
const GPU_TYPES: [&str; 6] = ["a2-", "a3-", "a4-", "a4x-", "g2-", "g4-"];

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

    fn attributes(&self, text: &str) -> Result<(Attributes, RootUrl), ProviderError> {
        let attributes: Attributes = self.metadata.json(TASKCLUSTER, text)?;
        let root_url = self.metadata.parse(TASKCLUSTER, "rootUrl", &attributes.root_url)?;
        Ok((attributes, root_url))
    }

    /// The folder in one answer. Where it can't be had, what is in it is asked for by itself, and that is tried again.
    async fn instance(&self) -> Instance<'_> {
        let folder = match self.metadata.ask(&question(INSTANCE)).await {
            Ok(answer) => taskcluster_api::from_json(answer.text.as_bytes()).map_err(|error| error.to_string()),
            Err(failure) => Err(failure.to_string()),
        };
        if let Err(problem) = &folder {
            tracing::warn!("{}: {problem}; asking for its values one by one", self.metadata.url(INSTANCE));
        }
        Instance { metadata: &self.metadata, folder: folder.ok() }
    }
}

/// What an instance says of itself.
struct Instance<'a> {
    metadata: &'a MetadataHttp,
    folder: Option<Value>,
}

impl Instance<'_> {
    fn value(&self, path: &str) -> Option<String> {
        value_in(self.folder.as_ref()?, path)
    }

    /// What must be there.
    async fn required(&self, path: &str) -> Result<String, ProviderError> {
        match self.value(path) {
            Some(text) => Ok(text),
            // It may be there in a moment, and otherwise the error names it.
            None => Ok(self.metadata.required(question(path)).await?.text),
        }
    }

    /// What every instance has, and what we go on without.
    async fn wanted(&self, path: &str) -> Option<String> {
        match self.value(path) {
            Some(text) => Some(text),
            None => Some(self.metadata.optional(question(path)).await?.text),
        }
    }

    /// What an instance need not have: it is not asked for where the folder is without it.
    async fn optional(&self, path: &str) -> Option<String> {
        if self.folder.is_some() { self.value(path) } else { self.wanted(path).await }
    }
}

/// The value at a path of its own: in the folder's one answer the names of folders and values are in camel case.
fn value_in(folder: &Value, path: &str) -> Option<String> {
    let mut value = folder;
    for name in path.strip_prefix("/instance/")?.split('/') {
        value = match value {
            Value::Array(values) => values.get(name.parse::<usize>().ok()?)?,
            Value::Object(values) => values.get(&camel_case(name))?,
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => return None,
        };
    }
    match value {
        Value::String(text) => Some(text.clone()).filter(|text| !text.is_empty()),
        Value::Number(number) => Some(number.to_string()),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    }
}

fn camel_case(name: &str) -> String {
    let mut words = name.split('-');
    let mut text = words.next().unwrap_or_default().to_owned();
    for word in words {
        let (first, rest) = word.split_at_checked(1).unwrap_or_default();
        text = text + &first.to_ascii_uppercase() + rest;
    }
    text
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
            let now = Timestamp::now();
            let mut notice = (self.read)(answer.text.trim(), now);
            // What was announced before we first looked may be about to happen.
            if let Some(notice) = &mut notice
                && path == MAINTENANCE
                && notice.kind == NoticeKind::Reclaim
                && self.value.is_some()
                && self.has_gpus().await
            {
                notice.deadline = now.checked_add(GPU_MAINTENANCE_AHEAD).ok();
            }
            self.current = notice.into_iter().collect();
            self.value = Some(answer.text.trim().to_owned());
        }
        self.since = etag;
        if self.since.is_none() { Err(Failure::Strange("the answer has no etag to wait from")) } else { Ok(changed) }
    }

    /// Whether the machine is of a type with GPUs; where that can't be asked, it isn't.
    async fn has_gpus(&self) -> bool {
        let answer = self.metadata.ask(&question(MACHINE_TYPE)).await;
        answer.is_ok_and(|answer| {
            let machine_type = answer.text.trim().rsplit('/').next().unwrap_or_default().to_owned();
            GPU_TYPES.iter().any(|family| machine_type.starts_with(family))
        })
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
    async fn identify(&self, hear: &HearRootUrl<'_>) -> Result<Found, ProviderError> {
        let asked = async {
            let instance = self.instance().await;
            let attributes = async {
                let found = self.attributes(&instance.required(TASKCLUSTER).await?)?;
                hear(&found.1);
                Ok(found)
            };
            tokio::try_join!(
                attributes,
                instance.required(ID),
                instance.required(IMAGE),
                instance.required(MACHINE_TYPE),
                instance.required(ZONE),
                instance.required(HOSTNAME),
                instance.required(LOCAL_IP),
                async { Ok(instance.optional(EXTERNAL_IP).await) },
                async { Ok(instance.wanted(PREEMPTED).await) },
            )
        };
        let project = async { Ok(self.metadata.required(question(PROJECT)).await?.text) };
        let (asked, project) = tokio::try_join!(asked, project)?;
        let ((user, root_url), id, image, machine_type, zone, hostname, local_ip, external_ip, preempted) = asked;
        if let Some(notice) = preempted.and_then(|value| preemption(value.trim(), Timestamp::now())) {
            return Err(ProviderError::Reclaimed(notice));
        }
        // It needs the root URL.
        let proof = self.identity_token(&root_url).await?;
        let (zone, region) = zone_and_region(&zone);
        let facts = [
            ("instance-id", Some(id.clone())),
            ("project-id", Some(project)),
            ("image", Some(image)),
            ("instance-type", Some(machine_type)),
            ("zone", Some(zone.clone())),
            ("region", Some(region.clone())),
            ("public-hostname", Some(hostname)),
            ("public-ipv4", external_ip),
            ("local-ipv4", Some(local_ip)),
        ];
        let location = [("cloud", "google".to_owned()), ("region", region), ("zone", zone)];
        let metadata = &self.metadata;
        let identity = Identity {
            root_url,
            provider_id: metadata.parse(TASKCLUSTER, "providerId", &user.provider_id)?,
            worker_pool_id: metadata.parse(TASKCLUSTER, "workerPoolId", &user.worker_pool_id)?,
            worker_group: metadata.parse(TASKCLUSTER, "workerGroup", &user.worker_group)?,
            worker_id: metadata.parse(ID, "the whole answer", &id)?,
            metadata: known(facts),
            location: location.map(|(key, value)| (key.to_owned(), value)).into(),
        };
        Ok(Found { identity, claim: Claim::Proof(proof) })
    }

    async fn prove(&self) -> Result<WorkerProof, ProviderError> {
        let (_, root_url) = self.attributes(&self.metadata.required(question(TASKCLUSTER)).await?.text)?;
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
    use super::{EXTERNAL_IP, ID, MACHINE_TYPE, PREEMPTED, TASKCLUSTER, value_in, zone_and_region};
    use serde_json::json;

    #[test]
    fn a_value_in_the_folder_is_the_one_that_has_a_path_of_its_own() {
        let folder = json!({
            "attributes": {"taskcluster": "{}"}, "id": 9_876_543_210_987_654_321_u64, "machineType": "n1",
            "networkInterfaces": [{"ip": "10.0.0.1", "accessConfigs": [{"externalIp": ""}]}],
        });
        let values = [TASKCLUSTER, ID, MACHINE_TYPE, EXTERNAL_IP, PREEMPTED].map(|path| value_in(&folder, path));
        assert_eq!(
            values.each_ref().map(Option::as_deref),
            [Some("{}"), Some("9876543210987654321"), Some("n1"), None, None]
        );
        assert_eq!(value_in(&json!("no folder"), ID), None);
    }

    #[test]
    fn the_zone_is_the_last_part_and_the_region_is_the_zone_without_its_letter() {
        for text in ["projects/1/zones/us-west1-a", "us-west1-a"] {
            assert_eq!(zone_and_region(text), ("us-west1-a".into(), "us-west1".into()));
        }
    }
}
