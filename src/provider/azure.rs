//! Microsoft Azure, through its instance metadata service.
//!
//! Source: <https://learn.microsoft.com/azure/virtual-machines/instance-metadata-service>,
//! <https://learn.microsoft.com/azure/virtual-machines/linux/scheduled-events>.

use super::metadata_http::{Failure, MetadataHttp, MetadataService, Question};
use super::{
    Claim, Found, HearRootUrl, Look, Notice, NoticeKind, Pace, Poll, Provider, ProviderError, Recognition, Watch,
    cloud_time, known, plain_word, recognise_id,
};
use crate::run_state::Identity;
use async_trait::async_trait;
use serde::Deserialize;
use serde_json::{Value, json};
use std::time::Duration;
use taskcluster_api::WorkerProof;

const HOST: &str = "169.254.169.254";

const INSTANCE: &str = "/metadata/instance?api-version=2025-04-07";
const ATTESTED: &str = "/metadata/attested/document?api-version=2025-04-07";
const EVENTS: &str = "/metadata/scheduledevents?api-version=2020-07-01";

/// The first look for scheduled events makes Azure set the service up, which takes up to two minutes.
const EVENTS_TIMEOUT: Duration = Duration::from_secs(150);

/// How often Azure is told that an event may start: the service stumbles while it is updated, and the event comes anyway.
const ACKNOWLEDGEMENTS: usize = 5;

/// Azure.
pub struct Azure {
    metadata: MetadataHttp,
    pace: Pace,
}

/// Scheduled events.
struct EventsSource {
    metadata: MetadataHttp,
    /// Our name, as the events have it; asked once.
    name: Option<String>,
    /// Reboots that had begun when we first looked, as long as they are listed: this boot is what came of them, and they would
    /// bring about another one each time.
    done: Option<Vec<String>>,
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
    tags_list: Option<Vec<Tag>>,
}

#[derive(Deserialize)]
struct Tag {
    name: String,
    value: String,
}

#[derive(Deserialize)]
struct Network {
    #[serde(default)]
    interface: Option<Vec<Interface>>,
}

#[derive(Deserialize)]
struct Interface {
    #[serde(default)]
    ipv4: Option<Ipv4>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Ipv4 {
    #[serde(default)]
    ip_address: Option<Vec<Address>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Address {
    #[serde(default)]
    private_ip_address: Option<String>,
    #[serde(default)]
    public_ip_address: Option<String>,
}

#[derive(Deserialize)]
struct Attested {
    encoding: String,
    signature: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Events {
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
    #[serde(default)]
    event_status: Option<String>,
}

impl ScheduledEvent {
    /// Whether it is a reboot that has begun. Azure lists it for some minutes more, when it is over.
    fn is_reboot_begun(&self) -> bool {
        self.event_type == "Reboot" && self.event_status.as_deref() == Some("Started")
    }
}

impl Azure {
    pub fn new(service: &MetadataService, pace: Pace) -> Result<Self, ProviderError> {
        let metadata = MetadataHttp::new(service, HOST, "", None)?;
        Ok(Self { metadata, pace })
    }

    async fn instance(&self) -> Result<Instance, ProviderError> {
        let answer = self.metadata.required(question(INSTANCE)).await?;
        self.metadata.json(INSTANCE, &answer.text)
    }
}

#[async_trait]
impl Look for EventsSource {
    const WANTED: &'static str = "scheduled events";

    async fn look(&mut self) -> Result<Vec<Notice>, Failure> {
        let name = if let Some(name) = &self.name {
            name.clone()
        } else {
            let answer = self.metadata.ask(&question(INSTANCE)).await?;
            let instance: Instance =
                self.metadata.json(INSTANCE, &answer.text).map_err(|_| Failure::Strange("the answer names no VM"))?;
            self.name.insert(instance.compute.name).clone()
        };
        let answer = self.metadata.ask(&question(EVENTS).within(EVENTS_TIMEOUT)).await?;
        let events: Events = self
            .metadata
            .json(EVENTS, &answer.text)
            .map_err(|_| Failure::Strange("the answer is no list of events"))?;
        // One event that makes no sense hides no other.
        let events = events.events.into_iter().filter_map(|event| serde_json::from_value(event).ok());
        let mut events: Vec<ScheduledEvent> = events.collect();
        let is_first = self.done.is_none();
        let done = self.done.get_or_insert_default();
        if is_first {
            done.extend(events.iter().filter(|event| event.is_reboot_begun()).map(|event| event.event_id.clone()));
            if !done.is_empty() {
                tracing::info!(
                    "Azure still lists a Reboot of this VM that had begun before start-worker did: it is over"
                );
            }
        }
        done.retain(|id| events.iter().any(|event| event.event_id == *id));
        events.retain(|event| !done.contains(&event.event_id));
        Ok(events.into_iter().filter_map(|event| notice(event, &name)).collect())
    }
}

#[async_trait]
impl Provider for Azure {
    async fn identify(&self, hear: &HearRootUrl<'_>) -> Result<Found, ProviderError> {
        let identity = async {
            let identity = self.identity(&self.instance().await?)?;
            hear(&identity.root_url);
            Ok(identity)
        };
        let (identity, proof) = tokio::try_join!(identity, self.prove())?;
        Ok(Found { identity, claim: Claim::Proof(proof) })
    }

    async fn prove(&self) -> Result<WorkerProof, ProviderError> {
        let answer = self.metadata.required(question(ATTESTED)).await?;
        let attested: Attested = self.metadata.json(ATTESTED, &answer.text)?;
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

    fn watches(&self) -> Vec<Box<dyn Watch>> {
        let events = EventsSource { metadata: self.metadata.clone(), name: None, done: None };
        vec![Box::new(Poll::new(events, self.pace.quick, false))]
    }

    /// Starts an event before its time.
    async fn acknowledge(&self, event: &str) {
        let start = json!({"StartRequests": [{"EventId": event}]});
        let question = Question::post(EVENTS, &start).header("metadata", "true");
        for tries_left in (0..ACKNOWLEDGEMENTS).rev() {
            match self.metadata.ask(&question).await {
                Ok(_) => return tracing::info!("told Azure that this VM is ready for what it has scheduled"),
                Err(failure) => {
                    tracing::warn!("cannot tell Azure that this VM is ready: {failure} ({tries_left} more tries)");
                }
            }
            tokio::time::sleep(self.pace.quick).await;
        }
    }

    /// That API is not asked here.
    async fn terminate(&self, _identity: &Identity) -> bool {
        false
    }
}

impl Azure {
    fn identity(&self, instance: &Instance) -> Result<Identity, ProviderError> {
        let Instance { compute, network } = instance;
        let tag = |name: &'static str| {
            let found = compute.tags_list.iter().flatten().find(|tag| tag.name == name);
            found.map(|tag| tag.value.as_str()).ok_or_else(|| self.field(INSTANCE, name, "there is no such tag"))
        };
        let interface = network.as_ref().and_then(|network| network.interface.as_ref()?.first()?.ipv4.as_ref());
        let address = interface.and_then(|ipv4| ipv4.ip_address.as_ref()?.first());
        let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
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

/// What an event means for the VM of this name. Events reach every VM of a set, and an acknowledgement starts one for
/// all that it names.
fn notice(event: ScheduledEvent, name: &str) -> Option<Notice> {
    let resources = event.resources.unwrap_or_default();
    let is_us = |resource: &String| resource.eq_ignore_ascii_case(name);
    if !resources.iter().any(is_us) {
        return None;
    }
    let ours_alone = resources.iter().all(is_us);
    let kind = match event.event_type.as_str() {
        "Freeze" => NoticeKind::Freeze,
        // One that can't be brought about would drain the machine again after each reboot of ours.
        "Reboot" if ours_alone => NoticeKind::Reboot,
        // `Preempt`, `Terminate`, `Redeploy` (which loses the local disk), and whatever is new.
        _ => NoticeKind::Reclaim,
    };
    let may_acknowledge = kind != NoticeKind::Freeze && ours_alone;
    Some(Notice {
        kind,
        // Blank once it has started.
        deadline: event.not_before.as_deref().and_then(cloud_time),
        finish_tasks: false,
        source: format!("Azure has scheduled a {} of this VM", plain_word(&event.event_type)),
        acknowledge: may_acknowledge.then(|| event.event_id.clone()),
        id: event.event_id,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: &str, resources: &[&str], not_before: &str) -> ScheduledEvent {
        ScheduledEvent {
            event_id: kind.to_lowercase(),
            event_type: kind.to_owned(),
            resources: Some(resources.iter().map(|name| (*name).to_owned()).collect()),
            not_before: Some(not_before.to_owned()),
            event_status: None,
        }
    }

    #[test]
    fn what_is_not_known_of_the_network_keeps_nobody_from_booting() {
        let interfaces =
            json!([{"ipv4": {"ipAddress": [{"privateIpAddress": null}]}}, {"macAddress": "m"}, {"ipv4": null}]);
        for network in [json!({"interface": interfaces}), json!({"interface": null}), json!(null)] {
            let answer = json!({"compute": {"location": "l", "name": "n", "tagsList": null}, "network": network});
            assert!(serde_json::from_value::<Instance>(answer).is_ok());
        }
    }

    #[test]
    fn events_of_our_own_vm_are_notices_and_those_of_ours_alone_can_be_acknowledged() {
        let time = "Fri, 20 Nov 2026 08:05:00 GMT";
        let at = "2026-11-20T08:05:00Z".parse().ok();
        let table = [
            (event("Preempt", &["them"], time), None),
            (event("Freeze", &["us"], time), Some((NoticeKind::Freeze, at, false))),
            (event("Terminate", &["US"], time), Some((NoticeKind::Reclaim, at, true))),
            (event("Redeploy", &["us", "them"], ""), Some((NoticeKind::Reclaim, None, false))),
            (event("Reboot", &["us"], ""), Some((NoticeKind::Reboot, None, true))),
            (event("Reboot", &["them", "us"], ""), Some((NoticeKind::Reclaim, None, false))),
        ];
        for (event, expected) in table {
            let kind = event.event_type.clone();
            let notice = notice(event, "us");
            let seen = notice.map(|notice| (notice.kind, notice.deadline, notice.acknowledge.is_some()));
            assert_eq!(seen, expected, "{kind}");
        }
    }
}
