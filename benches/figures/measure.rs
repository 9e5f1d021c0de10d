//! What is measured with: the programs, processes' own clocks, medians.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

/// The programs.
pub struct Programs {
    /// Built as it is released: by itself, without what the simulator asks of their common libraries.
    pub start_worker: PathBuf,
    /// Built in a moment.
    pub simulator: PathBuf,
}

impl Programs {
    pub fn build() -> Self {
        // In a folder of their own, where no other build puts something else in their place.
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("figures");
        for (profile, package) in [("bench", "simulator"), ("release", "worker-runner")] {
            let mut cargo = Command::new(env!("CARGO"));
            cargo.args(["build", "--quiet", "--bins", "--profile", profile, "--package", package]);
            let status = cargo.arg("--target-dir").arg(&folder).status();
            assert!(status.is_ok_and(|status| status.success()), "{package} cannot be built");
        }
        let program = |name: &str| {
            let path = folder.join("release").join(name).with_extension(std::env::consts::EXE_EXTENSION);
            assert!(path.is_file(), "{} was built elsewhere", path.display());
            path
        };
        // As it is installed, by copying it: what a linker has written lies in the system's cache in smaller pieces than what
        // was read from a disk or copied, and is slower to start for that.
        let installed = folder.join("start-worker");
        let _ = fs::remove_file(&installed);
        fs::copy(program("start-worker"), &installed).expect("start-worker cannot be installed");
        Self { start_worker: installed, simulator: program("simulator") }
    }
}

/// The processor time of a process so far, all its threads together, to the nanosecond: `/proc/PID/task/*/schedstat`.
pub fn cpu_time(process: u32) -> Duration {
    let tasks = fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
    let nanoseconds = tasks.filter_map(|task| {
        let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split_ascii_whitespace().next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(nanoseconds.sum())
}

/// How often the threads of a process have waited for something so far: as often they woke up again.
pub fn waits_of(process: u32) -> f64 {
    let tasks = fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
    tasks
        .filter_map(|task| {
            let text = fs::read_to_string(task.path().join("status")).ok()?;
            let line = text.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?;
            line.trim().parse::<f64>().ok()
        })
        .sum()
}

/// A field of `/proc/PID/status`, in its own unit.
pub fn status_of(process: u32, field: &str) -> Option<f64> {
    let text = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

/// What memory is a process's alone, with its share of what it has in common with others, in KiB.
pub fn pss_of(process: u32) -> Option<f64> {
    let text = fs::read_to_string(format!("/proc/{process}/smaps_rollup")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

/// Waits for a process to end and says how much memory it had at most, in MiB. Looked at every millisecond, for the
/// system's own account of an ended process is that of its children, too.
pub fn peak_memory_of(child: &mut Child) -> f64 {
    let mut peak = 0.0_f64;
    while child.try_wait().expect("a child").is_none() {
        peak = peak.max(status_of(child.id(), "VmHWM").unwrap_or(0.0) / 1024.0);
        std::thread::sleep(Duration::from_millis(1));
    }
    peak
}

/// A quarter of them are less.
pub fn lower_quartile(numbers: Vec<f64>) -> f64 {
    above_a_part_of(4, numbers)
}

/// The middle one.
pub fn median(numbers: Vec<f64>) -> f64 {
    above_a_part_of(2, numbers)
}

/// The one than which that part of them (one in so many) is less.
fn above_a_part_of(parts: usize, mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers[numbers.len() / parts]
}

/// Looks until it holds, for two minutes at most.
pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < Duration::from_secs(120), "{what}: not within two minutes");
        std::thread::sleep(Duration::from_millis(1));
    }
}
