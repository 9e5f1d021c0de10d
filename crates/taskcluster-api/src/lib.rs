#![doc = include_str!("../README.md")]
#![deny(missing_docs)]
#![cfg_attr(
    not(test),
    deny(
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        clippy::string_slice,
        clippy::unreachable,
        clippy::unwrap_used
    )
)]

mod answer;
mod client;
mod connect;
mod credentials;
mod environment;
mod error;
mod ids;
mod json_path;
mod open_enum;
mod pages;
mod probes;
mod sign;
mod time;
mod tls;

pub mod endpoint;
pub mod retry;
pub mod secrets;
pub mod worker_manager;

pub use client::{Client, FromEnvironmentError, NewClientError};
pub use connect::TIMELINE;
pub use credentials::{Certificate, Credentials, InvalidCertificate, Temporary, TemporaryError};
pub use environment::{Environment, EnvironmentError};
pub use error::{ApiError, Chain, Decode, ErrorClass, Failure, Refusal, RequestInfo, from_json};
pub use ids::{
    InvalidId, InvalidRootUrl, LaunchConfigId, ProviderId, RootUrl, SlugId, WorkerGroup, WorkerId, WorkerPoolId,
};
pub use pages::{Items, List, Page, PageBody, Pages};
pub use probes::ServiceVersion;
pub use retry::{Repeat, RetryPolicy};
pub use secrecy::{ExposeSecret, SecretString};
pub use secrets::{Secret, Secrets};
pub use tls::plain_http_client;
pub use worker_manager::{
    RegisterWorker, Registration, Renewal, ReportWorkerError, ReregisterWorker, StaticSecret, Worker, WorkerManager,
    WorkerName, WorkerPool, WorkerProof, WorkerState,
};
