//! The crate as its users see it: against a server on loopback, and against Taskcluster's own references.

mod calls;
mod contract;
mod documents;
mod pages;
mod schemas;
mod server;
