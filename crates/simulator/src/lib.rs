//! A cloud and a Taskcluster on loopback: the metadata services of AWS, Google and Azure, worker-manager and the
//! secrets service, in one process that **checks** what it is sent, fails as its script says, and remembers every
//! request. And a worker that does as its script says.
//!
//! Tests use it as a library; people run it as a program (`simulator boot google`).
//!
//! # As a test double of Taskcluster
//!
//! [`Simulator`] serves every entry of worker-manager's and the secrets service's API references, so it can stand in
//! for a deployment wherever something that talks to one is tested, in any language:
//!
//! ```
//! use simulator::{CloudKind, Fault, Setup, Simulator};
//! use std::time::Duration;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let simulator = Simulator::start(&Setup { kind: CloudKind::Static, latency: Duration::ZERO })?;
//! // What is there: providers, pools, workers, errors, secrets, clients and their scopes are fields of its state.
//! simulator.world(|world| world.taskcluster.put_secret("project/x", serde_json::json!({"key": "value"})));
//! // What goes wrong: the next two requests for a secret are answered with 502.
//! simulator.fault("/secrets/", 2, Fault::status(502));
//! // Who may do everything, and what nobody may do.
//! let client = simulator.operator()?;
//! simulator.world(|world| world.taskcluster.denied_scopes.push("secrets:set:*".to_owned()));
//! # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
//! # runtime.block_on(async {
//! let secrets = taskcluster_api::Secrets::new(client);
//! let secret = secrets.get("project/x").await?;
//! assert_eq!(secret.secret["key"], "value");
//! assert_eq!(secrets.set("project/x", &secret).await.unwrap_err().status(), Some(403));
//! # Ok::<(), taskcluster_api::ApiError>(())
//! # })?;
//! // What was asked, and what a real deployment would not have taken.
//! assert_eq!(simulator.count("GET /api/secrets/v1/secret/project%2Fx"), 3);
//! assert!(simulator.world(|world| world.taskcluster.violations.is_empty()));
//! # Ok(())
//! # }
//! ```
//!
//! It is not published: name it as a development dependency by git (`simulator = { git = "…" }` with this repository's
//! URL), or install the program with `cargo install --path crates/simulator`. `simulator serve` does the same as a
//! program. Signatures (header and bewit, with temporary credentials and
//! authorized scopes), scopes, payloads and queries are checked; answers and refusals are those that the schemas and
//! the services' own code describe (`tests/all/` compares them with the schemas). Not simulated: clouds that
//! make workers by themselves, the queue but for what `listWorkers` shows of it, and e-mail.

pub mod boot;
pub mod cloud;
pub mod fault;
pub mod herd;
pub mod machine;
pub mod record;
pub mod serve;
pub mod server;
pub mod taskcluster;
#[cfg(windows)]
pub mod windows;
pub mod worker;

pub use cloud::{Cloud, CloudKind};
pub use fault::{Fault, Rule};
pub use record::{Record, sequential_round_trips};
pub use server::{Setup, Simulator};
