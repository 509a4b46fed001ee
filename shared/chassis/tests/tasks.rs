//! Owned tasks: early ends are named, stopping is bounded, signals and a cut tether stop.

#![allow(clippy::unwrap_used, reason = "what helps a test may fail like a test")]

use std::future::pending;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::anyhow;
use chassis::Tasks;

const DRAIN: Duration = Duration::from_secs(5);

#[tokio::test]
async fn a_task_that_fails_ends_the_service_with_its_name() {
    let mut tasks = Tasks::new();
    let stop = tasks.stop();
    tasks.spawn("presence", async { Err(anyhow!("lost the bus")) });
    tasks.spawn("steps", async move {
        stop.cancelled().await;
        Ok(())
    });
    let error = tasks.run_until(pending(), DRAIN).await.unwrap_err();
    assert_eq!(format!("{error:#}"), "task presence failed: lost the bus");
}

#[tokio::test]
async fn a_task_that_just_ends_ends_the_service_too() {
    let mut tasks = Tasks::new();
    tasks.spawn("accept", async { Ok(()) });
    let error = tasks.run_until(pending(), DRAIN).await.unwrap_err();
    assert!(error.to_string().starts_with("task accept ended"), "{error}");
}

#[tokio::test]
async fn a_panicking_task_ends_the_service_with_its_name() {
    let mut tasks = Tasks::new();
    tasks.spawn("decode", async { panic!("index out of range") });
    let error = tasks.run_until(pending(), DRAIN).await.unwrap_err();
    let text = format!("{error:#}");
    assert!(text.starts_with("task decode failed") && text.contains("index out of"), "{text}");
}

#[tokio::test]
async fn shutdown_lets_tasks_finish() {
    let mut tasks = Tasks::new();
    let stop = tasks.stop();
    let (done, finished) = tokio::sync::oneshot::channel();
    tasks.spawn("steps", async move {
        stop.cancelled().await;
        tokio::task::yield_now().await;
        done.send(()).map_err(|()| anyhow!("the receiver is gone"))
    });
    tasks.run_until(async {}, DRAIN).await.unwrap();
    finished.await.expect("the task ran to its end");
}

#[tokio::test]
async fn a_failure_while_stopping_is_the_result() {
    let mut tasks = Tasks::new();
    let stop = tasks.stop();
    tasks.spawn("store", async move {
        stop.cancelled().await;
        Err(anyhow!("disk full"))
    });
    let error = tasks.run_until(async {}, DRAIN).await.unwrap_err();
    assert_eq!(format!("{error:#}"), "task store failed while stopping: disk full");
}

#[tokio::test(start_paused = true)]
async fn a_task_that_will_not_stop_is_aborted_and_named() {
    struct Dropped(Option<tokio::sync::oneshot::Sender<()>>);
    impl Drop for Dropped {
        fn drop(&mut self) {
            let _ = self.0.take().unwrap().send(());
        }
    }
    let (sender, aborted) = tokio::sync::oneshot::channel();
    let guard = Dropped(Some(sender));
    let mut tasks = Tasks::new();
    tasks.spawn("stuck", async move {
        let _guard = guard;
        pending().await
    });
    let error = tasks.run_until(async {}, Duration::from_millis(20)).await.unwrap_err();
    assert_eq!(error.to_string(), "still running 20 ms after the stop: stuck");
    aborted.await.expect("the task was dropped");
}

/// Runs `examples/service.rs`, tells it to stop, and gives its standard output and exit.
fn run_service(arguments: &[&str], stop: impl FnOnce(&mut std::process::Child)) -> (String, bool) {
    use std::io::{BufRead as _, BufReader, Read as _};
    let tests = std::env::current_exe().unwrap();
    let program = tests.parent().unwrap().parent().unwrap().join("examples/service");
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut said = String::new();
    stdout.read_line(&mut said).unwrap();
    stop(&mut child);
    let status = testbed::wait_for(testbed::PATIENCE, || {
        child.try_wait().unwrap().ok_or("the service still runs".to_owned())
    });
    stdout.read_to_string(&mut said).unwrap();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    (said, status.success())
}

fn kill(signal: &str, child: &std::process::Child) {
    let status = Command::new("sh")
        .args(["-c", &format!("kill -{signal} {}", child.id())])
        .status()
        .unwrap();
    assert!(status.success());
}

#[test]
fn sigterm_and_sigint_stop_a_service_in_order() {
    for signal in ["TERM", "INT"] {
        let (said, success) = run_service(&["--tethered"], |child| kill(signal, child));
        assert!(success, "{said}");
        assert!(said.contains("ready") && said.contains("drained"), "{said}");
        assert!(said.contains(&format!("SIG{signal}")), "{said}");
    }
}

#[test]
fn a_cut_tether_stops_a_service_in_order() {
    let (said, success) = run_service(&["--tethered"], |child| drop(child.stdin.take()));
    assert!(success && said.contains("drained"), "{said}");
    assert!(said.contains("standard input closed"), "{said}");
}

#[test]
fn a_panic_in_any_task_ends_the_process() {
    let (said, success) = run_service(&["--panic"], |child| drop(child.stdin.take()));
    assert!(!success, "{said}");
    assert!(said.contains("a panic ends the process") && said.contains("broken"), "{said}");
    assert!(!said.contains("drained"), "{said}");
}
