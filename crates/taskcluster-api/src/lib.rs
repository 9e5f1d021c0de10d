//! Typed clients for Taskcluster's worker-manager and secrets services.
//!
//! One [`Client`] holds the connection pool, the credentials and the clock offset; [`WorkerManager`] and
//! [`Secrets`] are thin views of it with a method a call, named as the API reference names it. Every call has
//! a deadline, a bounded answer and an error that says whether trying again makes sense ([`ApiError::class`]).
//!
//! Nothing here logs, prints or puts into an error the value of a credential, a certificate or a secret.

mod client;
mod credentials;
mod error;
mod ids;
mod secrets;
mod sign;
mod time;
mod tls;
mod worker_manager;

pub mod retry;

pub use client::{Client, NewClientError};
pub use credentials::Credentials;
pub use error::{ApiError, Chain, Decode, ErrorClass, Failure, from_json};
pub use ids::{Identifier, InvalidId, InvalidRootUrl, RootUrl, WorkerPoolId};
pub use retry::RetryPolicy;
pub use secrecy::{ExposeSecret, SecretString};
pub use secrets::{Secret, Secrets};
pub use tls::plain_http_client;
pub use worker_manager::{
    RegisterWorker, Registration, Renewal, ReportWorkerError, ReregisterWorker, ShouldTerminate, WorkerManager,
    WorkerName, WorkerProof,
};
