//! The metadata services of the clouds.

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};
use std::str::FromStr;

/// Where a machine stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloudKind {
    /// Amazon EC2.
    Aws,
    /// Microsoft Azure.
    Azure,
    /// Google Compute Engine.
    Google,
    /// In no cloud; worker-manager knows it.
    Static,
    /// In no cloud; worker-manager doesn't know it.
    Standalone,
}

impl CloudKind {
    /// Every kind.
    pub const ALL: [Self; 5] = [Self::Aws, Self::Azure, Self::Google, Self::Static, Self::Standalone];

    /// The word in a runner config.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Aws => "aws",
            Self::Azure => "azure",
            Self::Google => "google",
            Self::Static => "static",
            Self::Standalone => "standalone",
        }
    }

    /// Whether it is a cloud.
    pub const fn is_cloud(self) -> bool {
        match self {
            Self::Aws | Self::Azure | Self::Google => true,
            Self::Static | Self::Standalone => false,
        }
    }
}

impl FromStr for CloudKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let names = Self::ALL.map(Self::name).join(", ");
        Self::ALL.into_iter().find(|kind| kind.name() == text).ok_or_else(|| format!("expected one of {names}"))
    }
}

/// AWS's session token.
const TOKEN: &str = "canary-imds-token";

/// What the metadata services say, and what the proofs are.
#[derive(Debug, Clone)]
pub struct Cloud {
    /// Which cloud.
    pub kind: CloudKind,
    /// Whether the machine has a public name and address.
    pub public: bool,
    /// The machine's id: instance id, or VM name.
    pub machine_id: String,
    /// AWS's `spot/instance-action`, once there is one.
    pub spot_action: Option<String>,
    /// AWS's `spot/termination-time`, once there is one.
    pub termination_time: Option<String>,
    /// AWS's `instance-life-cycle`.
    pub life_cycle: String,
    /// AWS's `events/recommendations/rebalance`, once there is one.
    pub rebalance: Option<String>,
    /// AWS's `autoscaling/target-lifecycle-state`, in an auto scaling group.
    pub lifecycle_target: Option<String>,
    /// AWS's `events/maintenance/scheduled`.
    pub maintenance: Vec<Value>,
    /// Google's `preempted`.
    pub preempted: bool,
    /// Google's `maintenance-event`.
    pub maintenance_event: String,
    /// Google's `machine-type`, without its path.
    pub machine_type: String,
    /// Azure's scheduled events.
    pub events: Vec<Value>,
    /// The events that were acknowledged to Azure.
    pub acknowledged: Vec<String>,
    /// The worker pool, group, provider and deployment that the machine is told.
    pub launch: Launch,
}

/// What a launch configuration tells a machine.
#[derive(Debug, Clone)]
pub struct Launch {
    /// The worker pool.
    pub worker_pool_id: String,
    /// The provider.
    pub provider_id: String,
    /// The worker's group.
    pub worker_group: String,
    /// The deployment.
    pub root_url: String,
}

/// An answer of a metadata service.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: String,
    pub(crate) headers: Vec<(&'static str, String)>,
}

impl Answer {
    fn ok(body: impl Into<String>) -> Self {
        Self { status: 200, body: body.into(), headers: Vec::new() }
    }

    fn status(status: u16) -> Self {
        Self { status, body: String::new(), headers: Vec::new() }
    }

    fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

impl Cloud {
    /// AWS's instance identity document, in the very bytes that are signed.
    pub fn aws_document(&self) -> String {
        // Spacing as the real one: whoever parses and prints it again breaks the signature.
        format!(
            "{{\n  \"accountId\" : \"123456789012\",\n  \"architecture\" : \"x86_64\",\n  \"availabilityZone\" : \"us-west-2b\",\n  \"imageId\" : \"ami-0abc\",\n  \"instanceId\" : \"{}\",\n  \"instanceType\" : \"c5.large\",\n  \"privateIp\" : \"10.1.2.3\",\n  \"region\" : \"us-west-2\",\n  \"version\" : \"2017-09-30\"\n}}",
            self.machine_id
        )
    }

    /// What `registerWorker` must be shown.
    pub fn proof(&self, static_secret: &str) -> Value {
        match self.kind {
            CloudKind::Aws => {
                json!({"document": self.aws_document(), "signature": "canary-aws-signature\nsecond line"})
            }
            CloudKind::Azure => json!({"document": "canary-azure-attested"}),
            CloudKind::Google => json!({"token": "canary-google-token"}),
            CloudKind::Static | CloudKind::Standalone => json!({"staticSecret": static_secret}),
        }
    }

    /// Answers a metadata request; `None` where the path is none of this cloud's.
    pub(crate) fn answer(
        &mut self,
        method: &str,
        path: &str,
        headers: &BTreeMap<String, String>,
        body: &Value,
    ) -> Option<Answer> {
        match self.kind {
            CloudKind::Aws => Some(self.aws(method, path.strip_prefix("/latest")?, headers)),
            CloudKind::Google => Some(self.google(path.strip_prefix("/computeMetadata/v1")?, headers)),
            CloudKind::Azure if method == "POST" && path.starts_with("/metadata") => {
                Some(self.start_events(path, headers, body))
            }
            CloudKind::Azure => Some(self.azure(path.strip_prefix("/metadata")?, headers)),
            CloudKind::Static | CloudKind::Standalone => None,
        }
    }

    fn aws(&self, method: &str, path: &str, headers: &BTreeMap<String, String>) -> Answer {
        let header = |name: &str| headers.get(name).map(String::as_str);
        if path == "/api/token" {
            let asked = header("x-aws-ec2-metadata-token-ttl-seconds") == Some("21600") && method == "PUT";
            return if asked { Answer::ok(TOKEN) } else { Answer::status(400) };
        }
        if header("x-aws-ec2-metadata-token") != Some(TOKEN) {
            return Answer::status(401);
        }
        let launch = &self.launch;
        let optional = |value: Option<&str>| value.map_or_else(|| Answer::status(404), Answer::ok);
        match path {
            "/user-data" => Answer::ok(
                json!({
                    "workerPoolId": launch.worker_pool_id, "providerId": launch.provider_id,
                    "workerGroup": launch.worker_group, "rootUrl": format!("{}/", launch.root_url),
                    "workerConfig": {"ignored": true},
                })
                .to_string(),
            ),
            "/dynamic/instance-identity/document" => Answer::ok(self.aws_document()),
            "/dynamic/instance-identity/signature" => Answer::ok("canary-aws-signature\nsecond line"),
            "/meta-data/public-hostname" => optional(self.public.then_some("ec2-1-2-3-4.example.com")),
            "/meta-data/public-ipv4" => optional(self.public.then_some("1.2.3.4")),
            "/meta-data/spot/instance-action" => optional(self.spot_action.as_deref()),
            "/meta-data/spot/termination-time" => optional(self.termination_time.as_deref()),
            "/meta-data/instance-life-cycle" => Answer::ok(&*self.life_cycle),
            "/meta-data/events/recommendations/rebalance" => optional(self.rebalance.as_deref()),
            "/meta-data/autoscaling/target-lifecycle-state" => optional(self.lifecycle_target.as_deref()),
            "/meta-data/events/maintenance/scheduled" => Answer::ok(Value::from(self.maintenance.clone()).to_string()),
            _ => Answer::status(404),
        }
    }

    fn google(&self, path: &str, headers: &BTreeMap<String, String>) -> Answer {
        if headers.get("metadata-flavor").map(String::as_str) != Some("Google") {
            return Answer::status(403);
        }
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let instance = self.google_instance();
        let value = |pointer: &str| match instance.pointer(pointer) {
            Some(Value::String(text)) => Answer::ok(&**text),
            Some(value) => Answer::ok(value.to_string()),
            None => Answer::status(404),
        };
        let answer = match path {
            "/instance/" if query == "recursive=true" => Answer::ok(instance.to_string()),
            "/instance/id" => value("/id"),
            "/instance/attributes/taskcluster" => value("/attributes/taskcluster"),
            "/project/project-id" => Answer::ok("proj-1234"),
            "/instance/image" => value("/image"),
            "/instance/machine-type" => value("/machineType"),
            "/instance/zone" => value("/zone"),
            "/instance/hostname" => value("/hostname"),
            "/instance/network-interfaces/0/ip" => value("/networkInterfaces/0/ip"),
            "/instance/network-interfaces/0/access-configs/0/external-ip" => {
                value("/networkInterfaces/0/accessConfigs/0/externalIp")
            }
            "/instance/service-accounts/default/identity" => {
                let root_url = &self.launch.root_url;
                let audience =
                    percent_encoding::percent_encode(root_url.as_bytes(), percent_encoding::NON_ALPHANUMERIC);
                match query == format!("audience={audience}&format=full") {
                    true => Answer::ok("canary-google-token"),
                    false => Answer::status(400),
                }
            }
            "/instance/preempted" => value("/preempted"),
            "/instance/maintenance-event" => value("/maintenanceEvent"),
            _ => Answer::status(404),
        };
        let etag = self.etag(path);
        answer.with("metadata-flavor", "Google").with("etag", etag)
    }

    /// The folder `instance/` as one answer: the id is a number there, words are in camel case, and an attribute is what
    /// whoever made the instance wrote.
    ///
    /// Source: <https://cloud.google.com/compute/docs/metadata/querying-metadata#aggcontents>.
    fn google_instance(&self) -> Value {
        let launch = &self.launch;
        let taskcluster = json!({
            "workerPoolId": launch.worker_pool_id, "providerId": launch.provider_id,
            "workerGroup": launch.worker_group, "rootUrl": launch.root_url,
        });
        let mut interface = json!({"ip": "10.1.2.3", "accessConfigs": [], "mtu": 1460});
        if self.public {
            interface["accessConfigs"] = json!([{"externalIp": "1.2.3.4", "type": "ONE_TO_ONE_NAT"}]);
        }
        json!({
            "attributes": {"taskcluster": taskcluster.to_string()},
            "hostname": "machine.c.proj-1234.internal",
            "id": self.machine_id.parse::<u64>().map_or_else(|_| json!(self.machine_id), Value::from),
            "image": "projects/proj-1234/global/images/worker-image",
            "machineType": format!("projects/98765/machineTypes/{}", self.machine_type),
            "maintenanceEvent": self.maintenance_event,
            "networkInterfaces": [interface],
            "preempted": if self.preempted { "TRUE" } else { "FALSE" },
            "zone": "projects/98765/zones/us-west1-a",
        })
    }

    /// The etag of a value of Google's that changes; what doesn't has one, too.
    pub(crate) fn etag(&self, path: &str) -> String {
        let mut hasher = std::hash::DefaultHasher::new();
        match path.rsplit('/').next() {
            Some("preempted") => self.preempted.hash(&mut hasher),
            Some("maintenance-event") => self.maintenance_event.hash(&mut hasher),
            Some(_) | None => {}
        }
        format!("{:016x}", hasher.finish())
    }

    fn start_events(&mut self, path: &str, headers: &BTreeMap<String, String>, body: &Value) -> Answer {
        let asked = path == "/metadata/scheduledevents?api-version=2020-07-01"
            && headers.get("metadata").map(String::as_str) == Some("true");
        let known = |id: &Value| self.events.iter().any(|event| event["EventId"] == *id);
        let ids: Vec<_> =
            body["StartRequests"].as_array().into_iter().flatten().map(|start| &start["EventId"]).collect();
        if !asked || ids.is_empty() || !ids.iter().all(|id| known(id)) {
            return Answer::status(400);
        }
        self.acknowledged.extend(ids.iter().filter_map(|id| id.as_str()).map(str::to_owned));
        Answer::ok("")
    }

    fn azure(&self, path: &str, headers: &BTreeMap<String, String>) -> Answer {
        if headers.get("metadata").map(String::as_str) != Some("true") {
            return Answer::status(400);
        }
        let launch = &self.launch;
        match path {
            "/instance?api-version=2025-04-07" => {
                let tags = [
                    ("worker-pool-id", &launch.worker_pool_id),
                    ("provider-id", &launch.provider_id),
                    ("worker-group", &launch.worker_group),
                    ("root-url", &launch.root_url),
                ];
                let tags: Vec<Value> = tags.iter().map(|(name, value)| json!({"name": name, "value": value})).collect();
                let public = if self.public { "1.2.3.4" } else { "" };
                Answer::ok(
                    json!({
                        "compute": {"location": "uswest", "name": self.machine_id, "vmId": "df09142e-c0dd-43d9-a515-489f19829dfd",
                            "vmSize": "Standard_D2s_v3", "tagsList": tags},
                        "network": {"interface": [{"ipv4": {"ipAddress": [{"privateIpAddress": "10.1.2.3", "publicIpAddress": public}]}}]},
                    })
                    .to_string(),
                )
            }
            "/attested/document?api-version=2025-04-07" => {
                Answer::ok(json!({"encoding": "pkcs7", "signature": "canary-azure-attested"}).to_string())
            }
            "/scheduledevents?api-version=2020-07-01" => {
                Answer::ok(json!({"DocumentIncarnation": 1, "Events": self.events}).to_string())
            }
            _ => Answer::status(404),
        }
    }
}
