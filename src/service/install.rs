//! Making the service, and taking it away. Both may be done again.

use super::{Defaults, ServiceError, control, data_folder, event_log, find, log_file, manager, require_ours};
use crate::cli::InstallArguments;
use crate::files;
use crate::platform::{self, Sid, into_io, says};
use crate::preflight;
use crate::provider::metadata_http::MetadataService;
use crate::runner_config::{self, GenericWorkerStart, RunnerConfig, WorkerConfig, line_of};
use std::env;
use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;
use windows_service::service::{
    Service, ServiceAccess, ServiceAction, ServiceActionType, ServiceErrorControl, ServiceFailureActions,
    ServiceFailureResetPeriod, ServiceInfo, ServiceStartType, ServiceState, ServiceType,
};
use windows_service::service_manager::ServiceManagerAccess;
use windows_sys::Win32::Foundation::{ERROR_INVALID_LEVEL, ERROR_SERVICE_MARKED_FOR_DELETE};

/// The pauses before the SCM starts a service again that failed; the last one goes for all that follow.
const RESTARTS: [Duration; 4] =
    [Duration::from_secs(5), Duration::from_secs(30), Duration::from_secs(120), Duration::from_secs(300)];

/// After so long without a failure the first pause is the next one again.
const RESET: Duration = Duration::from_secs(60 * 60);

/// What a machine that shuts down gives us beyond the time that the worker has to end.
const OUR_TIME: Duration = Duration::from_secs(30);

/// Makes the service, or changes it to what the arguments say.
///
/// # Errors
/// Why not; a new service that can't be finished is taken away again.
pub fn install(arguments: &InstallArguments, defaults: &Defaults) -> Result<(), ServiceError> {
    let name = &arguments.service.name;
    check_name(name)?;
    let access = ServiceAccess::CHANGE_CONFIG
        | ServiceAccess::QUERY_CONFIG
        | ServiceAccess::QUERY_STATUS
        | ServiceAccess::START
        | ServiceAccess::DELETE;
    let before = find(name, access, "SERVICE_CHANGE_CONFIG")?;
    before.as_ref().map_or(Ok(()), |service| require_ours(service, name))?;
    let plan = Plan::of(arguments)?;
    let info = plan.service(name, defaults)?;
    let failed = |error| ServiceError::Control {
        action: "installing",
        name: name.clone(),
        right: "SC_MANAGER_CREATE_SERVICE, or SERVICE_CHANGE_CONFIG where it is there already",
        source: into_io(error),
    };
    let is_new = before.is_none();
    let service = match before {
        Some(service) => service.change_config(&info).map_err(failed).map(|()| service)?,
        None => {
            let manager = manager(name, ServiceManagerAccess::CONNECT | ServiceManagerAccess::CREATE_SERVICE)?;
            manager.create_service(&info, access).map_err(failed)?
        }
    };
    let finished = finish(&service, arguments, &plan.config)
        .and_then(|()| event_log::register(name))
        .map_err(|source| failed(windows_service::Error::Winapi(source)))
        // Only now there is an account that is called after the service.
        .and_then(|()| plan.grant());
    if let Err(error) = finished {
        if is_new {
            let _ = service.delete();
        }
        return Err(error);
    }
    let runs = service.query_status().is_ok_and(|status| status.current_state != ServiceState::Stopped);
    plan.tell(arguments, is_new, runs)
}

/// What is to be installed, checked as far as it can be.
struct Plan {
    config: RunnerConfig,
    config_path: PathBuf,
    log_folder: PathBuf,
    program: PathBuf,
    /// Other than `LocalSystem`.
    account: Option<String>,
}

impl Plan {
    fn of(arguments: &InstallArguments) -> Result<Self, ServiceError> {
        let config_path = absolute(arguments.config.clone().unwrap_or_else(|| data_folder().join("runner.yml")))?;
        let log_folder = absolute(arguments.log_folder.clone().unwrap_or_else(|| data_folder().join("logs")))?;
        let program = env::current_exe().map_err(|source| ServiceError::Path {
            action: "finding",
            path: "start-worker.exe".into(),
            source,
        })?;
        for path in [&program, &config_path, &log_folder] {
            if path.to_string_lossy().contains('%') {
                return Err(ServiceError::Percent(path.display().to_string()));
            }
        }
        let account = arguments.user.as_deref().filter(|user| !user.eq_ignore_ascii_case("LocalSystem")).map(qualified);
        if let Some(account) = account.as_deref().filter(|account| !is_made_with_a_service(account)) {
            Sid::of_account(account).map_err(|source| ServiceError::Account { account: account.to_owned(), source })?;
        }
        Ok(Self { config: check(&config_path)?, config_path, log_folder, program, account })
    }

    /// The service as the SCM takes it. Asks for the account's password, where it has one.
    fn service(&self, name: &str, defaults: &Defaults) -> Result<ServiceInfo, ServiceError> {
        Ok(ServiceInfo {
            name: name.into(),
            display_name: format!("Taskcluster worker ({name})").into(),
            service_type: ServiceType::OWN_PROCESS,
            start_type: ServiceStartType::AutoStart,
            error_control: ServiceErrorControl::Normal,
            executable_path: self.program.clone(),
            launch_arguments: launch_arguments(name, &self.config_path, &self.log_folder, defaults),
            dependencies: Vec::new(),
            account_name: Some(self.account.as_deref().unwrap_or("LocalSystem").into()),
            account_password: password_of(self.account.as_deref())?,
        })
    }

    /// What the service's account needs: the config, and to write beside it (a tombstone, what was reported), the cache and
    /// the log. A config that others may read is taken from them: not every account may do that at a boot.
    fn grant(&self) -> Result<(), ServiceError> {
        let folder = platform::folder_of(&self.config_path);
        warn_of_open_folder(folder);
        runner_config::tighten(&self.config_path);
        let failed = |action, path: &Path| {
            let path = path.to_owned();
            move |source| ServiceError::Path { action, path, source }
        };
        log_file::make_folder(&self.log_folder).map_err(failed("making the folder", &self.log_folder))?;
        let Some(account) = &self.account else { return Ok(()) };
        let sid =
            Sid::of_account(account).map_err(|source| ServiceError::Account { account: account.clone(), source })?;
        platform::let_read(&self.config_path, &sid).map_err(failed("letting the account read", &self.config_path))?;
        let cache = self.config.cache_over_restarts.as_deref().map(platform::folder_of);
        for folder in [Some(self.log_folder.as_path()), Some(folder), cache].into_iter().flatten() {
            // A folder of a drive's own is not ours to give.
            if folder.parent().is_some() && folder.is_dir() {
                platform::let_write(folder, &sid).map_err(failed("letting the account write in", folder))?;
            }
        }
        Ok(())
    }

    fn tell(&self, arguments: &InstallArguments, is_new: bool, runs: bool) -> Result<(), ServiceError> {
        let name = &arguments.service.name;
        let what = if is_new { "is installed" } else { "is there already, and is now as asked" };
        let delayed = if arguments.delayed { ", delayed" } else { "" };
        let option = match name.as_str() {
            super::DEFAULT_NAME => String::new(),
            name if name.contains(' ') => format!(" --name \"{name}\""),
            name => format!(" --name {name}"),
        };
        let (config, logs) = (self.config_path.display(), self.log_folder.display());
        let mut out = io::stdout().lock();
        writeln!(out, "the service `{name}` {what}")
            .and_then(|()| writeln!(out, "  runner config  {config}"))
            .and_then(|()| writeln!(out, "  log            {logs}"))
            .and_then(|()| writeln!(out, "  starts         with the machine{delayed}"))
            .and_then(|()| match runs {
                true => writeln!(out, "it runs with what it had until: start-worker service stop{option}"),
                false => Ok(()),
            })
            .and_then(|()| writeln!(out, "next: start-worker service start{option}"))
            .map_err(ServiceError::Output)
    }
}

/// An account that is there with its service only.
fn is_made_with_a_service(account: &str) -> bool {
    account.to_ascii_lowercase().starts_with("nt service\\")
}

/// A service's name is its log's, too, and part of its command.
fn check_name(name: &str) -> Result<(), ServiceError> {
    let problem = match name {
        name if name.trim().is_empty() => Some("it is empty".to_owned()),
        name if name.contains(['/', '\\', '%']) => Some("it holds one of / \\ %".to_owned()),
        name if name.encode_utf16().count() > 200 => Some("it is longer than 200 characters".to_owned()),
        name => files::problem_of_name(name),
    };
    problem.map_or(Ok(()), |problem| Err(ServiceError::Name(name.to_owned(), problem)))
}

/// Whoever may put files beside the config, or in its place, decides what runs as the service's account.
fn warn_of_open_folder(folder: &Path) {
    match platform::who_else_may_change(folder) {
        Ok(None) => {}
        Ok(Some(others)) => tracing::warn!(
            "{others} may change what is in {folder}, and so what runs as the service's account: take that away with `icacls \"{folder}\" /setowner *S-1-5-32-544`, `icacls \"{folder}\" /reset` and `icacls \"{folder}\" /inheritance:r /grant *S-1-5-18:(OI)(CI)F *S-1-5-32-544:(OI)(CI)F`",
            folder = folder.display(),
        ),
        Err(error) => tracing::warn!("cannot ask who may change what is in {}: {error}", folder.display()),
    }
}

/// The name as the SCM takes it: a bare one is this machine's.
fn qualified(account: &str) -> String {
    if account.contains(['\\', '@']) { account.to_owned() } else { format!(r".\{account}") }
}

/// The config without mistakes. What this machine lacks for it is said, and is no reason not to install: it may come.
fn check(path: &Path) -> Result<RunnerConfig, ServiceError> {
    let loaded = runner_config::load(path).map_err(|error| ServiceError::Config(Box::new(error.into())))?;
    for problem in preflight::problems(&loaded) {
        tracing::warn!("{}", line_of(path, &problem));
    }
    let config = loaded.require().map_err(|error| ServiceError::Config(Box::new(error.into())))?;
    if let WorkerConfig::GenericWorker { start: GenericWorkerStart::Service { name, .. }, .. } = &config.worker {
        tracing::warn!(
            "{}: `worker.service` names the service `{name}`: that works, but start-worker needs no wrapper: with `path: C:\\generic-worker\\generic-worker.exe` instead, generic-worker is its child, and `{name}` can be removed",
            path.display()
        );
    }
    Ok(config)
}

fn absolute(path: PathBuf) -> Result<PathBuf, ServiceError> {
    std::path::absolute(&path).map_err(|source| ServiceError::Path { action: "resolving", path, source })
}

/// What the SCM starts us with.
fn launch_arguments(name: &str, config: &Path, log_folder: &Path, defaults: &Defaults) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = Vec::new();
    if let Some(url) = defaults.metadata_service.as_ref().and_then(MetadataService::url) {
        arguments.extend(["--metadata-service".into(), url.as_str().into()]);
    }
    arguments.extend(["service", "run", "--name", name, "--log-folder"].map(OsString::from));
    arguments.extend([log_folder.into(), "--config".into(), config.into()]);
    if let Some(level) = defaults.log_level {
        arguments.extend(["--log-level".into(), level.to_string().into()]);
    }
    arguments
}

/// The account's password, from whoever sits there or from standard input. The system's own accounts have an empty one;
/// those that the system manages have none that could be told.
fn password_of(account: Option<&str>) -> Result<Option<OsString>, ServiceError> {
    let Some(account) = account.filter(|account| !account.to_ascii_lowercase().starts_with("nt authority\\")) else {
        return Ok(Some(OsString::new()));
    };
    if account.ends_with('$') || is_made_with_a_service(account) {
        return Ok(None);
    }
    let failed = |source| ServiceError::Account { account: account.to_owned(), source };
    let password = if io::stdin().is_terminal() {
        rpassword::prompt_password(format!("password of {account}: ")).map_err(failed)?
    } else {
        let mut line = String::new();
        io::stdin().read_line(&mut line).map_err(failed)?;
        line.trim_end_matches(['\r', '\n']).to_owned()
    };
    if password.is_empty() {
        return Err(failed(io::Error::other("no password was given, neither at a prompt nor on standard input")));
    }
    Ok(Some(password.into()))
}

fn finish(service: &Service, arguments: &InstallArguments, config: &RunnerConfig) -> io::Result<()> {
    service.set_description("Turns this machine into a Taskcluster worker and stays beside it").map_err(into_io)?;
    // Of milliseconds there may be so many at most.
    let longest = Duration::from_millis(u32::MAX.into());
    service.set_preshutdown_timeout((config.settings.stop.grace + OUR_TIME).min(longest)).map_err(into_io)?;
    kept("a delayed start", service.set_delayed_auto_start(arguments.delayed))?;
    let actions = RESTARTS.map(|delay| ServiceAction { action_type: ServiceActionType::Restart, delay });
    kept(
        "restarts after a failure",
        service.update_failure_actions(ServiceFailureActions {
            reset_period: ServiceFailureResetPeriod::After(RESET),
            reboot_msg: None,
            command: None,
            actions: Some(actions.to_vec()),
        }),
    )?;
    // A service that ends by itself has failed too, where it says so.
    kept("restarts after an end with an error", service.set_failure_actions_on_non_crash_failures(true))
}

/// Some things are not kept by what only looks like Windows, and a service without them is better than none.
fn kept(what: &str, result: Result<(), windows_service::Error>) -> io::Result<()> {
    match result.map_err(into_io) {
        Err(error) if says(&error, ERROR_INVALID_LEVEL) => {
            tracing::warn!("this system's service control manager knows nothing of {what}: {error}");
            Ok(())
        }
        result => result,
    }
}

/// Stops the service and takes it away. One that is not there is no error.
///
/// # Errors
/// Why not.
pub fn uninstall(name: &str) -> Result<(), ServiceError> {
    let access =
        ServiceAccess::QUERY_STATUS | ServiceAccess::QUERY_CONFIG | ServiceAccess::STOP | ServiceAccess::DELETE;
    let Some(service) = find(name, access, "DELETE")? else {
        return writeln!(io::stdout(), "there is no service `{name}`").map_err(ServiceError::Output);
    };
    require_ours(&service, name)?;
    control::stop_and_wait(&service, name)?;
    match service.delete().map_err(into_io) {
        Ok(()) => {}
        // Somebody else was first.
        Err(error) if says(&error, ERROR_SERVICE_MARKED_FOR_DELETE) => {}
        Err(source) => {
            return Err(ServiceError::Control { action: "deleting", name: name.to_owned(), right: "DELETE", source });
        }
    }
    if let Err(error) = event_log::unregister(name) {
        tracing::warn!("its name stays known to the event log: {error}");
    }
    writeln!(io::stdout(), "the service `{name}` is gone; its log and its runner config are still there")
        .map_err(ServiceError::Output)
}
