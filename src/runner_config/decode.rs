//! The runner config's keys: what each may hold, and what it becomes.

use super::document::{Content, Document, Node, to_map};
use super::problem::Problem;
use super::settings;
use super::table::{Spanned, Table};
use super::{
    GenericWorkerStart, HostConfig, ProviderConfig, RunnerConfig, StandaloneConfig, StaticConfig, WorkerConfig,
};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::PathBuf;
use taskcluster_api::{Credentials, ProviderId, SecretString, WorkerGroup, WorkerId, WorkerPoolId};

/// The pipes' usual name.
const DEFAULT_PROTOCOL_PIPE: &str = r"\\.\pipe\generic-worker";

/// What a static secret looks like (`config-static.json` in worker-manager's schemas).
const STATIC_SECRET_LENGTH: usize = 44;

/// What could be read of a document.
#[derive(Debug, Default)]
pub struct Sections {
    /// All of it, where no part was missing or wrong.
    pub config: Option<RunnerConfig>,
    /// Whether a cloud makes the machine, where that much could be read.
    pub is_cloud: Option<bool>,
    /// The worker, as far as its program is concerned.
    pub program: Option<WorkerConfig>,
    /// Where the worker's configuration is to be written.
    pub config_path: Option<PathBuf>,
    /// The file that carries a run over reboots.
    pub cache_over_restarts: Option<PathBuf>,
}

/// Decodes a document, noting everything that is wrong with it.
pub fn decode(document: &Document, problems: &mut Vec<Problem>) -> Sections {
    for (path, mistake) in &document.mistakes {
        problems.push(Problem::error(mistake.at, path.clone()).note(mistake.problem.clone()));
    }
    let mut sections = decode_root(&document.root, problems).unwrap_or_default();
    Problem::sort(problems);
    sections.config = sections.config.filter(|_| !problems.iter().any(Problem::is_error));
    sections
}

fn decode_root(root: &Node, problems: &mut Vec<Problem>) -> Option<Sections> {
    let mut table = Table::of(root, "", problems)?;
    let mut sections = Sections::default();
    let provider = match table.table(&["provider"]) {
        Some(provider) => decode_provider(provider, &mut sections),
        None => missing_table(&mut table, "provider", "a mapping that names the `providerType`"),
    };
    let worker = match table.table(&["worker"]) {
        Some(worker) => decode_worker(worker, &mut sections),
        None => missing_table(&mut table, "worker", "a mapping that names the `implementation`"),
    };
    let worker_config = object(&mut table, &["workerConfig"]);
    let get_secrets = table.boolean(&["getSecrets"]).unwrap_or(true);
    let cache_over_restarts = cache(&mut table);
    if let Some(mut logging) = table.table(&["logging"]) {
        logging.word(&["implementation"], &[("stdio", ())]);
        logging.finish();
    }
    let settings = settings::decode(&mut table);
    table.finish();
    if let (Some(provider), Some(worker), Some(worker_config)) = (provider, worker, worker_config) {
        let cache_over_restarts = cache_over_restarts.clone();
        let config = RunnerConfig { provider, worker, worker_config, get_secrets, cache_over_restarts, settings };
        sections.config = Some(config);
    }
    Some(Sections { cache_over_restarts, ..sections })
}

/// Notes that a section is missing, unless it is there and was found wrong already.
fn missing_table<T>(table: &mut Table<'_, '_>, name: &'static str, expected: &str) -> Option<T> {
    if table.take(&[name]).is_none() {
        table.missing(&[name], expected);
    }
    None
}

#[derive(Clone, Copy)]
enum ProviderType {
    Aws,
    Azure,
    Google,
    Static,
    Standalone,
}

fn decode_provider(mut table: Table<'_, '_>, sections: &mut Sections) -> Option<ProviderConfig> {
    let names = [
        ("aws", ProviderType::Aws),
        ("azure", ProviderType::Azure),
        ("google", ProviderType::Google),
        ("standalone", ProviderType::Standalone),
        ("static", ProviderType::Static),
    ];
    let provider_type = table.word(&["providerType"], &names)?;
    sections.is_cloud = Some(match provider_type {
        ProviderType::Aws | ProviderType::Azure | ProviderType::Google => true,
        ProviderType::Static | ProviderType::Standalone => false,
    });
    let provider = match provider_type {
        ProviderType::Aws => Some(ProviderConfig::Aws),
        ProviderType::Azure => Some(ProviderConfig::Azure),
        ProviderType::Google => Some(ProviderConfig::Google),
        ProviderType::Static => decode_static(&mut table).map(ProviderConfig::Static),
        ProviderType::Standalone => decode_standalone(&mut table).map(ProviderConfig::Standalone),
    };
    table.finish();
    provider
}

fn decode_static(table: &mut Table<'_, '_>) -> Option<StaticConfig> {
    let host = decode_host(table);
    let provider_id = table.required(&["providerID", "providerId"], ProviderId::EXPECTED);
    let expected = "the secret of this worker's definition in worker-manager";
    let secret = table.required_string(&["staticSecret"], expected);
    if let Some(secret) = &secret {
        let valid = secret.value.len() == STATIC_SECRET_LENGTH
            && secret.value.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
        if !valid {
            let note = format!(
                "worker-manager takes static secrets of {STATIC_SECRET_LENGTH} letters, digits, `-` and `_` only"
            );
            table.note(Problem::warning(secret.at, secret.path.clone()).note(note));
        }
    }
    Some(StaticConfig { host: host?, provider_id: provider_id?, static_secret: secret?.value.into() })
}

fn decode_standalone(table: &mut Table<'_, '_>) -> Option<StandaloneConfig> {
    let host = decode_host(table);
    let client_id = table.required_string(&["clientID", "clientId"], "the id of the worker's Taskcluster client");
    let access_token = table.required_string(&["accessToken"], "the client's access token");
    // Empty is none.
    let certificate = table.string(&["certificate"]).filter(|text| !text.value.is_empty());
    if let Some(certificate) = &certificate
        && serde_json::from_str::<Map<String, Value>>(&certificate.value).is_err()
    {
        let problem = Problem::error(certificate.at, certificate.path.clone());
        table.note(problem.found("something else").expected("a string that holds a JSON object"));
    }
    Some(StandaloneConfig {
        host: host?,
        credentials: Credentials {
            client_id: client_id?.value,
            access_token: SecretString::from(access_token?.value),
            certificate: certificate.map(|certificate| certificate.value.into()),
        },
    })
}

fn decode_host(table: &mut Table<'_, '_>) -> Option<HostConfig> {
    let root_url = table.required(&["rootURL", "rootUrl"], "the http or https URL of the deployment");
    let names = ["workerPoolID", "workerPoolId"];
    let worker_pool_id = table.required(&names, WorkerPoolId::EXPECTED);
    let worker_group = table.required(&["workerGroup"], WorkerGroup::EXPECTED);
    let worker_id = table.required(&["workerID", "workerId"], WorkerId::EXPECTED);
    let provider_metadata = object(table, &["providerMetadata"]);
    let worker_location = strings(table, &["workerLocation"]);
    Some(HostConfig {
        root_url: root_url?,
        worker_pool_id: worker_pool_id?,
        worker_group: worker_group?,
        worker_id: worker_id?,
        provider_metadata: provider_metadata?,
        worker_location: worker_location?,
    })
}

#[derive(Clone, Copy)]
enum Implementation {
    GenericWorker,
    DockerWorker,
    Dummy,
}

fn decode_worker(mut table: Table<'_, '_>, sections: &mut Sections) -> Option<WorkerConfig> {
    let names = [
        ("generic-worker", Implementation::GenericWorker),
        ("docker-worker", Implementation::DockerWorker),
        ("dummy", Implementation::Dummy),
    ];
    let worker = match table.word(&["implementation"], &names)? {
        Implementation::GenericWorker => decode_generic_worker(&mut table, sections),
        Implementation::DockerWorker => {
            let path = table.required_string(&["path"], "docker-worker's folder");
            sections.config_path = config_path(&mut table);
            let config_path = sections.config_path.clone().unwrap_or_default();
            path.map(|path| WorkerConfig::DockerWorker { path: path.value.into(), config_path })
        }
        Implementation::Dummy => Some(WorkerConfig::Dummy),
    };
    table.finish();
    // A worker whose configuration has no place is not whole, but its program can be looked at.
    sections.program.clone_from(&worker);
    worker.filter(|worker| matches!(worker, WorkerConfig::Dummy) || sections.config_path.is_some())
}

fn decode_generic_worker(table: &mut Table<'_, '_>, sections: &mut Sections) -> Option<WorkerConfig> {
    // Empty is not there, as for the Go program: one config may be for several systems.
    let mut given = |key: &'static str| table.string(&[key]).filter(|text| !text.value.is_empty());
    let (path, service, pipe) = (given("path"), given("service"), given("protocolPipe"));
    sections.config_path = config_path(table);
    let start = match (path, service) {
        (Some(path), None) => {
            if let Some(pipe) = pipe {
                table.note(
                    Problem::warning(pipe.at, pipe.path).note("only a worker that is a `service` talks over pipes"),
                );
            }
            GenericWorkerStart::Path(path.value.into())
        }
        (None, Some(service)) => {
            if !cfg!(windows) {
                let note = "a worker can be a service on Windows only; here it takes `path`";
                table.note(Problem::error(service.at, service.path).note(note));
            }
            let protocol_pipe = pipe.map_or_else(|| DEFAULT_PROTOCOL_PIPE.to_owned(), |pipe| pipe.value);
            GenericWorkerStart::Service { name: service.value, protocol_pipe }
        }
        (Some(path), Some(service)) => {
            let note = "`path` is there too: take one of them away";
            table.note(Problem::error(service.at, service.path).note(note));
            GenericWorkerStart::Path(path.value.into())
        }
        (None, None) => {
            table.missing(&["path"], "generic-worker's program (or, on Windows, `service`)");
            return None;
        }
    };
    Some(WorkerConfig::GenericWorker { start, config_path: sections.config_path.clone().unwrap_or_default() })
}

fn config_path(table: &mut Table<'_, '_>) -> Option<PathBuf> {
    Some(table.required_string(&["configPath"], "where the worker's configuration is written")?.value.into())
}

/// `true` is what people write for a switch; the Go program takes it for a file name, and so a machine in the
/// field has its cache there.
fn cache(table: &mut Table<'_, '_>) -> Option<PathBuf> {
    let file: Spanned<String> = table.string(&["cacheOverRestarts"])?;
    match file.value.to_ascii_lowercase().as_str() {
        "true" => {
            // The file is called as the word is written.
            let note = "this is a file name: the run is kept in a file of that name in the working folder; name another file, such as /var/lib/start-worker/cache.json";
            table.note(Problem::warning(file.at, file.path).found(format!("`{}`", file.value)).note(note));
            Some(file.value.into())
        }
        "false" => {
            let note = "this is a file name; taken for a switch, so nothing is kept: leave the key away";
            table.note(Problem::warning(file.at, file.path).found("`false`").note(note));
            None
        }
        "" => None,
        _ => Some(file.value.into()),
    }
}

/// A member that is any mapping; empty where it is absent.
fn object(table: &mut Table<'_, '_>, names: &[&'static str]) -> Option<Map<String, Value>> {
    let Some(entry) = table.take(names) else { return Some(Map::new()) };
    match &entry.node.content {
        Content::Mapping(entries) => Some(to_map(entries)),
        Content::Scalar { .. } | Content::List(_) => {
            let problem = Problem::error(entry.node.at, table.path_of(&entry.key));
            table.note(problem.found(entry.node.describe()).expected("a mapping"));
            None
        }
    }
}

/// A member that maps names to strings; empty where it is absent.
fn strings(table: &mut Table<'_, '_>, names: &[&'static str]) -> Option<BTreeMap<String, String>> {
    let Some(entry) = table.take(names) else { return Some(BTreeMap::new()) };
    let path = table.path_of(&entry.key);
    let Content::Mapping(entries) = &entry.node.content else {
        let problem = Problem::error(entry.node.at, path);
        table.note(problem.found(entry.node.describe()).expected("a mapping of strings"));
        return None;
    };
    let mut map = BTreeMap::new();
    for entry in entries {
        match &entry.node.content {
            Content::Scalar { value: Value::String(text), .. } => {
                map.insert(entry.key.clone(), text.clone());
            }
            Content::Scalar { value: Value::Number(_) | Value::Bool(_), plain: Some(text) } => {
                map.insert(entry.key.clone(), text.to_string());
            }
            Content::Scalar { .. } | Content::List(_) | Content::Mapping(_) => {
                let problem = Problem::error(entry.node.at, format!("{path}.{}", entry.key));
                table.note(problem.found(entry.node.describe()).expected("a string"));
            }
        }
    }
    Some(map)
}

#[cfg(test)]
mod tests {
    use super::super::{ProviderConfig, Reading, line_of, read};
    use super::{Problem, Sections};
    use std::path::Path;

    fn lines(text: &str) -> Vec<String> {
        read(text.as_bytes()).problems.iter().map(|problem| line_of(Path::new("r.yml"), problem)).collect()
    }

    #[test]
    fn every_mistake_is_found_at_once_and_named_with_its_place() {
        let text = "provider:\n  providerType: awss\nworker:\n  implementation: generic-worker\n  path: /usr/bin/gw\n  configpath: /etc/gw.json\ngetSecrets: maybe\nworkerConfg: {}\n";
        assert_eq!(
            lines(text),
            [
                "r.yml:2:17: error: provider.providerType: found `awss`, expected `aws`, `azure`, `google`, `standalone` or `static`; did you mean `aws`?",
                "r.yml:4:3: error: worker.configPath: found nothing, expected where the worker's configuration is written; `configpath` is there: is that a slip of the pen?",
                "r.yml:6:3: warning: worker.configpath: this key is not known and changes nothing; did you mean `configPath`?",
                "r.yml:7:13: error: getSecrets: found a string, expected true or false",
                "r.yml:8:1: warning: workerConfg: this key is not known and changes nothing; did you mean `workerConfig`?",
            ]
        );
    }

    #[test]
    fn a_worker_has_a_path_or_a_service_and_a_service_on_windows_only() {
        let of = |worker: &str| {
            lines(&format!(
                "provider: {{providerType: aws}}\nworker: {{implementation: generic-worker, configPath: c, {worker}}}\n"
            ))
        };
        assert!(of("path: p").is_empty());
        assert!(of("path: p, service: s").iter().any(|line| line.contains("worker.service: `path` is there too")));
        let service = of("service: s, protocolPipe: p");
        assert_eq!(
            service.iter().any(|line| line.contains("a worker can be a service on Windows only")),
            !cfg!(windows)
        );
        assert!(of("user: u")[0].contains("worker.path: found nothing"));
        assert!(of("path: p, protocolPipe: p")[0].contains("warning: worker.protocolPipe"));
    }

    #[test]
    fn both_spellings_are_taken_but_not_both_at_once() {
        let config = |root: &str, pool: &str| {
            format!(
                "provider: {{providerType: standalone, {root}: 'https://tc.example.com/', {pool}: p/w, workerGroup: g, workerId: 7, clientId: c, accessToken: t}}\nworker: {{implementation: dummy}}\n"
            )
        };
        for (root, pool) in [("rootURL", "workerPoolID"), ("rootUrl", "workerPoolId")] {
            let Reading { sections: Sections { config, .. }, problems, .. } = read(config(root, pool).as_bytes());
            assert!(problems.is_empty(), "{problems:?}");
            match config.unwrap().provider {
                ProviderConfig::Standalone(config) => {
                    assert_eq!(config.host.root_url.as_str(), "https://tc.example.com");
                    assert_eq!(config.host.worker_id.as_str(), "7");
                }
                other => panic!("{other:?}"),
            }
        }
        let canary = "provider: {providerType: standalone, rootURL: 'https://u:canary@tc', accessToken:canary: 1}\nworker: {implementation: dummy}\n";
        assert!(
            !super::super::read(canary.as_bytes())
                .problems
                .iter()
                .any(|problem| problem.to_string().contains("canary"))
        );
        let both = config("rootURL: 'https://a.example.com', rootUrl", "workerPoolId");
        assert!(lines(&both)[0].contains("this is `rootURL` again"), "{:?}", lines(&both));
    }

    #[test]
    fn our_booleans_take_the_words_of_both_yamls() {
        for (word, expected) in [("yes", true), ("On", true), ("true", true), ("no", false), ("OFF", false)] {
            let text =
                format!("provider: {{providerType: aws}}\nworker: {{implementation: dummy}}\ngetSecrets: {word}\n");
            assert_eq!(read(text.as_bytes()).sections.config.unwrap().get_secrets, expected, "{word}");
        }
        let text = "provider: {providerType: aws}\nworker: {implementation: dummy}\nworkerConfig: {a: yes}\n";
        assert_eq!(read(text.as_bytes()).sections.config.unwrap().worker_config["a"], "yes");
    }

    #[test]
    fn a_secret_is_never_shown() {
        let text = "provider: {providerType: standalone, rootURL: 'https://tc.example.com', workerPoolID: p/w, workerGroup: g, workerID: i, clientID: c, accessToken: [canary], certificate: canary}\nworker: {implementation: dummy}\n";
        let lines = lines(text);
        assert_eq!(lines.len(), 2);
        assert!(!lines.concat().contains("canary"), "{lines:?}");
        let debug = format!(
            "{:?}",
            read(text.replace("[canary]", "canary").replace("certificate: canary", "").as_bytes()).sections
        );
        assert!(!debug.contains("canary"), "{debug}");
    }

    #[test]
    fn the_file_may_have_a_byte_order_mark_and_crlf_but_not_be_utf_16() {
        let text = "\u{feff}provider:\r\n  providerType: aws\r\nworker:\r\n  implementation: dummy\r\n";
        assert!(read(text.as_bytes()).sections.config.is_some());
        let Reading { sections: Sections { config, .. }, problems, .. } = read(&[0xff, 0xfe, b'p', 0]);
        assert!(config.is_none() && problems[0].to_string().contains("UTF-16"));
        assert!(read(b"a: \xff").problems[0].to_string().contains("no UTF-8"));
        for text in ["", "# nothing\n", "[]", "text"] {
            assert!(read(text.as_bytes()).sections.config.is_none(), "{text:?}");
        }
    }

    proptest::proptest! {
        /// Whatever a file holds: it is a config, or there is a problem to tell of.
        #[test]
        fn any_bytes_are_a_config_or_a_problem(
            bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..100),
            at in 0usize..200,
        ) {
            let good = "provider: {providerType: aws}\nworker: {implementation: dummy}\nworkerConfig: {a: &a [1], b: *a}\n";
            let (before, after) = good.split_at(at % good.len());
            for text in [bytes.clone(), [before.as_bytes(), &bytes, after.as_bytes()].concat()] {
                let reading = read(&text);
                proptest::prop_assert!(reading.sections.config.is_some() || reading.problems.iter().any(Problem::is_error));
            }
        }
    }

    #[test]
    fn cache_over_restarts_may_be_the_word_true() {
        let text = "provider: {providerType: aws}\nworker: {implementation: dummy}\ncacheOverRestarts: true\n";
        let Reading { sections: Sections { config, .. }, problems, .. } = read(text.as_bytes());
        assert_eq!(config.unwrap().cache_over_restarts.as_deref(), Some(Path::new("true")));
        assert!(!problems[0].is_error());
    }
}
