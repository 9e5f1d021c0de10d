//! Names that Taskcluster gives a shape, checked when they are made.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use url::Url;

/// The root URL of a Taskcluster deployment, without a slash at its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RootUrl(String);

/// Why a text is no root URL.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a root URL looks like `https://taskcluster.example.com`: {0}")]
pub struct InvalidRootUrl(&'static str);

impl RootUrl {
    /// The URL as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether calls to it are encrypted.
    pub fn is_https(&self) -> bool {
        self.0.starts_with("https:")
    }
}

impl FromStr for RootUrl {
    type Err = InvalidRootUrl;

    fn from_str(text: &str) -> Result<Self, InvalidRootUrl> {
        if text.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return Err(InvalidRootUrl("it may hold no white space"));
        }
        let url = Url::parse(text).map_err(|_| InvalidRootUrl("this is no URL"))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(InvalidRootUrl("its scheme must be http or https"));
        }
        if url.host_str().is_none_or(str::is_empty) {
            return Err(InvalidRootUrl("it names no host"));
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(InvalidRootUrl("it may have no query and no fragment"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(InvalidRootUrl("it may have no user and no password"));
        }
        Ok(Self(url.as_str().trim_end_matches('/').to_owned()))
    }
}

impl TryFrom<String> for RootUrl {
    type Error = InvalidRootUrl;
    fn try_from(text: String) -> Result<Self, InvalidRootUrl> {
        text.parse()
    }
}

impl From<RootUrl> for String {
    fn from(url: RootUrl) -> Self {
        url.0
    }
}

impl fmt::Display for RootUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a text is no id of its kind: says what one looks like.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{expected}")]
pub struct InvalidId {
    expected: &'static str,
}

/// The id of a worker pool: `provisionerId/workerType`.
///
/// The pattern is that of `worker-pool-full.json` in worker-manager's schemas.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct WorkerPoolId {
    text: String,
    slash: usize,
}

impl WorkerPoolId {
    /// What a worker pool id looks like, for messages.
    pub const EXPECTED: &str = "a worker pool id looks like `proj-name/worker-type`: two parts of at most 38 characters, \
        the first of letters, digits, `-` and `_`, the second of lower-case letters, digits and `-`, beginning with a \
        letter and not ending with `-`";

    /// The whole id.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The half before the slash.
    pub fn provisioner_id(&self) -> &str {
        self.text.get(..self.slash).unwrap_or_default()
    }

    /// The half after the slash.
    pub fn worker_type(&self) -> &str {
        self.text.get(self.slash + 1..).unwrap_or_default()
    }
}

impl FromStr for WorkerPoolId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let invalid = || InvalidId { expected: Self::EXPECTED };
        let (provisioner, worker_type) = text.split_once('/').ok_or_else(invalid)?;
        let type_is_valid = (1..=38).contains(&worker_type.len())
            && worker_type.starts_with(|first: char| first.is_ascii_lowercase())
            && !worker_type.ends_with('-')
            && worker_type.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
        if !is_identifier(provisioner) || !type_is_valid {
            return Err(invalid());
        }
        Ok(Self { text: text.to_owned(), slash: provisioner.len() })
    }
}

impl TryFrom<String> for WorkerPoolId {
    type Error = InvalidId;
    fn try_from(text: String) -> Result<Self, InvalidId> {
        text.parse()
    }
}

impl From<WorkerPoolId> for String {
    fn from(id: WorkerPoolId) -> Self {
        id.text
    }
}

impl fmt::Display for WorkerPoolId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// An id that is a text of a certain shape.
macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $expected:expr, $valid:path) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// What it looks like, for messages.
            pub const EXPECTED: &str = $expected;

            /// The id as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                if $valid(text) { Ok(Self(text.to_owned())) } else { Err(InvalidId { expected: Self::EXPECTED }) }
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidId;
            fn try_from(text: String) -> Result<Self, InvalidId> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

/// What an id looks like that is chosen by people or clouds.
const IDENTIFIER: &str = "1 to 38 letters, digits, `-` and `_`";

id! {
    /// The id of a provider in worker-manager's configuration. The pattern is that of `worker-full.json`.
    ProviderId, IDENTIFIER, is_identifier
}
id! {
    /// A worker's group, such as a region or a rack. The pattern is that of `worker-full.json`.
    WorkerGroup, IDENTIFIER, is_identifier
}
id! {
    /// A worker's id within its group. The pattern is that of `worker-full.json`.
    WorkerId, IDENTIFIER, is_identifier
}
id! {
    /// The id of a launch configuration within its pool. The pattern is that of `worker-full.json`.
    LaunchConfigId, IDENTIFIER, is_identifier
}
id! {
    /// The id of a task or an error: a random UUID as 22 characters. The pattern is that of `task-run.json`.
    SlugId, "22 letters, digits, `-` and `_` that are a random UUID", is_slug_id
}

/// Base64 over the 16 bytes of a version 4 UUID.
fn is_slug_id(text: &str) -> bool {
    use base64::Engine;
    let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(text).unwrap_or_default();
    let uuid: Option<[u8; 16]> = bytes.try_into().ok();
    uuid.is_some_and(|[.., sixth, _, eighth, _, _, _, _, _, _, _]| sixth >> 4 == 4 && eighth >> 6 == 2)
}

fn is_identifier(text: &str) -> bool {
    (1..=38).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
}

#[cfg(test)]
mod tests {
    use super::{RootUrl, SlugId, WorkerGroup, WorkerPoolId};

    #[test]
    fn root_urls_lose_their_slash_and_must_be_http() {
        assert_eq!("https://tc.example.com/".parse::<RootUrl>().unwrap().as_str(), "https://tc.example.com");
        assert_eq!("HTTPS://TC.example.com".parse::<RootUrl>().unwrap().as_str(), "https://tc.example.com");
        for bad in [
            "",
            "tc.example.com",
            "ftp://tc.example.com",
            " https://tc",
            "https://tc\n",
            "https://",
            "https://tc/?q",
            "https://u:p@tc",
        ] {
            assert!(bad.parse::<RootUrl>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_worker_pool_id_has_two_halves() {
        let id: WorkerPoolId = "proj_A-1/ci-linux".parse().unwrap();
        assert_eq!((id.provisioner_id(), id.worker_type()), ("proj_A-1", "ci-linux"));
        let long = format!("p/{}", "a".repeat(39));
        for bad in ["", "p", "p/", "/w", "p/w/x", "p/W", "p/1w", "p/w-", "p q/w", &long] {
            assert!(bad.parse::<WorkerPoolId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn other_ids_have_their_pattern() {
        assert!("us-west_2A".parse::<WorkerGroup>().is_ok());
        for bad in ["", "a b", "a/b", "ä", &"a".repeat(39)] {
            assert!(bad.parse::<WorkerGroup>().is_err(), "{bad}");
        }
        assert!("fN1SbArXTPSVFNUvaOlinQ".parse::<SlugId>().is_ok());
        for bad in ["", "fN1SbArXTPSVFNUvaOlin", "fN1SbArXXPSVFNUvaOlinQ", "fN1SbArXTPxVFNUvaOlinR"] {
            assert!(bad.parse::<SlugId>().is_err(), "{bad}");
        }
    }
}
