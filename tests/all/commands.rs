//! The commands other than a boot.

use crate::support::start_worker;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

fn run(arguments: &[&str]) -> Output {
    Command::new(start_worker()).args(arguments).output().unwrap()
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn versions_and_help() {
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(text(&run(&["--version"])), format!("start-worker {version}\n"));
    assert_eq!(text(&run(&["--short-version"])), format!("{version}\n"));
    let help = text(&run(&["--help"]));
    // Windows has a command more.
    assert!(help.lines().count() <= if cfg!(windows) { 25 } else { 24 }, "the help fits one screen:\n{help}");
    assert_eq!(run(&[]).status.code(), Some(3));
    assert_eq!(run(&["--nonsense"]).status.code(), Some(3));
}

#[test]
fn every_example_is_without_mistakes_of_its_own() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let configs: Vec<_> = fs::read_dir(examples)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yml"))
        .collect();
    assert!(configs.len() >= 5, "one for each provider");
    for config in configs {
        let output = run(&["check", "--format", "json", config.to_str().unwrap()]);
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        // The worker need not be installed here, nor its folders be writable.
        let of_the_machine = ["worker.path", "worker.configPath", "cacheOverRestarts"];
        let is_warning_of_all = |problem: &Value| problem["path"] == "" && problem["severity"] == "warning";
        let own: Vec<&Value> = report["problems"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|problem| !of_the_machine.contains(&problem["path"].as_str().unwrap()))
            .filter(|problem| !is_warning_of_all(problem))
            .collect();
        assert!(own.is_empty(), "{}: {own:#?}", config.display());
    }
}

#[test]
fn check_warns_of_what_a_cloud_machine_cannot_do() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("runner.yml");
    let check = |more: &str| {
        let worker = format!(
            "{{implementation: generic-worker, path: {}, configPath: c.json}}",
            std::env::current_exe().unwrap().display()
        );
        let content = format!("provider: {{providerType: aws}}\nworker: {worker}\n{more}");
        fs::write(&config, content).unwrap();
        let output = run(&["check", "--format", "json", config.to_str().unwrap()]);
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        let of = |word: &str| report["problems"].to_string().contains(word);
        (of("wants to reboot is retired instead"), of("a cloud machine is retired when its run is over"))
    };
    assert_eq!(check(""), (true, false));
    assert_eq!(check("restart: always\n"), (true, true));
    assert_eq!(check("cacheOverRestarts: run.json\n"), (false, false));
}

#[test]
fn check_finds_everything_at_once_and_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("runner.yml");
    let content = "provider:\n  providerType: awss\nworker:\n  implementation: generic-worker\n  path: /x\nextra: 1\n";
    fs::write(&config, content).unwrap();
    let before = fs::metadata(&config).unwrap().permissions();
    let output = run(&["check", config.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(10));
    let (errors, name) = (errors(&output), config.display());
    assert!(errors.contains(&format!("{name}:2:17: error: provider.providerType: found `awss`")), "{errors}");
    assert!(
        errors.contains("did you mean `aws`?")
            && errors.contains("worker.configPath")
            && errors.contains("6:1: warning: extra"),
        "{errors}"
    );
    assert!(!errors.contains('\u{1b}'), "no colours where nobody sees them");
    assert_eq!(fs::metadata(&config).unwrap().permissions(), before);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn check_looks_at_the_machine_with_places_in_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("runner.yml");
    let host = "rootURL: 'https://tc.example.com', providerID: p, workerPoolID: p/w, workerGroup: g, workerID: i";
    let secret = "s".repeat(44);
    fs::write(&config, format!("provider: {{providerType: static, {host}, staticSecret: {secret}}}\nworker:\n  implementation: generic-worker\n  path: /not/there\n  configPath: {}/runner.yml/config.json\n", folder.path().display())).unwrap();
    let output = run(&["check", "--format", "json", config.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(10));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let problem = |path: &str| {
        report["problems"]
            .as_array()
            .unwrap()
            .iter()
            .find(|problem| problem["path"] == path)
            .cloned()
            .unwrap_or_default()
    };
    assert_eq!((&problem("worker.path")["line"], &problem("worker.path")["severity"]), (&json!(4), &json!("error")));
    #[cfg(target_os = "linux")]
    assert_eq!(problem("worker.configPath")["line"], json!(5));
}

#[test]
fn files_that_cannot_be_read_say_so() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing.yml");
    for arguments in [vec!["check"], vec!["show-config"], vec![]] {
        let mut arguments: Vec<&str> = arguments;
        arguments.push(missing.to_str().unwrap());
        let output = run(&arguments);
        assert_eq!(output.status.code(), Some(10));
        let errors = errors(&output);
        assert!(errors.contains("missing.yml") && errors.contains("hint:"), "{errors}");
    }
    let output = run(&["check", folder.path().to_str().unwrap()]);
    assert!(errors(&output).contains("regular file") || cfg!(windows), "{}", errors(&output));
}

#[cfg(unix)]
#[test]
fn a_link_or_a_pipe_is_no_runner_config() {
    let folder = tempfile::tempdir().unwrap();
    let (real, link, pipe) =
        (folder.path().join("real.yml"), folder.path().join("link.yml"), folder.path().join("pipe.yml"));
    fs::write(&real, "").unwrap();
    std::os::unix::fs::symlink(&real, &link).unwrap();
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert!(errors(&run(&["check", link.to_str().unwrap()])).contains("symbolic link"));
    assert!(errors(&run(&["check", pipe.to_str().unwrap()])).contains("no regular file"));
}

#[test]
fn show_config_tells_where_each_value_comes_from_and_hides_secrets() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let host = "rootURL: 'https://tc.example.com', workerPoolID: p/w, workerGroup: g, workerID: i";
    fs::write(path("runner.yml"), format!("provider: {{providerType: standalone, {host}, clientID: me, accessToken: canary-token}}\nworker: {{implementation: generic-worker, path: /gw, configPath: /gw.json}}\nworkerConfig: {{a: 1, list: [1]}}\n")).unwrap();
    fs::write(
        path("pool.yml"),
        "config:\n  launchConfigs:\n  - workerConfig: {genericWorker: {config: {b: 2, list: [2]}}}\n",
    )
    .unwrap();
    fs::write(
        path("secret.json"),
        r#"{"secret": {"config": {"key": "canary-secret"}}, "expires": "2999-01-01T00:00:00Z"}"#,
    )
    .unwrap();
    let base =
        ["show-config", &path("runner.yml"), "--registration", &path("pool.yml"), "--secret", &path("secret.json")];
    let tree = text(&run(&base));
    for (line, source) in [
        ("a: 1", "runner config"),
        ("b: 2", "worker pool"),
        ("key: [redacted]", "secret"),
        ("accessToken: [redacted]", "credentials"),
        ("workerId: \"i\"", "start-worker"),
    ] {
        let found = tree.lines().find(|shown| shown.starts_with(line)).unwrap_or_else(|| panic!("{line}:\n{tree}"));
        assert!(found.contains(&format!("# {source}")), "{found}");
    }
    assert!(!tree.contains("canary"), "{tree}");
    let reveal = [&base[..], &["--reveal-secrets", "--format", "json"]].concat();
    let config: Value = serde_json::from_slice(&run(&reveal).stdout).unwrap();
    assert_eq!((&config["key"], &config["accessToken"]), (&json!("canary-secret"), &json!("canary-token")));
    assert_eq!(config["list"], json!([1, 2]));
    let yaml = [&base[..], &["--format", "yaml"]].concat();
    let yaml = text(&run(&yaml));
    assert!(yaml.contains("accessToken: \"[redacted]\""), "{yaml}");
}

#[test]
fn a_metadata_service_elsewhere_is_refused() {
    let output = run(&["--metadata-service", "http://169.254.169.254", "runner.yml"]);
    assert_eq!(output.status.code(), Some(3));
    assert!(errors(&output).contains("loopback"));
}

#[cfg(windows)]
skip! {
    "there are no such links and pipes in its file system": a_link_or_a_pipe_is_no_runner_config;
}
