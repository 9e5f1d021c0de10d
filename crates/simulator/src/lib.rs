//! A cloud and a Taskcluster on loopback: the metadata services of AWS, Google and Azure, worker-manager and the
//! secrets service, in one process that **checks** what it is sent, fails as its script says, and remembers every
//! request. And a worker that does as its script says.
//!
//! Tests use it as a library; people run it as a program (`simulator boot google`).

pub mod boot;
pub mod cloud;
pub mod fault;
pub mod machine;
pub mod record;
pub mod server;
mod signature;
pub mod taskcluster;
pub mod worker;

pub use cloud::{Cloud, CloudKind};
pub use fault::{Fault, Rule};
pub use record::{Record, sequential_round_trips};
pub use server::{Setup, Simulator};
