//! Microsoft Azure, through its instance metadata service.
//!
//! Source: <https://learn.microsoft.com/azure/virtual-machines/instance-metadata-service>,
//! <https://learn.microsoft.com/azure/virtual-machines/linux/scheduled-events>.

use super::metadata_http::{Failure, MetadataHttp, MetadataService, Question};
use super::{Claim, Found, Notice, Provider, ProviderError, Recognition, known, note_trouble, recognise_id};
use crate::run_state::Identity;
use async_trait::async_trait;
use jiff::fmt::rfc2822;
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use serde_json::Value;
use std::time::Duration;
use taskcluster_api::WorkerProof;

const HOST: &str = "169.254.169.254";

const INSTANCE: &str = "/metadata/instance?api-version=2025-04-07";
const ATTESTED: &str = "/metadata/attested/document?api-version=2025-04-07";
const EVENTS: &str = "/metadata/scheduledevents?api-version=2020-07-01";

/// Between two looks for a notice.
const POLL: Duration = Duration::from_secs(1);

/// The first look for scheduled events makes Azure set the service up, which takes up to two minutes.
const EVENTS_TIMEOUT: Duration = Duration::from_secs(150);

/// An event that is farther away than this is not acted on yet: it may be withdrawn, and may be days ahead. The
/// longest warning that a deletion gets is a quarter of an hour.
const HORIZON: SignedDuration = SignedDuration::from_mins(15);

/// Azure.
pub struct Azure {
    metadata: MetadataHttp,
    /// Our name, as the events have it; asked once.
    name: Option<String>,
    announced: Vec<String>,
    trouble: bool,
}

#[derive(Deserialize)]
struct Instance {
    compute: Compute,
    #[serde(default)]
    network: Option<Network>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Compute {
    location: String,
    name: String,
    #[serde(default)]
    vm_id: Option<String>,
    #[serde(default)]
    vm_size: Option<String>,
    #[serde(default)]
    tags_list: Vec<Tag>,
}

#[derive(Deserialize)]
struct Tag {
    name: String,
    value: String,
}

#[derive(Deserialize)]
struct Network {
    #[serde(default)]
    interface: Vec<Interface>,
}

#[derive(Deserialize)]
struct Interface {
    ipv4: Ipv4,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Ipv4 {
    #[serde(default)]
    ip_address: Vec<Address>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Address {
    #[serde(default)]
    private_ip_address: String,
    #[serde(default)]
    public_ip_address: String,
}

#[derive(Deserialize)]
struct Attested {
    encoding: String,
    signature: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Events {
    #[serde(default)]
    events: Vec<Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ScheduledEvent {
    event_id: String,
    event_type: String,
    #[serde(default)]
    resources: Option<Vec<String>>,
    #[serde(default)]
    not_before: Option<String>,
}

impl Azure {
    pub fn new(service: &MetadataService) -> Result<Self, ProviderError> {
        let metadata = MetadataHttp::new(service, HOST, "", None)?;
        Ok(Self { metadata, name: None, announced: Vec::new(), trouble: false })
    }

    async fn instance(&self) -> Result<Instance, ProviderError> {
        let answer = self.metadata.required(question(INSTANCE)).await?;
        self.metadata.json(INSTANCE, &answer)
    }

    async fn look(&mut self) -> Result<Option<(String, Notice)>, Failure> {
        let name = if let Some(name) = &self.name {
            name.clone()
        } else {
            let answer = self.metadata.ask(&question(INSTANCE)).await?;
            let instance: Instance =
                self.metadata.json(INSTANCE, &answer).map_err(|_| Failure::Strange("the answer names no VM"))?;
            self.name.insert(instance.compute.name).clone()
        };
        let answer = self.metadata.ask(&question(EVENTS).within(EVENTS_TIMEOUT)).await?;
        let events: Events =
            self.metadata.json(EVENTS, &answer).map_err(|_| Failure::Strange("the answer is no list of events"))?;
        let known = |id: &String| self.announced.contains(id);
        // One event that makes no sense hides no other.
        let events = events.events.into_iter().filter_map(|event| serde_json::from_value(event).ok()).collect();
        // The service's clock, for ours may be off.
        let date = answer.headers.get("date").and_then(|date| not_before(date.to_str().ok()?));
        let now = date.unwrap_or_else(Timestamp::now);
        Ok(next_notice(events, &name, now).into_iter().find(|(id, _)| !known(id)))
    }
}

#[async_trait]
impl Provider for Azure {
    async fn identify(&self) -> Result<Found, ProviderError> {
        let (instance, proof) = tokio::try_join!(self.instance(), self.prove())?;
        Ok(Found { identity: self.identity(&instance)?, claim: Claim::Proof(proof) })
    }

    async fn prove(&self) -> Result<WorkerProof, ProviderError> {
        let answer = self.metadata.required(question(ATTESTED)).await?;
        let attested: Attested = self.metadata.json(ATTESTED, &answer)?;
        if attested.encoding != "pkcs7" {
            return Err(self.field(ATTESTED, "encoding", "expected `pkcs7`"));
        }
        Ok(WorkerProof::Azure { document: attested.signature.into() })
    }

    async fn recognise(&self, cached: &Identity) -> Recognition {
        let instance = self.instance().await;
        // A name is given again, an id never.
        if let (Ok(Instance { compute: Compute { vm_id: Some(ours), .. }, .. }), Some(theirs)) =
            (&instance, cached.metadata_text("vm-id"))
            && ours != theirs
        {
            return Recognition::Other(format!("the VM with the id {ours}"));
        }
        recognise_id(cached.worker_id.as_str(), instance.as_ref().map(|instance| instance.compute.name.as_str()))
    }

    async fn next_notice(&mut self) -> Notice {
        loop {
            let found = self.look().await;
            note_trouble(&mut self.trouble, found.as_ref().err());
            if let Ok(Some((id, notice))) = found {
                self.announced.push(id);
                return notice;
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

impl Azure {
    fn identity(&self, instance: &Instance) -> Result<Identity, ProviderError> {
        let Instance { compute, network } = instance;
        let tag = |name: &'static str| {
            let found = compute.tags_list.iter().find(|tag| tag.name == name);
            found.map(|tag| tag.value.as_str()).ok_or_else(|| self.field(INSTANCE, name, "there is no such tag"))
        };
        let address = network.as_ref().and_then(|network| network.interface.first()?.ipv4.ip_address.first());
        let given = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
        let facts = [
            ("vm-id", compute.vm_id.clone()),
            ("instance-type", compute.vm_size.clone()),
            ("region", Some(compute.location.clone())),
            ("local-ipv4", address.and_then(|address| given(&address.private_ip_address))),
            ("public-ipv4", address.and_then(|address| given(&address.public_ip_address))),
        ];
        let location = [("cloud", "azure".to_owned()), ("region", compute.location.clone())];
        let metadata = &self.metadata;
        Ok(Identity {
            root_url: metadata.parse(INSTANCE, "root-url", tag("root-url")?)?,
            provider_id: metadata.parse(INSTANCE, "provider-id", tag("provider-id")?)?,
            worker_pool_id: metadata.parse(INSTANCE, "worker-pool-id", tag("worker-pool-id")?)?,
            worker_group: metadata.parse(INSTANCE, "worker-group", tag("worker-group")?)?,
            worker_id: metadata.parse(INSTANCE, "compute.name", &compute.name)?,
            metadata: known(facts),
            location: location.map(|(key, value)| (key.to_owned(), value)).into(),
        })
    }

    fn field(&self, path: &str, field: &'static str, problem: &str) -> ProviderError {
        ProviderError::Field { url: self.metadata.url(path), field, problem: problem.to_owned() }
    }
}

fn question(path: &str) -> Question {
    Question::get(path).header("metadata", "true")
}

/// The notices that these events are for the VM of this name, by event id. Events reach every VM of a set, a
/// freeze is over before anything could be done about it, and what is far ahead may yet be withdrawn.
fn next_notice(events: Vec<ScheduledEvent>, name: &str, now: Timestamp) -> Vec<(String, Notice)> {
    let concerns_us = |event: &ScheduledEvent| {
        event.event_type != "Freeze"
            && event.resources.iter().flatten().any(|resource| resource.eq_ignore_ascii_case(name))
    };
    let due = |event: ScheduledEvent| {
        // Blank once it has started.
        let deadline = event.not_before.as_deref().and_then(not_before);
        if deadline.is_some_and(|deadline| deadline.duration_since(now) > HORIZON) {
            return None;
        }
        let kind: String = event.event_type.chars().filter(char::is_ascii_alphanumeric).take(20).collect();
        let source = format!("Azure has scheduled a {kind} of this VM");
        Some((event.event_id, Notice { source, deadline }))
    };
    events.into_iter().filter(concerns_us).filter_map(due).collect()
}

/// `Mon, 19 Sep 2016 18:29:47 GMT`, as the service writes it, or RFC 3339.
fn not_before(text: &str) -> Option<Timestamp> {
    rfc2822::DateTimeParser::new().relaxed_weekday(true).parse_timestamp(text).ok().or_else(|| text.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(list: &[(&str, &str, &str)]) -> Vec<ScheduledEvent> {
        list.iter()
            .map(|(kind, resource, not_before)| ScheduledEvent {
                event_id: format!("{kind}-{resource}"),
                event_type: (*kind).to_owned(),
                resources: Some(vec!["another".into(), (*resource).to_owned()]),
                not_before: Some((*not_before).to_owned()),
            })
            .collect()
    }

    #[test]
    fn only_near_events_of_our_own_vm_are_notices() {
        let now: Timestamp = "2026-11-20T08:00:00Z".parse().unwrap();
        let list = events(&[
            ("Freeze", "us", ""),
            ("Preempt", "them", ""),
            ("Reboot", "us", "Mon, 23 Nov 2026 08:00:00 GMT"),
            ("Terminate", "US", "Fri, 20 Nov 2026 08:05:00 GMT"),
            ("Redeploy", "us", ""),
        ]);
        let notices = next_notice(list, "us", now);
        let ids: Vec<_> = notices.iter().map(|(id, _)| id.as_str()).collect();
        assert_eq!(ids, ["Terminate-US", "Redeploy-us"]);
        assert_eq!(notices[0].1.deadline, Some("2026-11-20T08:05:00Z".parse().unwrap()));
        assert_eq!(notices[1].1.deadline, None);
    }
}
