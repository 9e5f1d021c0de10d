//! Providers: what makes and watches over workers.

use crate::open_enum::open_enum;
use crate::pages::page_body;
use serde::{Deserialize, Serialize};

/// A provider of the deployment, in `listProviders`. Schema: `provider-list.json`, which sets no pattern for its id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Provider {
    /// Its id.
    pub provider_id: String,
    /// What kind it is.
    pub provider_type: ProviderType,
}

open_enum! {
    /// What kind a provider is.
    ProviderType {
        /// Machines of Amazon's EC2.
        Aws = "aws",
        /// Machines of Microsoft's Azure.
        Azure = "azure",
        /// Machines of Google's Compute Engine.
        Google = "google",
        /// Machines that are made known by `createWorker`.
        Static = "static",
        /// No machines: for pools that are being deleted.
        Null = "null",
        /// For worker-manager's own tests.
        Testing = "testing",
    }
}

page_body! {
    /// What `listProviders` answers.
    ProviderList, providers: Provider, "providers"
}
