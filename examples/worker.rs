//! A worker in 40 lines: `hello`, a log record, then until it is told to end.
//!
//! ```yaml
//! worker:
//!   implementation: generic-worker
//!   path: target/debug/examples/worker
//!   configPath: /tmp/worker-config.json
//! ```

use serde_json::json;
use std::error::Error;
use std::process::ExitCode;
use worker_protocol::{Capability, Message, WorkerConnection};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<ExitCode, Box<dyn Error>> {
    let wanted = [Capability::Log, Capability::GracefulTermination, Capability::NewCredentials].into_iter().collect();
    let mut runner = WorkerConnection::connect(tokio::io::stdin(), tokio::io::stdout(), wanted).await?;
    let record = json!({"textPayload": "ready for tasks", "agreed": runner.agreed().to_string()});
    if let Some(body) = record.as_object().cloned().filter(|_| runner.agreed().has(Capability::Log)) {
        runner.send(&Message::Log { body }).await?;
    }
    while let Some(message) = runner.receive().await? {
        match message {
            Message::GracefulTermination { finish_tasks } => {
                println!("ending; tasks may finish: {finish_tasks}");
                return Ok(ExitCode::from(72));
            }
            Message::NewCredentials { client_id, .. } => println!("from now on I am {client_id}"),
            Message::Welcome { .. }
            | Message::Hello { .. }
            | Message::Log { .. }
            | Message::ErrorReport(_)
            | Message::Shutdown => {}
        }
    }
    Ok(ExitCode::SUCCESS)
}
