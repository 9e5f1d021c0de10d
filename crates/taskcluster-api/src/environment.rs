//! Which deployment and which credentials the environment names, as Taskcluster's own clients have it.

use crate::credentials::{Credentials, InvalidCertificate};
use crate::ids::{InvalidRootUrl, RootUrl};
use std::env::VarError;

/// A deployment and who talks to it.
#[derive(Debug, Clone)]
pub struct Environment {
    /// `TASKCLUSTER_ROOT_URL`: the deployment. Where there is a proxy, it may be missing.
    pub root_url: Option<RootUrl>,
    /// Where calls go: `TASKCLUSTER_PROXY_URL` (a proxy that signs for a task), or else the deployment.
    pub called_url: RootUrl,
    /// `TASKCLUSTER_CLIENT_ID`, `TASKCLUSTER_ACCESS_TOKEN` and, where it is there, `TASKCLUSTER_CERTIFICATE`.
    pub credentials: Option<Credentials>,
}

/// What is wrong with the environment. Names variables, never their values.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvironmentError {
    /// Nothing says where the deployment is.
    #[error("set TASKCLUSTER_ROOT_URL to your deployment's root URL, such as https://taskcluster.example.com")]
    NoRootUrl,
    /// A URL is none.
    #[error("{name}: {problem}")]
    RootUrl {
        /// The variable.
        name: &'static str,
        /// What is wrong.
        problem: InvalidRootUrl,
    },
    /// One of two is there.
    #[error("{there} is set, but {missing} is not: both belong together")]
    Half {
        /// The variable that is there.
        there: &'static str,
        /// The variable that is not.
        missing: &'static str,
    },
    /// The certificate has not the shape of one.
    #[error("TASKCLUSTER_CERTIFICATE: {0}")]
    Certificate(#[from] InvalidCertificate),
    /// A variable is no text.
    #[error("{0} is no valid text")]
    NotText(&'static str),
}

impl Environment {
    /// What the environment says.
    ///
    /// # Errors
    /// Which variable is missing or wrong.
    pub fn read() -> Result<Self, EnvironmentError> {
        Self::of(|name| match std::env::var(name) {
            Ok(value) => Ok(Some(value)),
            Err(VarError::NotPresent) => Ok(None),
            Err(VarError::NotUnicode(_)) => Err(EnvironmentError::NotText(name)),
        })
    }

    /// What these variables say; an empty one is none.
    ///
    /// # Errors
    /// Which variable is missing or wrong.
    pub fn of(
        lookup: impl Fn(&'static str) -> Result<Option<String>, EnvironmentError>,
    ) -> Result<Self, EnvironmentError> {
        let variable = |name| lookup(name).map(|value| value.filter(|value| !value.is_empty()));
        let url = |name| {
            let url = variable(name)?.map(|url| url.parse::<RootUrl>()).transpose();
            url.map_err(|problem| EnvironmentError::RootUrl { name, problem })
        };
        let (proxy_url, root_url) = (url("TASKCLUSTER_PROXY_URL")?, url("TASKCLUSTER_ROOT_URL")?);
        let called_url = proxy_url.or_else(|| root_url.clone()).ok_or(EnvironmentError::NoRootUrl)?;
        let (id, token) = ("TASKCLUSTER_CLIENT_ID", "TASKCLUSTER_ACCESS_TOKEN");
        let credentials = match (variable(id)?, variable(token)?) {
            (Some(id), Some(token)) => {
                let certificate = variable("TASKCLUSTER_CERTIFICATE")?.unwrap_or_default();
                Some(Credentials::new(id, token).with_certificate(certificate)?)
            }
            (Some(_), None) => return Err(EnvironmentError::Half { there: id, missing: token }),
            (None, Some(_)) => return Err(EnvironmentError::Half { there: token, missing: id }),
            (None, None) => None,
        };
        Ok(Self { root_url, called_url, credentials })
    }
}

/// Whether somebody chose whose certificates are believed.
pub(crate) fn names_authorities() -> bool {
    ["SSL_CERT_FILE", "SSL_CERT_DIR"].iter().any(|name| std::env::var_os(name).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(variables: &[(&str, &str)]) -> Result<Environment, EnvironmentError> {
        Environment::of(|name| {
            Ok(variables.iter().find(|(other, _)| *other == name).map(|(_, value)| (*value).to_owned()))
        })
    }

    #[test]
    fn the_fields_own_names_are_read() {
        const ROOT: (&str, &str) = ("TASKCLUSTER_ROOT_URL", "https://tc.example.com");
        const ID: (&str, &str) = ("TASKCLUSTER_CLIENT_ID", "me");
        const TOKEN: (&str, &str) = ("TASKCLUSTER_ACCESS_TOKEN", "canary");
        let environment = of(&[ROOT, ID, TOKEN, ("TASKCLUSTER_CERTIFICATE", "")]).unwrap();
        assert_eq!(environment.called_url.as_str(), ROOT.1);
        assert_eq!(environment.credentials.as_ref().unwrap().client_id, "me");
        assert!(!format!("{environment:?}").contains("canary"));
        let environment = of(&[ROOT, ("TASKCLUSTER_PROXY_URL", "http://taskcluster")]).unwrap();
        assert_eq!(environment.called_url.as_str(), "http://taskcluster");
        assert_eq!(environment.root_url.as_ref().map(RootUrl::as_str), Some(ROOT.1));
        assert!(environment.credentials.is_none());
        for (variables, words) in [
            (vec![], "TASKCLUSTER_ROOT_URL"),
            (vec![("TASKCLUSTER_ROOT_URL", "canary")], "TASKCLUSTER_ROOT_URL: "),
            (vec![ROOT, ID], "TASKCLUSTER_ACCESS_TOKEN is not"),
            (vec![ROOT, TOKEN], "TASKCLUSTER_CLIENT_ID is not"),
            (vec![ROOT, ID, TOKEN, ("TASKCLUSTER_CERTIFICATE", "canary")], "TASKCLUSTER_CERTIFICATE: "),
        ] {
            let error = of(&variables).unwrap_err().to_string();
            assert!(error.contains(words) && !error.contains("canary"), "{error}");
        }
    }
}
