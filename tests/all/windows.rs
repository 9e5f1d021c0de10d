//! What only Windows has: services, pipes, jobs, access lists. Services are made in the machine's own service control
//! manager, so this takes an administrator (or Wine).

use crate::support::{Fixture, PATIENCE, Signal, is_private, simulated_worker, start_worker};
use serde_json::{Value, json};
use simulator::{CloudKind, Fault, windows::is_wine};
use std::ffi::OsString;
use std::fs;
use std::os::windows::io::AsRawHandle;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, TryLockError};
use std::time::{Duration, Instant};
use windows_service::service::{
    Service, ServiceAccess, ServiceErrorControl, ServiceExitCode, ServiceInfo, ServiceStartType, ServiceState,
    ServiceType,
};
use windows_service::service_manager::{ServiceManager, ServiceManagerAccess};
use windows_sys::Win32::Foundation::{HANDLE_FLAG_INHERIT, SetHandleInformation};

/// Wine's manager has whoever asks for it first begin the service that is to begin, and be that somebody who is none. So no
/// service is there while a test has such a one ask.
static SERVICES: RwLock<()> = RwLock::new(());

fn with_others() -> RwLockReadGuard<'static, ()> {
    SERVICES.read().unwrap_or_else(PoisonError::into_inner)
}

/// Waits without standing in the way: a test may have two services.
fn without_others() -> RwLockWriteGuard<'static, ()> {
    loop {
        match SERVICES.try_write() {
            Ok(guard) => return guard,
            Err(TryLockError::Poisoned(guard)) => return guard.into_inner(),
            Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// A service of this machine's, for as long as the test runs.
struct WorkerService {
    name: String,
    service: Service,
    _there: RwLockReadGuard<'static, ()>,
}

impl Drop for WorkerService {
    fn drop(&mut self) {
        let _ = self.service.stop();
        let _ = self.service.delete();
    }
}

impl WorkerService {
    /// A service that wraps a worker with this script, as NSSM does; and a machine whose worker it is.
    fn on(fixture: &mut Fixture, script: &Value, options: &[&str]) -> Self {
        let there = with_others();
        let name = format!("worker-{:016x}", fastrand::u64(..));
        let pipe = pipe_of(&name);
        let file = fixture.path("worker-script.json");
        fs::write(&file, script.to_string()).unwrap();
        fixture.machine.config["worker"] = json!({
            "implementation": "generic-worker", "service": name, "protocolPipe": pipe,
            "configPath": fixture.machine.worker_config(),
        });
        let mut arguments: Vec<OsString> = ["worker-service", "--name", &name, "--script"].map(OsString::from).into();
        arguments.extend([file.into(), "--config".into(), fixture.machine.worker_config().into()]);
        if !options.contains(&"--no-pipe") {
            arguments.extend(["--pipe".into(), pipe.into()]);
        }
        arguments.extend(options.iter().filter(|option| **option != "--no-pipe").map(OsString::from));
        let manager = ServiceManagerAccess::CONNECT | ServiceManagerAccess::CREATE_SERVICE;
        let manager = ServiceManager::local_computer(None::<&str>, manager).unwrap();
        let info = ServiceInfo {
            name: (&name).into(),
            display_name: (&name).into(),
            service_type: ServiceType::OWN_PROCESS,
            start_type: ServiceStartType::OnDemand,
            error_control: ServiceErrorControl::Normal,
            executable_path: simulated_worker(),
            launch_arguments: arguments,
            dependencies: Vec::new(),
            account_name: None,
            account_password: None,
        };
        let service = manager.create_service(&info, ServiceAccess::ALL_ACCESS).unwrap();
        Self { name, service, _there: there }
    }

    /// The service is left as it was found.
    fn assert_stopped(&self) {
        until("the service stops", || self.service.query_status().unwrap().current_state == ServiceState::Stopped);
        assert_eq!(self.service.query_config().unwrap().start_type, ServiceStartType::OnDemand);
    }
}

fn pipe_of(name: &str) -> String {
    format!(r"\\.\pipe\{name}")
}

fn until(what: &str, mut reached: impl FnMut() -> bool) {
    let began = Instant::now();
    while !reached() {
        assert!(began.elapsed() < PATIENCE, "never: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn fault_20_a_service_finds_its_pipes_speaks_over_them_is_renewed_told_to_stop_and_its_exit_code_is_ours() {
    let mut fixture = Fixture::new(CloudKind::Static);
    let saved = fixture.path("saved");
    let script = json!(["hello", {"print": "said over the pipe"}, {"log": {"textPayload": "a record"}},
        {"saveCredentials": saved}, {"await": "graceful-termination"}, {"exit": 71}]);
    fixture.simulator.world(|world| world.taskcluster.credentials_life = Duration::from_secs(31));
    let service = WorkerService::on(&mut fixture, &script, &[]);
    let mut running = fixture.start();
    running.wait_for("saved new credentials");
    running.signal(Signal::SIGTERM);
    let finished = running.finish();
    finished.assert_code(71).assert_logged("said over the pipe").assert_logged("a record");
    finished.assert_logged("received graceful-termination finish-tasks=false");
    assert_eq!(fixture.worker_config()["workerId"], json!("machine-1"));
    assert!(is_private(&fixture.machine.worker_config()));
    service.assert_stopped();
}

#[test]
fn a_service_workers_reboot_goes_on_with_the_run() {
    let mut fixture = Fixture::with_cache(CloudKind::Google);
    let service = WorkerService::on(&mut fixture, &json!(["hello", {"exit": 67}]), &[]);
    for _ in 0..2 {
        fixture
            .boot()
            .assert_code(67)
            .assert_logged("the worker wants a reboot")
            .assert_logged("rebooting this machine");
        service.assert_stopped();
    }
    assert_eq!(fixture.simulator.world(|world| world.taskcluster.registrations), 1);
}

#[test]
fn fault_20_a_service_that_ends_before_it_connects_is_an_error_at_once() {
    let mut fixture = Fixture::new(CloudKind::Google);
    let service = WorkerService::on(&mut fixture, &json!([{"exit": 7}]), &["--no-pipe"]);
    let finished = fixture.boot();
    finished.assert_code(19).assert_logged("ended before its worker had connected").assert_logged("exit code 7");
    // As every worker that cannot be started: reported, and the machine goes.
    assert_eq!(fixture.simulator.world(|world| world.taskcluster.reports.len()), 1);
    assert_eq!(fixture.simulator.world(|world| world.taskcluster.removals), 1);
    service.assert_stopped();
}

#[test]
fn fault_20_a_service_that_never_connects_is_an_error_after_a_while_and_is_stopped() {
    let mut fixture = Fixture::new(CloudKind::Static);
    let service = WorkerService::on(&mut fixture, &json!(["hang"]), &["--no-pipe"]);
    fixture.machine.config["protocol"] = json!({"helloTimeout": "1s"});
    let finished = fixture.boot();
    finished.assert_code(19).assert_logged("has not connected to").assert_logged("within 1 s");
    service.assert_stopped();
}

#[test]
fn a_stop_while_a_service_is_waited_for_stops_it() {
    let mut fixture = Fixture::new(CloudKind::Google);
    let service = WorkerService::on(&mut fixture, &json!(["hang"]), &["--no-pipe"]);
    let mut running = fixture.start();
    running.wait_for("waiting for its worker");
    running.signal(Signal::SIGTERM);
    running.finish().assert_code(143).assert_logged("told to stop before the worker was started");
    service.assert_stopped();
    assert_eq!(fixture.simulator.world(|world| world.taskcluster.removals), 0);
}

#[test]
fn a_wrapper_may_say_that_it_runs_after_its_worker_has_connected() {
    let mut fixture = Fixture::new(CloudKind::Static);
    let script = json!(["hello", {"print": "early"}, {"sleep": 1500}, {"exit": 0}]);
    let service = WorkerService::on(&mut fixture, &script, &["--start-takes", "1000"]);
    fixture.boot().assert_code(0).assert_logged("early").assert_not_logged("turned away");
    service.assert_stopped();
}

#[test]
fn a_stop_while_a_service_is_still_starting_stops_it_too() {
    let mut fixture = Fixture::new(CloudKind::Static);
    let service = WorkerService::on(&mut fixture, &json!(["hang"]), &["--no-pipe", "--start-takes", "1000"]);
    let mut running = fixture.start();
    running.wait_for("waiting for its worker");
    running.signal(Signal::SIGTERM);
    running.finish().assert_code(143).assert_logged("stopping the service");
    service.assert_stopped();
}

#[test]
fn what_a_worker_starts_in_other_sessions_ends_with_it_too() {
    use worker_runner::driver::process::{Process, ProcessSpec, WorkerExit};
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        for kill in [false, true] {
            let script =
                if kill { r#"[{"leaveBehind": "loud"}, "hang"]"# } else { r#"[{"leaveBehind": "loud"}, {"exit": 5}]"# };
            let spec = ProcessSpec {
                program: simulated_worker(),
                arguments: ["run", "--config", "c", "--with-worker-runner"].map(Into::into).into(),
                environment: vec![("SIMULATED_WORKER_SCRIPT".into(), script.into())],
                oom_score_adj: None,
                crosses_sessions: true,
            };
            let (mut process, mut streams) = Process::spawn(&spec).unwrap();
            let mut line = [0; 64];
            let read = tokio::io::AsyncReadExt::read(&mut streams.output, &mut line).await.unwrap();
            let said = String::from_utf8_lossy(&line[..read]).into_owned();
            let left: u32 = said.split(' ').nth(1).unwrap().parse().unwrap();
            if kill {
                process.kill();
            }
            assert_eq!(process.exited().await, WorkerExit::Code(if kill { 137 } else { 5 }));
            process.end_descendants(false).await;
            assert_gone(left);
        }
    });
}

#[test]
fn a_worker_that_ignores_a_stop_has_all_its_time_and_a_second_stop_ends_it() {
    let mut fixture = Fixture::new(CloudKind::Static).script(json!(["hello", "hang"]));
    fixture.machine.config["stop"] = json!({"grace": "1s"});
    let mut running = fixture.start();
    running.wait_for("said hello");
    running.signal(Signal::SIGTERM);
    running.finish().assert_code(137).assert_logged("killing the worker");
    fixture.machine.config["stop"] = json!({"grace": "1h"});
    let mut running = fixture.start();
    running.wait_for("said hello");
    running.signal(Signal::SIGTERM);
    running.wait_for("told to stop: asking");
    running.signal(Signal::SIGTERM);
    running.finish().assert_code(137).assert_logged("told to stop again");
}

#[test]
fn an_archive_with_names_that_windows_reads_otherwise_is_refused_and_others_are_unpacked() {
    use base64::Engine;
    for (name, refused) in [("folder/NUL.txt", true), ("a:b", true), ("x./y", true), ("folder/plain.txt", false)] {
        let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
        zip.start_file(name, zip::write::SimpleFileOptions::default()).unwrap();
        std::io::Write::write_all(&mut zip, b"content").unwrap();
        let content = base64::engine::general_purpose::STANDARD.encode(zip.finish().unwrap().into_inner());
        let fixture = Fixture::new(CloudKind::Static);
        let target = fixture.path("target");
        let spec =
            json!({"description": "d", "path": target, "content": content, "encoding": "base64", "format": "zip"});
        fixture.simulator.world(|world| {
            world.taskcluster.worker_config = json!({"genericWorker": {"files": [spec]}});
        });
        let finished = fixture.boot();
        finished.assert_code(if refused { 17 } else { 0 });
        if refused {
            finished.assert_logged(&format!("its entry {name:?} cannot be used"));
        } else {
            assert_eq!(fs::read(target.join("folder").join("plain.txt")).unwrap(), b"content");
        }
    }
}

#[test]
fn what_an_archive_adds_to_a_folder_has_that_folders_access() {
    use base64::Engine;
    let fixture = Fixture::new(CloudKind::Static);
    let target = fixture.path("target");
    fs::create_dir(&target).unwrap();
    worker_runner::platform::make_private_folder(&target.join("private")).unwrap();
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for name in ["open.txt", "private/in.txt", "private/new/in.txt"] {
        zip.start_file(name, zip::write::SimpleFileOptions::default()).unwrap();
        std::io::Write::write_all(&mut zip, b"content").unwrap();
    }
    let content = base64::engine::general_purpose::STANDARD.encode(zip.finish().unwrap().into_inner());
    let spec = json!({"description": "d", "path": target, "content": content, "encoding": "base64", "format": "zip"});
    fixture.simulator.world(|world| world.taskcluster.worker_config = json!({"genericWorker": {"files": [spec]}}));
    fixture.boot().assert_code(0).assert_not_logged("the access of its folder");
    assert!(!is_private(&target.join("open.txt")), "anybody may read it, as anything here");
    for name in ["in.txt", "new/in.txt"] {
        // Wine passes a folder's access on to what is made in it, and not to what is there.
        assert!(is_private(&target.join("private").join(name)) || (is_wine() && name != "in.txt"), "{name}");
        assert_eq!(fs::read_to_string(target.join("private").join(name)).unwrap(), "content");
    }
}

#[test]
fn a_service_that_runs_already_is_stopped_first() {
    let mut fixture = Fixture::new(CloudKind::Static);
    let script = json!(["hello", {"print": "anew"}, {"exit": 0}]);
    // A worker that began before there are pipes would end at once, and its service with it.
    let begin = fixture.path("begin");
    let service = WorkerService::on(&mut fixture, &script, &["--after", begin.to_str().unwrap()]);
    service.service.start::<&str>(&[]).unwrap();
    let mut running = fixture.start();
    running.wait_for("runs already: stopping it first");
    running.wait_for("waiting for its worker");
    fs::write(begin, "").unwrap();
    running.finish().assert_code(0).assert_logged("anew");
    service.assert_stopped();
}

#[test]
fn nobody_but_the_service_gets_at_its_pipes() {
    let mut fixture = Fixture::new(CloudKind::Static);
    let script = json!(["hello", {"print": "the right one"}, {"exit": 0}]);
    let begin = fixture.path("begin");
    let service = WorkerService::on(&mut fixture, &script, &["--after", begin.to_str().unwrap()]);
    let mut running = fixture.start();
    running.wait_for("waiting for its worker");
    let pipe = format!("{}-input", pipe_of(&service.name));
    let mut intruder = fs::OpenOptions::new().write(true).open(&pipe).unwrap();
    // It may be turned away first.
    let _ = std::io::Write::write_all(&mut intruder, b"~{\"type\":\"shutdown\"}\nthe wrong one\n");
    running.wait_for("turned away");
    fs::write(begin, "").unwrap();
    let finished = running.finish();
    finished.assert_code(0).assert_logged("the right one").assert_not_logged("the wrong one");
}

#[test]
fn a_pipe_that_another_process_has_is_an_error_that_names_it() {
    let mut fixture = Fixture::new(CloudKind::Static);
    let service = WorkerService::on(&mut fixture, &json!(["hello", {"exit": 0}]), &[]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _guard = runtime.enter();
    let name = format!("{}-output", pipe_of(&service.name));
    let taken = tokio::net::windows::named_pipe::ServerOptions::new().max_instances(1).create(&name).unwrap();
    fixture.boot().assert_code(19).assert_logged(&format!("cannot make the pipe {name}"));
    drop(taken);
    service.assert_stopped();
}

#[test]
fn pipes_that_break_while_the_service_runs_are_lost_contact() {
    let mut fixture = Fixture::new(CloudKind::Google);
    let service = WorkerService::on(&mut fixture, &json!(["hello", "closeOutput", "hang"]), &[]);
    fixture.machine.config["protocol"] = json!({"outputGrace": "100ms"});
    let finished = fixture.boot();
    finished.assert_logged("output cannot be read: stopping it").assert_logged("contact with the worker was lost");
    finished.assert_logged(&format!("having the service `{}` stopped", service.name));
    service.assert_stopped();
    assert_eq!(fixture.simulator.world(|world| world.taskcluster.removals), 1);
}

#[test]
fn a_service_that_does_not_end_is_stopped_and_then_ended() {
    // Some seconds before its time is over it is stopped, and then it is ended.
    for (options, grace, code) in [(vec![], "20s", 0), (vec!["--stop-takes", "600000"], "10s", 137)] {
        let mut fixture = Fixture::new(CloudKind::Static);
        let service = WorkerService::on(&mut fixture, &json!(["hello", "hang"]), &options);
        fixture.machine.config["stop"] = json!({"grace": grace, "terminateBefore": "10s"});
        let mut running = fixture.start();
        running.wait_for("said hello");
        running.signal(Signal::SIGTERM);
        let finished = running.finish();
        finished.assert_code(code).assert_logged("having the service");
        assert_eq!(finished.log.contains("killing the worker"), code == 137, "{}", finished.log);
        if code == 0 || !is_wine() {
            // Wine's manager doesn't see that the process is gone.
            service.assert_stopped();
        }
    }
}

#[test]
fn a_service_that_is_not_there_is_found_before_the_machine_registers() {
    let mut fixture = Fixture::new(CloudKind::Static);
    fixture.machine.config["worker"] = json!({
        "implementation": "generic-worker", "service": "no-such-service", "configPath": fixture.machine.worker_config(),
    });
    fixture.boot().assert_code(18).assert_logged("there is no service `no-such-service` on this machine");
    assert!(fixture.simulator.records().is_empty());
    let output = Command::new(start_worker()).arg("check").arg(fixture.machine.runner_config()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("worker.service: there is no service `no-such-service`"), "{said}");
}

#[test]
fn whatever_a_worker_leaves_behind_ends_with_its_job() {
    for noise in ["quiet", "loud"] {
        let mut fixture = Fixture::new(CloudKind::Static);
        fixture.machine.script = json!(["hello", {"leaveBehind": noise}, {"exit": 0}]);
        let finished = fixture.boot();
        finished.assert_code(0).assert_logged("behind: ending it");
        assert_gone(left_behind(&finished.log));
        // And with us, however we end.
        fixture.machine.script = json!(["hello", {"leaveBehind": noise}, "hang"]);
        let mut running = fixture.start();
        running.wait_for("behind");
        running.signal(Signal::SIGKILL);
        let log = running.finish().log;
        assert_gone(left_behind(&log));
        let worker = log.split("started the worker (process ").nth(1).unwrap().split(')').next().unwrap();
        assert_gone(worker.parse().unwrap());
    }
}

fn left_behind(log: &str) -> u32 {
    let line = log.lines().find_map(|line| line.split_once(" left ")).unwrap().1;
    line.split(' ').next().unwrap().parse().unwrap()
}

fn assert_gone(process: u32) {
    use windows_sys::Win32::Foundation::{CloseHandle, WAIT_OBJECT_0};
    use windows_sys::Win32::System::Threading::{OpenProcess, PROCESS_SYNCHRONIZE, WaitForSingleObject};
    // SAFETY: takes numbers.
    let handle = unsafe { OpenProcess(PROCESS_SYNCHRONIZE, 0, process) };
    if handle.is_null() {
        return;
    }
    // SAFETY: the handle is open.
    let ended = unsafe { WaitForSingleObject(handle, 60_000) };
    // SAFETY: the handle is open, and used no more.
    unsafe { CloseHandle(handle) };
    assert_eq!(ended, WAIT_OBJECT_0, "process {process} is still there");
}

#[test]
fn a_worker_inherits_its_streams_and_nothing_else() {
    let mut fixture = Fixture::new(CloudKind::Static);
    let file = fs::File::create(fixture.path("inherited")).unwrap();
    let handle = file.as_raw_handle();
    // SAFETY: the handle is open.
    assert_ne!(unsafe { SetHandleInformation(handle, HANDLE_FLAG_INHERIT, HANDLE_FLAG_INHERIT) }, 0);
    fixture.machine.script = json!(["hello", {"handle": handle as usize}, {"exit": 0}]);
    let finished = fixture.boot();
    // A handle of that number may be there, but it isn't that file.
    let line = finished.log.lines().find(|line| line.contains(": handle ") || line.contains(" handle ")).unwrap();
    assert!(!line.contains("inherited"), "{line}");
}

#[test]
fn a_batch_file_is_a_worker_and_an_exit_code_of_32_bits_is_kept() {
    let mut fixture = Fixture::new(CloudKind::Azure);
    fixture.machine.script = json!(["hello", {"print": "in a batch"}, {"exit": 0x4001_0004}]);
    let folder = fixture.path("a folder & more");
    fs::create_dir(&folder).unwrap();
    let batch = folder.join("worker.cmd");
    fs::write(&batch, format!("@\"{}\" %*\r\n", simulated_worker().display())).unwrap();
    fixture.machine.config["worker"]["path"] = json!(batch);
    let finished = fixture.boot();
    finished.assert_code(23).assert_logged("in a batch").assert_logged("exit code 1073807364");
    let reports = fixture.simulator.world(|world| world.taskcluster.reports.clone());
    assert_eq!(reports[0]["extra"]["exitCode"], json!(0x4001_0004));
}

#[test]
fn a_worker_is_found_without_its_extension() {
    let mut fixture = Fixture::new(CloudKind::Static).script(json!(["hello", {"print": "found"}, {"exit": 0}]));
    fixture.machine.config["worker"]["path"] = json!(simulated_worker().with_extension(""));
    fixture.boot().assert_code(0).assert_logged("found");
}

#[test]
fn private_files_are_private_and_a_loose_config_is_tightened() {
    let fixture = Fixture::with_cache(CloudKind::Google).rebooting();
    let mut command = fixture.machine.command().unwrap();
    assert!(!is_private(&fixture.machine.runner_config()), "it has what its folder gives");
    let finished = crate::support::Running::spawn(&mut command).finish();
    finished.assert_logged("it is private now");
    for file in [fixture.machine.runner_config(), fixture.machine.worker_config(), fixture.path("cache.json")] {
        assert!(is_private(&file), "{}", file.display());
    }
    fixture.boot().assert_not_logged("it is private now");
}

#[test]
fn files_of_a_secret_are_private_and_others_as_their_folder() {
    let fixture = Fixture::new(CloudKind::Google);
    let (open, secret) = (fixture.path("open"), fixture.path("secret"));
    let spec = |path: &PathBuf| {
        json!({"description": "d", "path": path, "content": "aGk=", "encoding": "base64", "format": "file", "mode": "0600",
            "owner": std::env::var("USERNAME").unwrap(), "group": "staff"})
    };
    fixture.simulator.world(|world| {
        world.taskcluster.worker_config = json!({"genericWorker": {"files": [spec(&open)]}});
        let name = format!("worker-pool:{}", world.cloud.launch.worker_pool_id);
        world.taskcluster.put_secret(&name, json!({"config": {}, "files": [spec(&secret)]}));
    });
    let mut command = fixture.machine.command().unwrap();
    let finished = crate::support::Running::spawn(command.args(["--log-level", "debug"])).finish();
    finished.assert_code(0).assert_logged("means nothing on Windows");
    assert_eq!((is_private(&open), is_private(&secret)), (false, true));
}

#[test]
fn names_that_windows_reads_otherwise_are_refused() {
    for (path, why) in [
        (r"C:relative", "drive"),
        (r"C:\folder\NUL", "NUL"),
        (r"C:\folder\com1.txt", "com1.txt"),
        (r"C:\folder\file.", "ends with"),
        (r"C:\folder\file ", "ends with"),
        (r"C:\folder\file:stream", "stream"),
        (r"\\server\share\file", "UNC"),
        (r"\\?\C:\file", r"\\?\"),
    ] {
        let fixture = Fixture::new(CloudKind::Static);
        let spec = json!({"description": "d", "path": path, "content": "aGk=", "encoding": "base64", "format": "file"});
        fixture.simulator.world(|world| {
            world.taskcluster.worker_config = json!({"genericWorker": {"files": [spec]}});
        });
        let finished = fixture.boot();
        finished.assert_logged(why).assert_logged("files[0]");
        assert_eq!(finished.code, Some(16), "{path}: {}", finished.log);
    }
}

#[test]
fn paths_of_any_length_will_do() {
    let mut fixture = Fixture::with_cache(CloudKind::Static);
    let deep = ["a", "b", "c"].iter().fold(fixture.path("deep"), |path, letter| path.join(letter.repeat(100)));
    let (file, config, cache) = (deep.join("file"), deep.join("config.json"), deep.join("cache.json"));
    let spec = json!({"description": "d", "path": file, "content": "aGk=", "encoding": "base64", "format": "file"});
    fixture.simulator.world(|world| {
        world.taskcluster.worker_config = json!({"genericWorker": {"files": [spec]}});
    });
    fixture.machine.config["worker"]["configPath"] = json!(config);
    fixture.machine.config["cacheOverRestarts"] = json!(cache);
    fixture.boot().assert_code(0);
    for path in [file, config, cache] {
        assert!(path.as_os_str().len() > 300 && path.is_file(), "{}", path.display());
    }
}

#[test]
fn a_machine_is_shut_down_by_the_system_where_it_cannot_be_removed() {
    if !is_wine() {
        // It would be this one.
        return;
    }
    let mut fixture = Fixture::new(CloudKind::Google);
    fixture.machine.config["retirement"]["removalTimeout"] = json!("200ms");
    fixture.simulator.fault("DELETE", usize::MAX, Fault::error(500, "InternalServerError", "no"));
    fixture.boot().assert_code(0).assert_logged("this machine is shutting down");
}

/// start-worker as a service, for as long as the test runs.
struct RunnerService {
    name: String,
    logs: PathBuf,
    _there: RwLockReadGuard<'static, ()>,
}

impl Drop for RunnerService {
    fn drop(&mut self) {
        let _ = run(&["service", "uninstall", "--name", &self.name]);
    }
}

fn run(arguments: &[&str]) -> Output {
    Command::new(start_worker()).args(arguments).output().unwrap()
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

impl RunnerService {
    /// The machine's runner as a service. Its worker is a batch file, for a service has none of this test's environment.
    fn on(fixture: &mut Fixture, script: &Value) -> Self {
        let name = format!("start-worker-{:016x}", fastrand::u64(..));
        Self::set_script(fixture, script);
        let batch = fixture.path("worker.cmd");
        let file = fixture.path("worker-script.json");
        let text =
            format!("@set SIMULATED_WORKER_SCRIPT=@{}\r\n@\"{}\" %*\r\n", file.display(), simulated_worker().display());
        fs::write(&batch, text).unwrap();
        fixture.machine.config["worker"]["path"] = json!(batch);
        fixture.machine.command().unwrap();
        let service = Self { name, logs: fixture.path("logs"), _there: with_others() };
        let installed = service.install(fixture);
        assert_eq!(installed.status.code(), Some(0), "{}", said(&installed));
        service
    }

    fn set_script(fixture: &Fixture, script: &Value) {
        fs::write(fixture.path("worker-script.json"), script.to_string()).unwrap();
    }

    fn install(&self, fixture: &Fixture) -> Output {
        let metadata = fixture.simulator.url();
        let (config, logs) = (fixture.machine.runner_config(), self.logs.clone());
        run(&[
            "--metadata-service",
            &metadata,
            "service",
            "install",
            "--name",
            &self.name,
            "--config",
            config.to_str().unwrap(),
            "--log-folder",
            logs.to_str().unwrap(),
        ])
    }

    fn command(&self, word: &str) -> String {
        let output = run(&["service", word, "--name", &self.name]);
        assert_eq!(output.status.code(), Some(0), "{word}: {}\n{}", said(&output), self.log());
        said(&output)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.logs.join(format!("{}.log", self.name))).unwrap_or_default()
    }

    fn wait_for(&self, text: &str) {
        let began = Instant::now();
        while !self.log().contains(text) {
            assert!(began.elapsed() < PATIENCE, "the log never held {text:?}:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn exit(&self) -> (ServiceState, ServiceExitCode) {
        let manager = ServiceManager::local_computer(None::<&str>, ServiceManagerAccess::CONNECT).unwrap();
        let status = manager.open_service(&self.name, ServiceAccess::QUERY_STATUS).unwrap().query_status().unwrap();
        (status.current_state, status.exit_code)
    }
}

#[test]
fn the_runner_as_a_service_boots_is_stopped_while_a_task_runs_goes_on_and_retires() {
    let mut fixture = Fixture::with_cache(CloudKind::Google);
    let script = json!(["hello", {"await": "graceful-termination"}, {"sleep": 2500}, {"exit": 71}]);
    let service = RunnerService::on(&mut fixture, &script);
    assert!(service.command("status").contains("has stopped"));
    assert!(service.command("start").contains("runs (process"));
    service.wait_for("said hello");
    assert!(service.command("start").contains("runs already"));
    assert!(service.command("status").contains("runs (process"));
    // Its worker has its time to end, and the machine is not given up for that.
    assert!(service.command("stop").contains("has stopped"));
    service.wait_for("received graceful-termination finish-tasks=false");
    service.wait_for("start-worker ends with 71");
    assert_eq!(service.exit(), (ServiceState::Stopped, ServiceExitCode::NO_ERROR));
    assert!(service.command("stop").contains("has stopped"));
    assert_eq!(fixture.simulator.world(|world| world.taskcluster.removals), 0);
    // The next start goes on with the run, and when that ends by itself the machine goes: so says the exit code, at which
    // the service is started again while the machine is there.
    let done = fixture.path("done");
    RunnerService::set_script(&fixture, &json!(["hello", {"waitFor": done}, {"exit": 0}]));
    service.command("start");
    fs::write(done, "").unwrap();
    service.wait_for("start-worker ends with 0");
    until("it stops", || service.exit() == (ServiceState::Stopped, ServiceExitCode::ServiceSpecific(0)));
    let log = service.log();
    assert!(log.contains("going on with the run of an earlier boot"), "{log}");
    let (registrations, removals) =
        fixture.simulator.world(|world| (world.taskcluster.registrations, world.taskcluster.removals));
    assert_eq!((registrations, removals), (1, 1), "{log}");
}

#[test]
fn a_control_of_its_own_drains_the_service() {
    let mut fixture = Fixture::new(CloudKind::Static);
    let script = json!(["hello", {"await": "graceful-termination"}, {"exit": 72}]);
    let service = RunnerService::on(&mut fixture, &script);
    service.command("start");
    service.wait_for("said hello");
    let manager = ServiceManager::local_computer(None::<&str>, ServiceManagerAccess::CONNECT).unwrap();
    let handle = manager.open_service(&service.name, ServiceAccess::USER_DEFINED_CONTROL).unwrap();
    handle.notify(windows_service::service::UserEventCode::from_raw(128).unwrap()).unwrap();
    service.wait_for("received graceful-termination finish-tasks=true");
    service.wait_for("the worker was drained");
    until("it stops", || service.exit() == (ServiceState::Stopped, ServiceExitCode::NO_ERROR));
}

#[test]
fn a_service_whose_config_is_broken_by_now_ends_with_an_error_that_is_logged() {
    let mut fixture = Fixture::new(CloudKind::Google);
    let service = RunnerService::on(&mut fixture, &json!(["hello"]));
    fs::write(fixture.machine.runner_config(), "provider: [").unwrap();
    // On a machine that is too busy it may take longer to end than anybody waits for it.
    let mut started = run(&["service", "start", "--name", &service.name]);
    until("its end is seen at once", || {
        let seen = started.status.code() == Some(24);
        if !seen {
            started = run(&["service", "start", "--name", &service.name]);
        }
        seen
    });
    assert!(said(&started).contains("it has ended already: exit code 10"), "{}", said(&started));
    service.wait_for("start-worker ends with 10");
    until("it stops", || service.exit() == (ServiceState::Stopped, ServiceExitCode::ServiceSpecific(10)));
}

#[test]
fn a_service_is_installed_and_taken_away_as_often_as_one_likes() {
    let mut fixture = Fixture::new(CloudKind::Static);
    let service = RunnerService::on(&mut fixture, &json!(["hello", {"exit": 0}]));
    let again = service.install(&fixture);
    assert_eq!(again.status.code(), Some(0));
    assert!(said(&again).contains("is there already, and is now as asked"), "{}", said(&again));
    assert!(service.command("status").contains("starts   with the machine"));
    let delayed = run(&[
        "service",
        "install",
        "--name",
        &service.name,
        "--delayed",
        "--config",
        fixture.machine.runner_config().to_str().unwrap(),
        "--log-folder",
        service.logs.to_str().unwrap(),
    ]);
    assert!(said(&delayed).contains("with the machine, delayed"), "{}", said(&delayed));
    assert!(service.command("uninstall").contains("is gone"));
    until("it is gone", || {
        said(&run(&["service", "uninstall", "--name", &service.name])).contains("there is no service")
    });
    for word in ["start", "stop", "status"] {
        let output = run(&["service", word, "--name", &service.name]);
        assert_eq!(output.status.code(), Some(24));
        assert!(said(&output).contains("`start-worker service install` makes one"), "{}", said(&output));
    }
}

#[test]
fn a_service_that_is_somebody_elses_is_left_alone() {
    let mut fixture = Fixture::new(CloudKind::Static);
    let foreign = WorkerService::on(&mut fixture, &json!(["hello"]), &[]);
    fixture.machine.command().unwrap();
    let config = fixture.machine.runner_config();
    let install = ["install", "--config", config.to_str().unwrap()];
    for words in [&install[..], &["uninstall"], &["start"], &["stop"]] {
        let output = run(&[&["service"], words, &["--name", &foreign.name]].concat());
        assert_eq!(output.status.code(), Some(24), "{words:?}: {}", said(&output));
        assert!(said(&output).contains("it is not start-worker's, but runs"), "{words:?}: {}", said(&output));
    }
    let command = foreign.service.query_config().unwrap().executable_path;
    assert!(command.to_string_lossy().contains("worker-service"), "{}", command.display());
}

#[test]
fn names_and_paths_that_a_service_cannot_have_are_refused() {
    let fixture = Fixture::new(CloudKind::Static);
    fixture.machine.command().unwrap();
    let config = fixture.machine.runner_config();
    let config = config.to_str().unwrap();
    for name in ["", " ", "a/b", "a:b", "con", "50%", "a*"] {
        let output = run(&["service", "install", "--config", config, "--name", name]);
        assert_eq!(output.status.code(), Some(24), "{name:?}: {}", said(&output));
        assert!(said(&output).contains("naming the service"), "{name:?}: {}", said(&output));
    }
    let logs = fixture.path("100%logs%");
    let output =
        run(&["service", "install", "--config", config, "--name", "never", "--log-folder", logs.to_str().unwrap()]);
    assert!(said(&output).contains("percent sign"), "{}", said(&output));
    assert!(!logs.exists());
}

#[test]
fn what_is_no_program_is_found_before_the_machine_registers() {
    for (name, content, why) in [("text.exe", "text", "it is no program"), ("50%.cmd", "@exit 0", "no percent signs")] {
        let mut fixture = Fixture::new(CloudKind::Static);
        let path = fixture.path(name);
        fs::write(&path, content).unwrap();
        fixture.machine.config["worker"]["path"] = json!(path);
        fixture.boot().assert_code(18).assert_logged(why);
        assert!(fixture.simulator.records().is_empty());
    }
}

#[test]
fn install_looks_at_the_config_first() {
    let fixture = Fixture::new(CloudKind::Static);
    let path = fixture.path("runner.yml");
    let config = path.to_str().unwrap();
    let install = || run(&["service", "install", "--name", "never-installed", "--config", config]);
    let missing = install();
    assert_eq!(missing.status.code(), Some(10), "{}", said(&missing));
    assert!(said(&missing).contains("runner.yml"), "{}", said(&missing));
    fs::write(&path, "provider: {providerType: static}\n").unwrap();
    let broken = install();
    assert_eq!(broken.status.code(), Some(10), "{}", said(&broken));
    assert_eq!(run(&["service", "status", "--name", "never-installed"]).status.code(), Some(24));
}

#[test]
fn install_says_how_to_do_without_a_wrapper() {
    let mut fixture = Fixture::new(CloudKind::Static);
    let wrapped = WorkerService::on(&mut fixture, &json!(["hello"]), &[]);
    fixture.machine.command().unwrap();
    let name = format!("{}-runner", wrapped.name);
    let service = RunnerService { name, logs: fixture.path("logs"), _there: with_others() };
    let installed = service.install(&fixture);
    assert_eq!(installed.status.code(), Some(0), "{}", said(&installed));
    assert!(said(&installed).contains("start-worker needs no wrapper"), "{}", said(&installed));
}

#[test]
fn the_account_and_its_password_are_asked_for_and_never_an_argument() {
    let mut fixture = Fixture::new(CloudKind::Static);
    let service = RunnerService::on(&mut fixture, &json!(["hello"]));
    let config = fixture.machine.runner_config();
    let with_user = |user: &str| {
        let mut command = Command::new(start_worker());
        command.args(["service", "install", "--name", &service.name, "--user", user, "--config"]).arg(&config);
        command.stdin(std::process::Stdio::null()).output().unwrap()
    };
    let unknown = with_user("nobody-of-this-name");
    assert_eq!(unknown.status.code(), Some(24));
    assert!(said(&unknown).contains("nobody-of-this-name` on this machine"), "{}", said(&unknown));
    let user = std::env::var("USERNAME").unwrap();
    let silent = with_user(&user);
    assert_eq!(silent.status.code(), Some(24));
    assert!(said(&silent).contains("no password was given"), "{}", said(&silent));
    let mut child = Command::new(start_worker())
        .args(["service", "install", "--name", &service.name, "--user", &user, "--config"])
        .arg(&config)
        .args(["--log-folder", service.logs.to_str().unwrap()])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"canary-password\r\n").unwrap();
    let installed = child.wait_with_output().unwrap();
    assert_eq!(installed.status.code(), Some(0), "{}", said(&installed));
    assert!(service.command("status").contains(&format!(r"account  .\{user}")));
    assert!(!said(&installed).contains("canary"));
    // And back.
    assert_eq!(service.install(&fixture).status.code(), Some(0));
    assert!(service.command("status").contains("account  LocalSystem"));
}

#[test]
fn what_the_service_manager_starts_says_so_to_people() {
    let _alone = without_others();
    let output = run(&["service", "run", "--log-folder", r"C:\", "--config", r"C:\runner.yml"]);
    assert_eq!(output.status.code(), Some(3), "{}", said(&output));
    assert!(said(&output).contains("is for the service control manager"), "{}", said(&output));
}
