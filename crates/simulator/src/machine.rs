//! A machine in a folder: a runner config, a worker, and `start-worker` run on it.

use crate::cloud::CloudKind;
use crate::server::Simulator;
use crate::worker;
use serde_json::{Value, json};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What a machine is made of.
#[derive(Debug)]
pub struct Machine {
    /// Where everything is.
    pub folder: PathBuf,
    /// The runner config, to be changed before [`Machine::command`].
    pub config: Value,
    /// What the worker does.
    pub script: Value,
    start_worker: PathBuf,
    metadata: Option<String>,
}

impl Machine {
    /// A machine in this (existing) folder, of the simulator's kind, with a generic-worker.
    ///
    /// # Errors
    /// Where the folder can't be written.
    pub fn new(simulator: &Simulator, folder: &Path, start_worker: &Path, worker: &Path) -> io::Result<Self> {
        let (kind, provider) = simulator.world(|world| (world.cloud.kind, provider_config(world)));
        let config = json!({
            "provider": provider,
            "worker": {
                "implementation": "generic-worker",
                "path": worker,
                "configPath": folder.join("worker-config.json"),
            },
            "workerConfig": {"fromRunnerConfig": true},
        });
        let machine = Self {
            folder: folder.to_owned(),
            config,
            script: json!(["hello", {"exit": 0}]),
            start_worker: start_worker.to_owned(),
            metadata: kind.is_cloud().then(|| simulator.url()),
        };
        machine.shutdown_ends_with(0)?;
        Ok(machine)
    }

    /// Makes it a docker-worker.
    ///
    /// # Errors
    /// Where the folder can't be written.
    #[cfg(unix)]
    pub fn use_docker_worker(&mut self, worker: &Path) -> io::Result<()> {
        let folder = self.folder.join("docker-worker");
        fs::create_dir_all(folder.join("bin"))?;
        std::os::unix::fs::symlink(worker, folder.join("bin").join("docker-worker"))?;
        self.config["worker"] = json!({
            "implementation": "docker-worker", "path": folder, "configPath": self.worker_config(),
        });
        Ok(())
    }

    /// The runner config's file.
    pub fn runner_config(&self) -> PathBuf {
        self.folder.join("runner.yml")
    }

    /// The worker's configuration's file.
    pub fn worker_config(&self) -> PathBuf {
        self.folder.join("worker-config.json")
    }

    /// What `shutdown` was called with, a line a call: the machine's own `shutdown` is never called.
    pub fn shutdowns(&self) -> Vec<String> {
        let calls = fs::read_to_string(self.folder.join("shutdown-calls")).unwrap_or_default();
        calls.lines().map(str::to_owned).collect()
    }

    /// Puts a `shutdown` before the real one that only notes that it was called, and ends with this code.
    ///
    /// # Errors
    /// Where it can't be written.
    pub fn shutdown_ends_with(&self, code: i32) -> io::Result<()> {
        let folder = self.folder.join("bin");
        fs::create_dir_all(&folder)?;
        let calls = self.folder.join("shutdown-calls");
        // Aside and then in its place: the machine may be about to run it.
        let next = folder.join("shutdown.next");
        fs::write(&next, format!("#!/bin/sh\necho \"$@\" >>'{}'\nexit {code}\n", calls.display()))?;
        #[cfg(unix)]
        fs::set_permissions(&next, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        fs::rename(next, folder.join("shutdown"))
    }

    /// The script, or `@` and its file: not every system has variables of any length.
    fn script_value(&self) -> io::Result<std::ffi::OsString> {
        let script = self.script.to_string();
        if script.len() < 4096 {
            return Ok(script.into());
        }
        let file = self.folder.join("script.json");
        fs::write(&file, script)?;
        Ok(format!("@{}", file.display()).into())
    }

    /// Writes the runner config and makes the command that boots the machine; its streams are pipes.
    ///
    /// # Errors
    /// Where the config can't be written.
    pub fn command(&self) -> io::Result<Command> {
        write_private(&self.runner_config(), &format!("{:#}\n", self.config))?;
        let mut command = Command::new(&self.start_worker);
        let path = std::env::var_os("PATH").unwrap_or_default();
        let folders = [self.folder.join("bin")].into_iter().chain(std::env::split_paths(&path));
        command
            .env("PATH", std::env::join_paths(folders).map_err(io::Error::other)?)
            .arg(self.runner_config())
            .current_dir(&self.folder)
            .env(worker::SCRIPT, self.script_value()?)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        #[cfg(windows)]
        std::os::windows::process::CommandExt::creation_flags(
            &mut command,
            windows_sys::Win32::System::Threading::CREATE_NO_WINDOW,
        );
        for proxy in ["http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
            command.env_remove(proxy);
        }
        if let Some(url) = &self.metadata {
            command.arg("--metadata-service").arg(url);
        }
        Ok(command)
    }
}

fn provider_config(world: &crate::server::World) -> Value {
    let launch = &world.cloud.launch;
    let host = json!({
        "rootURL": launch.root_url, "workerPoolID": launch.worker_pool_id, "workerGroup": launch.worker_group,
        "workerID": world.cloud.machine_id, "providerMetadata": {"rack": "r1", "slot": 7},
        "workerLocation": {"room": "basement"},
    });
    let mut provider = match world.cloud.kind {
        CloudKind::Aws | CloudKind::Azure | CloudKind::Google => json!({}),
        CloudKind::Static => {
            let mut provider = host;
            provider["providerID"] = launch.provider_id.clone().into();
            provider["staticSecret"] = world.taskcluster.static_secret.clone().into();
            provider
        }
        CloudKind::Standalone => {
            let mut provider = host;
            provider["clientID"] = world.taskcluster.standalone.0.clone().into();
            provider["accessToken"] = world.taskcluster.standalone.1.clone().into();
            provider
        }
    };
    provider["providerType"] = world.cloud.kind.name().into();
    provider
}

/// Writes a file that only its owner may read.
fn write_private(path: &Path, text: &str) -> io::Result<()> {
    fs::write(path, text)?;
    #[cfg(unix)]
    fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    Ok(())
}
