//! `simulator serve`: a Taskcluster on loopback that stays.

use crate::cloud::CloudKind;
use crate::server::{Setup, Simulator};
use crate::taskcluster::OPERATOR;
use clap::Args;
use serde_json::json;
use std::fs;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// What `serve` takes.
#[derive(Debug, Args)]
pub struct ServeOptions {
    /// Where to listen; port 0 is any that is free
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0")]
    pub listen: SocketAddr,

    /// Where the simulated machine stands: aws, azure, google, static or standalone
    #[arg(long, default_value = "static")]
    pub provider: CloudKind,

    /// How long every answer takes, in milliseconds
    #[arg(long, default_value_t = 0)]
    pub latency: u64,

    /// Write the root URL and an operator's credentials there, as JSON, once it serves
    #[arg(long, value_name = "FILE")]
    pub credentials: Option<PathBuf>,
}

/// Serves until the process is ended.
///
/// # Errors
/// Where the address can't be had, or the file can't be written.
pub fn serve(options: &ServeOptions) -> io::Result<()> {
    if !options.listen.ip().is_loopback() {
        return Err(io::Error::other("its credentials are known to everybody: it listens on loopback addresses only"));
    }
    let setup = Setup { kind: options.provider, latency: Duration::from_millis(options.latency) };
    let simulator = Simulator::start_on(&setup, options.listen)?;
    let (root_url, pool) = (simulator.url(), simulator.world(|world| world.cloud.launch.worker_pool_id.clone()));
    if let Some(path) = &options.credentials {
        let document = json!({"rootUrl": root_url, "clientId": OPERATOR.0, "accessToken": OPERATOR.1});
        // Whoever waits for the file finds it whole.
        let temporary = path.with_extension("new");
        fs::write(&temporary, format!("{document:#}\n"))?;
        #[cfg(unix)]
        fs::set_permissions(&temporary, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
        fs::rename(&temporary, path)?;
    }
    let mut out = io::stdout().lock();
    writeln!(out, "# A simulated Taskcluster with the worker pool {pool}; end it with Ctrl-C.")?;
    writeln!(out, "export TASKCLUSTER_ROOT_URL={root_url}")?;
    writeln!(out, "export TASKCLUSTER_CLIENT_ID={}", OPERATOR.0)?;
    writeln!(out, "export TASKCLUSTER_ACCESS_TOKEN={}", OPERATOR.1)?;
    out.flush()?;
    drop(out);
    loop {
        std::thread::park();
    }
}
