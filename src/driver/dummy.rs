//! No worker at all: prints what one would be told, secrets redacted, and is done.

use super::{Driver, DriverError, Habits, Started};
use crate::layer::{Layer, REDACTED};
use crate::run_state::{Admitted, RunState};
use serde_json::json;
use std::io::{self, Write};
use std::path::Path;

/// No worker.
pub struct Dummy;

impl Driver for Dummy {
    fn config_key(&self) -> &'static str {
        "dummy"
    }

    /// A worker that isn't is told nothing.
    fn layers(&self, _admitted: &Admitted) -> Vec<Layer> {
        Vec::new()
    }

    fn habits(&self, _run: &RunState) -> Habits {
        Habits { drains_on_interrupt: false, asks_whether_wanted: false, leaves_reboots_to_others: false }
    }

    fn preflight(&self) -> Result<(), DriverError> {
        Ok(())
    }

    fn start(&self, run: &RunState, _oom_score_adj: Option<&str>) -> Result<Started, DriverError> {
        let admitted = &run.admitted;
        let state = json!({
            "identity": admitted.identity,
            "credentials": {"clientId": admitted.credentials.client_id, "accessToken": REDACTED},
            "credentialsExpire": admitted.lease.as_ref().map(|lease| lease.expires),
            "workerConfig": run.worker_config(&[]).to_redacted_value(),
        });
        let mut out = io::stdout().lock();
        writeln!(out, "{state:#}")
            .map_err(|source| DriverError::Config { path: Path::new("standard output").to_owned(), source })?;
        Ok(Started::Done)
    }
}
