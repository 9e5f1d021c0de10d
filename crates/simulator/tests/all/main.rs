//! The simulated deployment, as somebody who talks to it sees it, and against Taskcluster's schemas.

#[path = "../../../taskcluster-api/tests/all/schemas.rs"]
#[allow(dead_code)] // its other user needs more
mod schemas;

mod access;
mod contract;
mod state;
