//! No worker at all: prints what one would be told, secrets redacted, and is done.

use super::{Driver, DriverError, Habits, StartTerms, Started};
use crate::layer::{Layer, REDACTED};
use crate::run_state::{Admitted, RunState};
use async_trait::async_trait;
use serde_json::json;
use std::io::{self, Write};
use std::path::Path;

/// No worker.
pub struct Dummy;

#[async_trait]
impl Driver for Dummy {
    fn config_key(&self) -> &'static str {
        "dummy"
    }

    /// A worker that isn't is told nothing.
    fn layers(&self, _admitted: &Admitted) -> Vec<Layer> {
        Vec::new()
    }

    fn habits(&self, _run: &RunState) -> Habits {
        Habits {
            drains_on_interrupt: false,
            heeds_termination: false,
            ends_with_its_output: false,
            asks_whether_wanted: false,
            leaves_reboots_to_others: false,
        }
    }

    fn preflight(&self) -> Result<(), DriverError> {
        Ok(())
    }

    async fn start(&self, run: &RunState, _terms: &StartTerms<'_>) -> Result<Started, DriverError> {
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
