//! A run, kept over reboots in the file that `cacheOverRestarts` names.
//!
//! What has been reached is written the moment it is there: the registration's answer, the layers and files, that
//! the files are written. Each boot goes on from what it finds. The format is ours and has a version; the Go
//! program's own is read too, so that a machine can be upgraded in place.
//!
//! Where a cloud machine's run is over, a tombstone takes the place of the run: what starts there afterwards goes on
//! with the retirement and nothing else. Where no run is kept it has a file of its own.

use crate::files::FileSpec;
use crate::layer::{Layer, Source};
use crate::platform;
use crate::private_file::{self, Durability};
use crate::run_state::{Admitted, Identity, Lease, RunState};
use crate::runner_config::{HostConfig, RunnerConfig};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use taskcluster_api::{Credentials, ExposeSecret, ProviderId, RootUrl, WorkerGroup, WorkerId, WorkerPoolId};

/// A file of more bytes than this is none of ours.
const MAX_SIZE: u64 = 256 * 1024 * 1024;

/// How long writing it may hold anything up.
const PATIENCE: Duration = Duration::from_secs(10);

/// The version of the format below. Another one is not read.
const VERSION: u64 = 1;

/// The name of the tombstone's file where no run is kept.
const TOMBSTONE: &str = "start-worker-retiring.json";

/// The file of a run, if the run is kept.
#[derive(Debug, Clone)]
pub struct Cache {
    path: Option<PathBuf>,
    /// Where a tombstone goes if there is no such file.
    tombstone: PathBuf,
    provider: &'static str,
    writes: Arc<Writes>,
}

/// One write at a time, and none that is older than one that is done: a write that hangs on a disk may wake up late.
#[derive(Debug, Default)]
struct Writes {
    asked: AtomicU64,
    /// The newest that is done, and whether it was a tombstone: nothing but another one takes its place.
    done: Mutex<(u64, bool)>,
    /// Whether the file holds the run as it was last kept, or was found.
    holds: AtomicBool,
}

/// What an earlier boot reached.
#[derive(Debug, Clone)]
pub enum Kept {
    /// The machine is registered.
    Admitted(Admitted),
    /// All is known; the files are written where none of them waits.
    Configured(RunState),
    /// The run is over, and the machine is to go.
    Retiring(Tombstone),
}

/// What is left of a run whose machine is to go.
#[derive(Debug, Clone)]
pub struct Tombstone {
    /// The machine, with its newest credentials.
    pub admitted: Admitted,
    /// When its retirement began.
    pub since: Timestamp,
    /// Whether worker-manager is to remove it first.
    pub remove: bool,
}

impl Tombstone {
    /// That of a machine whose retirement begins now.
    pub fn of(admitted: &Admitted, remove: bool) -> Self {
        Self { admitted: admitted.clone(), since: Timestamp::now(), remove }
    }
}

/// Why a cache that is there can't be used. The boot is a fresh one then.
#[derive(Debug, thiserror::Error)]
pub enum CacheProblem {
    /// It can't be read.
    #[error("the cache {} cannot be read: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is torn, or something else.
    #[error("the cache {} is damaged: {problem}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong. Never a value.
        problem: String,
    },
    /// It is of another version.
    #[error("the cache {} is of version {version}, and this program reads version {VERSION}", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: String,
    },
    /// It is another machine's.
    #[error("the cache {} belongs to {theirs}, and this machine is {ours}", path.display())]
    OtherMachine {
        /// The file.
        path: PathBuf,
        /// Whose it is.
        theirs: String,
        /// Who we are.
        ours: String,
    },
}

/// The format.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    version: u64,
    provider: String,
    identity: Identity,
    credentials: CredentialsDocument,
    #[serde(skip_serializing_if = "Option::is_none")]
    lease: Option<LeaseDocument>,
    /// The registration's configuration, until it is one of the layers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    registration: Option<Map<String, Value>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    configured: Option<ConfiguredDocument>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    retiring: Option<RetiringDocument>,
}

#[derive(Serialize, Deserialize)]
struct RetiringDocument {
    since: Timestamp,
    remove: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct CredentialsDocument {
    client_id: String,
    access_token: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    certificate: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct LeaseDocument {
    expires: Timestamp,
    secret: String,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ConfiguredDocument {
    layers: Vec<Layer>,
    /// Those that are still to be written, or were and hold secrets.
    files: Vec<FileSpec>,
}

/// The Go program's format, as far as it is of use.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct GoDocument {
    #[serde(rename = "RootURL")]
    root_url: RootUrl,
    credentials: GoCredentials,
    #[serde(default)]
    credentials_expire: Option<String>,
    #[serde(default)]
    registration_secret: Option<String>,
    #[serde(rename = "WorkerPoolID")]
    worker_pool_id: WorkerPoolId,
    worker_group: WorkerGroup,
    #[serde(rename = "WorkerID")]
    worker_id: WorkerId,
    #[serde(rename = "ProviderID")]
    provider_id: ProviderId,
    #[serde(default)]
    provider_metadata: Option<Map<String, Value>>,
    #[serde(default)]
    worker_config: Option<Map<String, Value>>,
    #[serde(default)]
    worker_location: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct GoCredentials {
    client_id: String,
    access_token: String,
    #[serde(default)]
    certificate: Option<String>,
}

impl Cache {
    /// The cache at that path; none keeps nothing but a tombstone, in `folder`. `provider` is the word in the runner
    /// config.
    pub fn new(path: Option<PathBuf>, folder: &Path, provider: &'static str) -> Self {
        Self { path, tombstone: folder.join(TOMBSTONE), provider, writes: Arc::default() }
    }

    /// The cache that a runner config names. A tombstone goes to the unit's state folder, or beside the runner config.
    pub fn of(config: &RunnerConfig, runner_config: &Path) -> Self {
        let folder = platform::state_folder_or_beside(runner_config);
        Self::new(config.cache_over_restarts.clone(), &folder, config.provider.name())
    }

    /// The files that hold something of this machine's runs: for whoever deletes them.
    pub fn files_of(&self, host: &HostConfig) -> Vec<PathBuf> {
        let is_its_own = |path: &&PathBuf| {
            let one = Self::new(Some((*path).clone()), Path::new(""), self.provider);
            matches!(one.load(), Ok(Some(kept)) if host.is(&kept.admitted().identity))
        };
        self.path.iter().chain([&self.tombstone]).filter(is_its_own).cloned().collect()
    }

    /// Whether runs are kept.
    pub fn keeps(&self) -> bool {
        self.path.is_some()
    }

    /// Whether the next boot would go on with the run, as far as is known.
    pub fn holds_run(&self) -> bool {
        self.keeps() && self.writes.holds.load(Ordering::Relaxed)
    }

    /// What an earlier boot kept; nothing on a first boot.
    ///
    /// # Errors
    /// Why what is there can't be used.
    pub fn load(&self) -> Result<Option<Kept>, CacheProblem> {
        let path = self.path.as_ref().unwrap_or(&self.tombstone);
        let mut bytes = Vec::new();
        let read = platform::open_regular_file(path).and_then(|file| {
            // Whoever may make files in the folder must not decide what we are.
            platform::require_trusted_owner(&file)?;
            file.take(MAX_SIZE + 1).read_to_end(&mut bytes)
        });
        match read {
            Ok(read) if read as u64 > MAX_SIZE => {
                let problem = format!("it is larger than {} MiB", MAX_SIZE / 1024 / 1024);
                return Err(CacheProblem::Damaged { path: path.clone(), problem });
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(CacheProblem::Unreadable { path: path.clone(), source }),
        }
        let kept = self.read(path, &bytes)?;
        self.writes.holds.store(true, Ordering::Relaxed);
        Ok(Some(kept))
    }

    /// Reads the content of a cache; `path` is for what is said of it.
    ///
    /// # Errors
    /// Why it can't be used.
    pub fn read(&self, path: &Path, bytes: &[u8]) -> Result<Kept, CacheProblem> {
        let damaged = |problem: &str| CacheProblem::Damaged { path: path.to_owned(), problem: problem.to_owned() };
        let document: Map<String, Value> =
            serde_json::from_slice(bytes).map_err(|_| damaged("it holds no whole JSON object"))?;
        let read = |result: Result<Kept, serde_json::Error>| {
            // serde's own words quote values.
            result.map_err(|_| damaged("it lacks a part, or a part is of the wrong type"))
        };
        let kept = match document.get("version") {
            Some(version) if version.as_u64() == Some(VERSION) => {
                let document: Document = serde_json::from_value(Value::Object(document))
                    .map_err(|_| damaged("it lacks a part, or a part is of the wrong type"))?;
                self.refuse_other_provider(path, &document.provider)?;
                document.into_kept()
            }
            Some(version) => {
                return Err(CacheProblem::Version { path: path.to_owned(), version: version.to_string() });
            }
            None if document.contains_key("RootURL") => read(read_go(document))?,
            None => return Err(damaged("it says no version")),
        };
        Ok(kept)
    }

    fn refuse_other_provider(&self, path: &Path, theirs: &str) -> Result<(), CacheProblem> {
        if theirs == self.provider {
            return Ok(());
        }
        Err(CacheProblem::OtherMachine {
            path: path.to_owned(),
            theirs: format!("a machine of the provider {theirs}"),
            ours: format!("one of {}", self.provider),
        })
    }

    /// The problem that the cache is another machine's.
    pub fn other_machine(&self, theirs: impl fmt::Display, ours: impl fmt::Display) -> CacheProblem {
        CacheProblem::OtherMachine {
            path: self.path.clone().unwrap_or_default(),
            theirs: theirs.to_string(),
            ours: ours.to_string(),
        }
    }

    /// Keeps what has been reached, durably. Failing to is no reason to stop: the next boot is a fresh one. Nor is a disk
    /// that hangs.
    pub async fn keep(&self, kept: &Kept) -> bool {
        let is_tombstone = match kept {
            Kept::Retiring(_) => true,
            Kept::Admitted(_) | Kept::Configured(_) if self.keeps() => false,
            Kept::Admitted(_) | Kept::Configured(_) => return true,
        };
        let path = self.path.clone().unwrap_or_else(|| self.tombstone.clone());
        let document = Document::of(self.provider, kept);
        let writes = Arc::clone(&self.writes);
        let number = writes.asked.fetch_add(1, Ordering::Relaxed) + 1;
        let written = tokio::task::spawn_blocking(move || {
            let mut done = writes.done.lock().unwrap_or_else(PoisonError::into_inner);
            // A tombstone takes the place of any run, and no run that of a tombstone.
            if (done.1 && !is_tombstone) || (done.1 == is_tombstone && done.0 > number) {
                return Ok(());
            }
            let text = serde_json::to_vec(&document)?;
            let result = private_file::write(&path, &text, Durability::Durable);
            writes.holds.store(result.is_ok(), Ordering::Relaxed);
            if let Err(error) = result {
                let loss = if is_tombstone { "the machine's retirement" } else { "the run" };
                tracing::error!("cannot write {}: {error}; a reboot would not go on with {loss}", path.display());
                if is_tombstone {
                    // Rather no run than one that goes on. A full disk has room for that.
                    let _ = std::fs::remove_file(&path);
                }
                return Err(error);
            }
            *done = (number, is_tombstone);
            Ok::<(), io::Error>(())
        });
        match tokio::time::timeout(PATIENCE, written).await {
            Ok(written) => matches!(written, Ok(Ok(()))),
            Err(_) => {
                self.writes.holds.store(false, Ordering::Relaxed);
                let path = self.path.as_ref().unwrap_or(&self.tombstone);
                tracing::error!("{} could not be written within {} s", path.display(), PATIENCE.as_secs());
                false
            }
        }
    }

    /// Takes away a tombstone that is another machine's. A cache that is, is replaced.
    pub fn forget_tombstone(&self) {
        if self.path.is_none()
            && let Err(error) = std::fs::remove_file(&self.tombstone)
        {
            tracing::warn!("cannot remove {}: {error}", self.tombstone.display());
        }
    }
}

impl Kept {
    /// The machine, to be changed.
    pub fn admitted_mut(&mut self) -> &mut Admitted {
        match self {
            Self::Admitted(admitted) => admitted,
            Self::Configured(run) => &mut run.admitted,
            Self::Retiring(tombstone) => &mut tombstone.admitted,
        }
    }

    /// The machine.
    pub fn admitted(&self) -> &Admitted {
        match self {
            Self::Admitted(admitted) => admitted,
            Self::Configured(run) => &run.admitted,
            Self::Retiring(tombstone) => &tombstone.admitted,
        }
    }
}

impl Document {
    fn of(provider: &str, kept: &Kept) -> Self {
        let admitted = kept.admitted();
        let credentials = &admitted.credentials;
        let (registration, configured, retiring) = match kept {
            Kept::Admitted(admitted) => (Some(admitted.worker_config.clone()), None, None),
            Kept::Configured(run) => {
                (None, Some(ConfiguredDocument { layers: run.layers.clone(), files: run.files.clone() }), None)
            }
            Kept::Retiring(Tombstone { since, remove, .. }) => {
                (None, None, Some(RetiringDocument { since: *since, remove: *remove }))
            }
        };
        Self {
            version: VERSION,
            provider: provider.to_owned(),
            identity: admitted.identity.clone(),
            credentials: CredentialsDocument {
                client_id: credentials.client_id.clone(),
                access_token: credentials.access_token.expose_secret().to_owned(),
                certificate: credentials.certificate.as_ref().map(|text| text.expose_secret().to_owned()),
            },
            lease: admitted
                .lease
                .as_ref()
                .map(|lease| LeaseDocument { expires: lease.expires, secret: lease.secret.expose_secret().to_owned() }),
            registration,
            configured,
            retiring,
        }
    }

    fn into_kept(self) -> Kept {
        let CredentialsDocument { client_id, access_token, certificate } = self.credentials;
        let admitted = Admitted {
            identity: self.identity,
            credentials: Credentials {
                client_id,
                access_token: access_token.into(),
                certificate: certificate.map(Into::into),
            },
            lease: self.lease.map(|lease| Lease { expires: lease.expires, secret: lease.secret.into() }),
            worker_config: self.registration.unwrap_or_default(),
        };
        match (self.retiring, self.configured) {
            (Some(RetiringDocument { since, remove }), _) => Kept::Retiring(Tombstone { admitted, since, remove }),
            (None, Some(ConfiguredDocument { layers, files })) => {
                Kept::Configured(RunState { admitted, layers, files })
            }
            (None, None) => Kept::Admitted(admitted),
        }
    }
}

/// The Go program writes its files at every boot, so those of the run that it kept have been written at least once; its
/// configuration holds all layers in one.
fn read_go(document: Map<String, Value>) -> Result<Kept, serde_json::Error> {
    use serde::de::Error;
    let go: GoDocument = serde_json::from_value(Value::Object(document))?;
    let identity = Identity {
        root_url: go.root_url,
        provider_id: go.provider_id,
        worker_pool_id: go.worker_pool_id,
        worker_group: go.worker_group,
        worker_id: go.worker_id,
        metadata: go.provider_metadata.unwrap_or_default(),
        location: go.worker_location.unwrap_or_default(),
    };
    // Go writes the zero time, in the year 1, where there is none.
    let expires = match go.credentials_expire.as_deref() {
        None | Some("") => None,
        Some(text) if text.starts_with("0001-") => None,
        Some(text) => {
            Some(text.parse::<Timestamp>().map_err(|_| serde_json::Error::custom("a time has another shape"))?)
        }
    };
    let secret = go.registration_secret.filter(|secret| !secret.is_empty());
    let admitted = Admitted {
        identity,
        credentials: Credentials {
            client_id: go.credentials.client_id,
            access_token: go.credentials.access_token.into(),
            certificate: go.credentials.certificate.filter(|text| !text.is_empty()).map(Into::into),
        },
        lease: expires.zip(secret).map(|(expires, secret)| Lease { expires, secret: secret.into() }),
        worker_config: Map::new(),
    };
    let layer = Layer { source: Source::GoCache, config: go.worker_config.unwrap_or_default() };
    Ok(Kept::Configured(RunState { admitted, layers: vec![layer], files: Vec::new() }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(document: &Value) -> Result<Kept, CacheProblem> {
        Cache::new(Some("c".into()), Path::new("."), "aws").read(Path::new("c"), document.to_string().as_bytes())
    }

    fn go_document() -> Value {
        json!({
            "RootURL": "https://tc.example.com",
            "Credentials": {"clientId": "c", "accessToken": "canary", "certificate": ""},
            "CredentialsExpire": "2999-01-01T00:00:00Z",
            "RegistrationSecret": "s",
            "WorkerPoolID": "p/w", "WorkerGroup": "g", "WorkerID": "i", "ProviderID": "aws",
            "ProviderMetadata": {"region": "r"}, "WorkerConfig": {"a": [1]}, "Files": null,
            "WorkerLocation": {"cloud": "aws"}
        })
    }

    #[test]
    fn the_go_programs_cache_is_read() {
        let Kept::Configured(run) = read(&go_document()).unwrap() else { panic!() };
        assert_eq!(run.layers[0].config["a"], json!([1]));
        assert_eq!(run.admitted.identity.location["cloud"], "aws");
        assert!(run.admitted.credentials.certificate.is_none() && run.admitted.lease.is_some());
    }

    #[test]
    fn a_run_is_read_back_as_it_was_kept() {
        let Kept::Configured(run) = read(&go_document()).unwrap() else { panic!() };
        let tombstone = Tombstone { admitted: run.admitted.clone(), since: Timestamp::UNIX_EPOCH, remove: true };
        for kept in [Kept::Admitted(run.admitted.clone()), Kept::Configured(run), Kept::Retiring(tombstone)] {
            let text = serde_json::to_value(Document::of("aws", &kept)).unwrap();
            let again = read(&text).unwrap();
            assert_eq!(serde_json::to_value(Document::of("aws", &again)).unwrap(), text);
        }
    }

    #[test]
    fn what_cannot_be_used_says_why_and_shows_no_value() {
        let Kept::Configured(run) = read(&go_document()).unwrap() else { panic!() };
        let good = serde_json::to_value(Document::of("aws", &Kept::Configured(run))).unwrap();
        let with = |key: &str, value: Value| {
            let mut document = good.clone();
            document[key] = value;
            read(&document).unwrap_err().to_string()
        };
        assert!(with("version", json!(2)).contains("of version 2"));
        assert!(with("provider", json!("google")).contains("a machine of the provider google"));
        assert!(with("lease", json!({"expires": "canary", "secret": "canary"})).contains("is damaged"));
        for damaged in [json!({}), json!([]), json!({"version": 1, "credentials": "canary"})] {
            let problem = read(&damaged).unwrap_err();
            assert!(problem.to_string().contains("is damaged"));
            assert!(!format!("{problem}{problem:?}").contains("canary"));
        }
        let torn = &good.to_string()[..100];
        assert!(Cache::new(None, Path::new("."), "aws").read(Path::new("c"), torn.as_bytes()).is_err());
    }

    proptest::proptest! {
        #[test]
        fn a_damaged_cache_is_read_or_refused_without_a_value(at in 0usize..2000, byte in proptest::prelude::any::<u8>()) {
            let Kept::Configured(run) = read(&go_document()).unwrap() else { panic!() };
            let mut text = serde_json::to_vec(&Document::of("aws", &Kept::Configured(run))).unwrap();
            let at = at % text.len();
            text[at] = byte;
            for bytes in [&text[..], &text[..at]] {
                if let Err(problem) = Cache::new(None, Path::new("."), "aws").read(Path::new("c"), bytes) {
                    let shown = format!("{problem}{problem:?}").contains("canary");
                    proptest::prop_assert!(!shown);
                }
            }
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
            let _ = Cache::new(None, Path::new("."), "aws").read(Path::new("c"), &bytes);
        }
    }
}
