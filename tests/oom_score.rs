//! What a worker's out-of-memory score is set back to. Alone in its process: beside a worker every ended child of the process is
//! cleared away, other tests' too.

#![cfg(target_os = "linux")]

#[tokio::test]
async fn fault_13_the_score_that_a_worker_is_set_back_to_reaches_it() {
    use tokio::io::AsyncReadExt;
    use worker_runner::driver::process::{Process, ProcessSpec, WorkerExit};
    let spec = ProcessSpec {
        program: "/bin/sh".into(),
        arguments: ["-c", "read score </proc/self/oom_score_adj; echo $score"].map(Into::into).into(),
        environment: Vec::new(),
        // Raising it needs no right.
        oom_score_adj: Some("777".to_owned()),
        crosses_sessions: false,
    };
    let (mut process, mut streams) = Process::spawn(&spec).unwrap();
    let mut output = String::new();
    streams.output.read_to_string(&mut output).await.unwrap();
    assert_eq!((output.as_str(), process.exited().await), ("777\n", WorkerExit::Code(0)));
}
