//! start-worker as a Windows service: made, taken away, started, stopped and looked at by `start-worker service …`, and
//! run by the service control manager (SCM).

mod control;
mod event_log;
mod install;
mod log_file;
mod run;

pub use run::serve;

use crate::cli::ServiceCommand;
use crate::error::{RunError, Stage};
use crate::platform::{into_io, says};
use crate::provider::metadata_http::MetadataService;
use std::io;
use std::path::PathBuf;
use tracing::Level;
use windows_service::service::{Service, ServiceAccess};
use windows_service::service_manager::{ServiceManager, ServiceManagerAccess};
use windows_sys::Win32::Foundation::{
    ERROR_ACCESS_DENIED, ERROR_INVALID_SERVICE_ACCOUNT, ERROR_SERVICE_DISABLED, ERROR_SERVICE_DOES_NOT_EXIST,
    ERROR_SERVICE_LOGON_FAILED, ERROR_SERVICE_MARKED_FOR_DELETE,
};

/// The service's name, where nobody gives another.
pub const DEFAULT_NAME: &str = "start-worker";

/// What goes for every run of the service, from the command that installs it.
#[derive(Debug, Clone, Default)]
pub struct Defaults {
    /// How much to log.
    pub log_level: Option<Level>,
    /// Where a cloud's metadata service is.
    pub metadata_service: Option<MetadataService>,
}

/// The service can't be handled.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// The runner config can't be used.
    #[error(transparent)]
    Config(Box<RunError>),
    /// A path can't be used.
    #[error("{action} {}", path.display())]
    Path {
        /// What was to be done with it.
        action: &'static str,
        /// The path.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The account can't be used.
    #[error("using the account `{account}`")]
    Account {
        /// The account.
        account: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// There is no such service.
    #[error("looking for the service `{0}`: there is none")]
    Missing(String),
    /// The service is somebody else's.
    #[error("looking at the service `{name}`: it is not start-worker's, but runs {command}")]
    Foreign {
        /// The service.
        name: String,
        /// What it runs.
        command: String,
    },
    /// The service can't have that name.
    #[error("naming the service {0:?}: {1}")]
    Name(String, String),
    /// Something that the SCM would read otherwise than it is written.
    #[error("installing the service: {0} holds a percent sign, which the service control manager takes for a variable")]
    Percent(String),
    /// The SCM refuses something.
    #[error("{action} the service `{name}`")]
    Control {
        /// What.
        action: &'static str,
        /// The service.
        name: String,
        /// The right that it takes.
        right: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// It ended as soon as it was started.
    #[error("starting the service `{name}`: it has ended already: {exit}")]
    Ended {
        /// The service.
        name: String,
        /// How.
        exit: String,
    },
    /// It does not get where it should in time.
    #[error("waiting for the service `{name}`: it {what} within {seconds} s")]
    Slow {
        /// The service.
        name: String,
        /// What it does not do.
        what: &'static str,
        /// In which time.
        seconds: u64,
    },
    /// Standard output can't be written.
    #[error("writing to standard output")]
    Output(#[source] io::Error),
}

impl ServiceError {
    /// What to do about it.
    pub fn hint(&self) -> String {
        const ELEVATED: &str = "run this as an administrator, from an elevated prompt";
        let (source, right) = match self {
            Self::Config(error) => return error.hint().to_owned(),
            Self::Missing(_) => return "`start-worker service install` makes one".to_owned(),
            Self::Foreign { .. } => return "is --name right? `sc qc` shows a service".to_owned(),
            Self::Name(..) => {
                return "its log has that name, too: letters, digits, dots, dashes and spaces will do".to_owned();
            }
            Self::Percent(_) => return "put it where no name on the way holds one".to_owned(),
            Self::Ended { .. } | Self::Slow { .. } => {
                return "its log says more (`start-worker service status` says where), and so does the event log"
                    .to_owned();
            }
            Self::Output(_) => return "is its reader still there?".to_owned(),
            Self::Account { .. } => {
                return "name it `.\\name`, `DOMAIN\\name` or `NT AUTHORITY\\LocalService`; its password is asked for on a console, or is the first line of standard input; and it needs the right \"Log on as a service\" (SeServiceLogonRight)".to_owned();
            }
            Self::Path { path, .. } => {
                return format!("may this account read and write {}? {ELEVATED}", path.display());
            }
            Self::Control { source, right, .. } => (source, *right),
        };
        match source.raw_os_error().map(i32::cast_unsigned) {
            Some(ERROR_ACCESS_DENIED) => format!("this account lacks the right {right}: {ELEVATED}"),
            Some(ERROR_SERVICE_LOGON_FAILED) => "is the password right, and has the account the right \"Log on as a service\" (SeServiceLogonRight: secpol.msc, Local Policies, User Rights Assignment)?".to_owned(),
            Some(ERROR_SERVICE_DISABLED) => "its start type is Disabled: `start-worker service install` sets it right".to_owned(),
            Some(ERROR_SERVICE_MARKED_FOR_DELETE) => {
                "it is being deleted, which takes until every window that shows it is closed (services.msc)".to_owned()
            }
            Some(ERROR_INVALID_SERVICE_ACCOUNT) => "is the account's name right? `.\\name`, `DOMAIN\\name`, `NT AUTHORITY\\LocalService`".to_owned(),
            Some(_) | None => "`sc query` and the event log (System) may say more".to_owned(),
        }
    }

    /// The stage, for the exit code.
    pub fn stage(&self) -> Stage {
        match self {
            Self::Config(error) => error.stage(),
            Self::Path { .. }
            | Self::Account { .. }
            | Self::Missing(_)
            | Self::Foreign { .. }
            | Self::Name(..)
            | Self::Percent(_)
            | Self::Control { .. }
            | Self::Ended { .. }
            | Self::Slow { .. }
            | Self::Output(_) => Stage::Service,
        }
    }
}

/// Does what the command says. `run` is not among it: see [`serve`].
///
/// # Errors
/// Why that can't be done.
pub fn command(command: &ServiceCommand, defaults: &Defaults) -> Result<(), ServiceError> {
    match command {
        ServiceCommand::Install(arguments) => install::install(arguments, defaults),
        ServiceCommand::Uninstall(service) => install::uninstall(&service.name),
        ServiceCommand::Start(service) => control::start(&service.name),
        ServiceCommand::Stop(service) => control::stop(&service.name),
        ServiceCommand::Status(service) => control::status(&service.name),
        ServiceCommand::Run(arguments) => {
            serve(&arguments.service.name);
            Ok(())
        }
    }
}

/// The folder for what is all the machine's.
fn data_folder() -> PathBuf {
    PathBuf::from(crate::platform::program_data()).join("start-worker")
}

fn manager(name: &str, access: ServiceManagerAccess) -> Result<ServiceManager, ServiceError> {
    ServiceManager::local_computer(None::<&str>, access).map_err(|error| ServiceError::Control {
        action: "reaching the service control manager for",
        name: name.to_owned(),
        right: if access == ServiceManagerAccess::CONNECT { "SC_MANAGER_CONNECT" } else { "SC_MANAGER_CREATE_SERVICE" },
        source: into_io(error),
    })
}

/// A service, if there is one.
fn find(name: &str, access: ServiceAccess, right: &'static str) -> Result<Option<Service>, ServiceError> {
    match manager(name, ServiceManagerAccess::CONNECT)?.open_service(name, access).map_err(into_io) {
        Ok(service) => Ok(Some(service)),
        Err(error) if says(&error, ERROR_SERVICE_DOES_NOT_EXIST) => Ok(None),
        Err(source) => Err(ServiceError::Control { action: "opening", name: name.to_owned(), right, source }),
    }
}

/// Whether it is one that `install` made: nobody else's is changed, stopped or deleted for a mistake in `--name`.
fn require_ours(service: &Service, name: &str) -> Result<(), ServiceError> {
    let config = service.query_config().map_err(|error| ServiceError::Control {
        action: "looking at",
        name: name.to_owned(),
        right: "SERVICE_QUERY_CONFIG",
        source: into_io(error),
    })?;
    let command = config.executable_path.display().to_string();
    if command.contains(" service run --name ") {
        Ok(())
    } else {
        Err(ServiceError::Foreign { name: name.to_owned(), command })
    }
}

fn require(name: &str, access: ServiceAccess, right: &'static str) -> Result<Service, ServiceError> {
    find(name, access, right)?.ok_or_else(|| ServiceError::Missing(name.to_owned()))
}
