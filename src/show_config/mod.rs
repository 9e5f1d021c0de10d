//! `start-worker show-config`: what the worker would be told, and where each value comes from, without asking
//! anybody.

mod yaml;

use crate::boot::layers_of;
use crate::cache::{Cache, Kept};
use crate::cli::{ShowConfigArguments, ShowFormat};
use crate::driver::{self, Driver};
use crate::error::RunError;
use crate::layer::{Layer, Merged, REDACTED, Source};
use crate::platform;
use crate::run_state::{Admitted, Identity};
use crate::runner_config::{self, ProviderConfig, RunnerConfig};
use crate::secrets;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::path::Path;
use taskcluster_api::{Credentials, RootUrl, WorkerPoolId};

/// What stands for a value that only a boot brings.
const LATER: &str = "known-at-boot";

/// Prints the configuration.
///
/// # Errors
/// Where a file can't be read or used.
pub fn show(arguments: &ShowConfigArguments) -> Result<(), RunError> {
    let config = runner_config::load(&arguments.runner_config)?.require()?;
    let driver = driver::build(&config.worker);
    let cached = kept_run(&config, &arguments.runner_config);
    let merged = merge(arguments, &config, &*driver, cached)?;
    let text = match arguments.format {
        ShowFormat::Tree => tree(&merged, arguments.reveal_secrets),
        ShowFormat::Json => format!("{:#}\n", plain(&merged, arguments.reveal_secrets)),
        ShowFormat::Yaml => yaml::document(&plain(&merged, arguments.reveal_secrets)),
    };
    // A reader that went away is no failure of ours.
    let _ = io::stdout().lock().write_all(text.as_bytes());
    Ok(())
}

fn merge(
    arguments: &ShowConfigArguments,
    config: &RunnerConfig,
    driver: &dyn Driver,
    cached: Option<Kept>,
) -> Result<Merged, RunError> {
    let mut admitted = cached.as_ref().map_or_else(|| unregistered(&config.provider), |kept| kept.admitted().clone());
    let mut layers = match (cached, &arguments.registration) {
        // As a boot would go on, but for the secrets that are being tried.
        (Some(Kept::Configured(mut run)), None) => {
            run.layers.retain(|layer| arguments.secret.is_empty() || !matches!(layer.source, Source::Secret(_)));
            run.layers
        }
        (Some(_) | None, registration) => {
            if let Some(path) = registration {
                admitted.worker_config = worker_config_of(path)?;
            }
            layers_of(config, driver, &admitted.worker_config).map_err(RunError::Configuration)?.layers
        }
    };
    for path in &arguments.secret {
        let mut document = read_document(path)?;
        // The answer of the secrets service holds the secret in `secret`.
        if document.get("secret").is_some_and(Value::is_object)
            && let Some(Value::Object(secret)) = document.remove("secret")
        {
            document = secret;
        }
        let source = Source::Secret(path.display().to_string());
        layers.extend(secrets::read(document, source).map_err(RunError::Configuration)?.layers);
    }
    let top: Vec<Layer> = driver.layers(&admitted);
    Ok(Merged::of(layers.iter().chain(&top)))
}

/// A `workerConfig`, or what holds one: the answer to `registerWorker`, or a worker pool's definition.
fn worker_config_of(path: &Path) -> Result<Map<String, Value>, RunError> {
    let document = read_document(path)?;
    let whole = Value::Object(document.clone());
    let places = ["/workerConfig", "/config/workerConfig", "/config/launchConfigs/0/workerConfig"];
    match places.iter().find_map(|place| Some((place, whole.pointer(place)?))) {
        Some((_, Value::Object(found))) => Ok(found.clone()),
        Some((place, _)) => {
            Err(RunError::Document { path: path.to_owned(), problem: format!("{place} must be an object") })
        }
        None => Ok(document),
    }
}

fn read_document(path: &Path) -> Result<Map<String, Value>, RunError> {
    let wrong = |problem: String| RunError::Document { path: path.to_owned(), problem };
    let mut text = String::new();
    let read = platform::open_regular_file(path).and_then(|mut file| file.read_to_string(&mut text));
    read.map_err(|error| wrong(error.to_string()))?;
    runner_config::parse_mapping(&text).map_err(wrong)
}

/// The run of an earlier boot, if the next boot would go on with it as far as that can be told offline.
fn kept_run(config: &RunnerConfig, path: &Path) -> Option<Kept> {
    let mut kept = match Cache::of(config, path).load() {
        Ok(kept) => kept?,
        Err(problem) => {
            tracing::warn!("{problem}: a boot would begin anew");
            return None;
        }
    };
    let cached = &kept.admitted().identity;
    if matches!(kept, Kept::Retiring(_)) {
        tracing::warn!("{cached} is being retired: a boot would start no worker");
        return None;
    }
    let host = match &config.provider {
        ProviderConfig::Static(config) => Some(&config.host),
        ProviderConfig::Standalone(config) => Some(&config.host),
        ProviderConfig::Aws | ProviderConfig::Azure | ProviderConfig::Google => None,
    };
    if host.is_some_and(|host| !host.is(cached)) {
        tracing::warn!("the run kept from an earlier boot belongs to {cached}: a boot would begin anew");
        return None;
    }
    if let ProviderConfig::Standalone(config) = &config.provider {
        kept.admitted_mut().credentials = config.credentials.clone();
    }
    if let Some(expired) = kept.admitted().expired() {
        tracing::warn!("the credentials of the run kept from an earlier boot ended at {expired:.0}");
        return None;
    }
    Some(kept)
}

/// The machine as far as it is known without a boot.
fn unregistered(provider: &ProviderConfig) -> Admitted {
    let later = || Credentials { client_id: LATER.into(), access_token: LATER.into(), certificate: None };
    let (identity, credentials) = match provider {
        ProviderConfig::Static(config) => (config.host.identity(config.provider_id.clone(), "static"), later()),
        ProviderConfig::Standalone(config) => {
            (config.host.identity(placeholder_of(LATER), "standalone"), config.credentials.clone())
        }
        ProviderConfig::Aws | ProviderConfig::Azure | ProviderConfig::Google => (of_cloud(provider.name()), later()),
    };
    Admitted { identity, credentials, lease: None, worker_config: Map::new() }
}

fn of_cloud(cloud: &str) -> Identity {
    let pool: WorkerPoolId = placeholder_of(&format!("{LATER}/{LATER}"));
    let root_url: RootUrl = placeholder_of(&format!("https://{LATER}"));
    Identity {
        root_url,
        provider_id: placeholder_of(LATER),
        worker_pool_id: pool,
        worker_group: placeholder_of(LATER),
        worker_id: placeholder_of(LATER),
        metadata: Map::new(),
        location: BTreeMap::from([("cloud".to_owned(), cloud.to_owned())]),
    }
}

fn placeholder_of<T: std::str::FromStr>(text: &str) -> T {
    match text.parse() {
        Ok(value) => value,
        Err(_) => unreachable!("the placeholder {text} has the shape of what it stands for"),
    }
}

fn plain(merged: &Merged, reveal: bool) -> Value {
    if reveal { merged.to_value() } else { merged.to_redacted_value() }
}

/// A line a leaf, and its source behind it.
fn tree(merged: &Merged, reveal: bool) -> String {
    let mut lines = Vec::new();
    draw(merged, "", 0, reveal, &mut lines);
    let width = lines.iter().map(|(line, _)| line.chars().count()).filter(|width| *width <= 60).max().unwrap_or(0);
    let mut text = String::new();
    for (line, source) in lines {
        let _ = match source {
            Some(source) => writeln!(text, "{line:width$}  # {source}"),
            None => writeln!(text, "{line}"),
        };
    }
    text
}

fn draw(merged: &Merged, label: &str, depth: usize, reveal: bool, lines: &mut Vec<(String, Option<String>)>) {
    let indent = "  ".repeat(depth);
    match merged {
        Merged::Object(members) if members.is_empty() => lines.push((format!("{indent}{label}{{}}"), None)),
        Merged::Array(elements) if elements.is_empty() => lines.push((format!("{indent}{label}[]"), None)),
        Merged::Object(members) => {
            let depth = branch(&indent, label, depth, lines);
            for (key, member) in members {
                draw(member, &format!("{key}: "), depth, reveal, lines);
            }
        }
        Merged::Array(elements) => {
            let depth = branch(&indent, label, depth, lines);
            for element in elements {
                draw(element, "- ", depth, reveal, lines);
            }
        }
        Merged::Leaf { value, source } => {
            let shown = if source.is_secret() && !reveal { REDACTED.to_owned() } else { value.to_string() };
            lines.push((format!("{indent}{label}{shown}"), Some(source.to_string())));
        }
    }
}

/// The line above what is nested; the root has none.
fn branch(indent: &str, label: &str, depth: usize, lines: &mut Vec<(String, Option<String>)>) -> usize {
    if label.is_empty() {
        return depth;
    }
    lines.push((format!("{indent}{}", label.trim_end()), None));
    depth + 1
}
