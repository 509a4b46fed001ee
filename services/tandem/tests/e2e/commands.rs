//! The commands around the system: `chat`, `status`, `config`, `doctor`.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::fleet::{status, workers};
use crate::harness::{free_port, shared, tandem, turn};

fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr_of_failure(output: &Output) -> String {
    assert!(!output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[testbed::test]
fn chat_answers_one_question() {
    let _turn = turn();
    let (system, _) = shared();
    let output = tandem()
        .args(["chat", "--url", &system.base, "--max-tokens", "12", "Hello! Who are you?"])
        .output()
        .expect("it runs");
    assert!(!stdout(&output).trim().is_empty());
}

#[testbed::test]
fn chat_remembers_until_it_is_cleared() {
    let _turn = turn();
    let (system, _) = shared();
    let mut chat = tandem()
        .args(["chat", "--url", &system.base, "--max-tokens", "16"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it runs");
    let mut input = chat.stdin.take().expect("stdin is piped");
    input
        .write_all(b"My name is Ada.\nWhat is my name?\n/clear\nHello!\n/help\n/quit\n")
        .expect("read");
    drop(input);
    let said = stdout(&chat.wait_with_output().expect("it ends"));
    let lines: Vec<&str> = said.lines().filter(|line| !line.trim().is_empty()).collect();
    assert!(lines.contains(&"forgotten"), "{said}");
    assert!(lines.len() >= 4, "three answers and one note: {said}");
    assert!(said.contains("/clear") && said.contains("/exit"), "/help lists the commands: {said}");
}

#[testbed::test]
fn chat_without_a_server_says_what_to_do() {
    let output =
        tandem().args(["chat", "--url", "http://127.0.0.1:1", "hi"]).output().expect("it runs");
    let said = stderr_of_failure(&output);
    assert!(said.contains("tandem up") && said.contains("http://127.0.0.1:1"), "{said}");
}

#[testbed::test]
fn status_shows_both_workers_and_the_store() {
    let _turn = turn();
    let (system, _) = shared();
    let status = status(&system.nats_url).expect("an answer");
    let roles: Vec<_> = workers(&status).iter().map(|worker| worker["role"].clone()).collect();
    assert_eq!(roles, ["decode", "prefill"], "{status:#}");
    assert_eq!(status["kvstore"]["caught_up"], true, "{status:#}");
    let text =
        stdout(&tandem().args(["status", "--nats", &system.nats_url]).output().expect("runs"));
    for expected in ["prefill-1", "decode-1", "kvstore", "leaked"] {
        assert!(text.contains(expected), "{text}");
    }
}

#[testbed::test]
fn status_without_nats_names_the_url() {
    let output =
        tandem().args(["status", "--nats", "nats://127.0.0.1:1"]).output().expect("it runs");
    let said = stderr_of_failure(&output);
    assert!(said.contains("nats://127.0.0.1:1"), "{said}");
}

#[testbed::test]
fn config_tells_where_each_value_came_from() {
    let output = tandem()
        .args(["config", "--set", "threads=3"])
        .env("TANDEM_GATEWAY__MAX_INFLIGHT", "77")
        .output()
        .expect("it runs");
    let text = stdout(&output);
    let line = |key: &str| text.lines().find(|line| line.contains(key)).expect(key).to_owned();
    assert!(line("gateway.max_inflight").contains("77"), "{text}");
    assert!(line("gateway.max_inflight").contains("TANDEM_GATEWAY__MAX_INFLIGHT"), "{text}");
    assert!(line("threads").contains('3'), "{text}");
    assert!(line("gateway.listen").contains("default"), "{text}");
}

#[testbed::test]
fn a_mistyped_key_is_refused_with_the_right_one() {
    let output = tandem().args(["config", "--set", "gateway.listn=x"]).output().expect("it runs");
    let said = stderr_of_failure(&output);
    assert!(said.contains("gateway.listn") && said.contains("gateway.listen"), "{said}");
}

#[testbed::test]
fn doctor_names_every_check() {
    let _turn = turn();
    shared();
    let output = tandem().args(["doctor"]).output().expect("it runs");
    let text = stdout(&output);
    for expected in ["python", "nats", "model", "device", "port", "memory"] {
        assert!(text.contains(expected), "{expected}: {text}");
    }
}

#[testbed::test]
fn a_trace_that_cannot_be_shown_says_why() {
    let unused = format!("http://127.0.0.1:{}", free_port());
    for arguments in [&["trace", "chatcmpl-1"][..], &["trace", "--slowest", "3"]] {
        let output =
            tandem().args(arguments).args(["--jaeger", &unused]).output().expect("it runs");
        let said = stderr_of_failure(&output);
        assert!(said.contains(&unused) && said.contains("no Jaeger answers"), "{said}");
    }
    let neither = tandem().arg("trace").output().expect("it runs");
    assert!(stderr_of_failure(&neither).contains("REQUEST"), "what it wants is named");
}

/// Links the command into `folder`, as if it were installed there.
fn install(folder: &Path) -> Command {
    let linked = folder.join("tandem");
    std::fs::hard_link(tandem().get_program(), &linked).expect("the same file system");
    Command::new(linked)
}

#[testbed::test]
fn bench_says_how_to_build_the_program_that_is_missing() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let output = install(folder.path()).args(["bench", "--quick"]).output().expect("it runs");
    let said = stderr_of_failure(&output);
    let missing = folder.path().join("tandem-bench").display().to_string();
    assert!(said.contains(&missing), "{said}");
    assert!(said.contains("cargo build -p tandem-bench"), "{said}");
}

#[testbed::test]
fn bench_starts_the_program_beside_it_with_all_arguments() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    std::os::unix::fs::symlink("/bin/echo", folder.path().join("tandem-bench")).expect("linked");
    let arguments = ["--help", "--path", "--json", "a file.json", "--version"];
    let output = install(folder.path()).arg("bench").args(arguments).output().expect("it runs");
    assert_eq!(stdout(&output), "--help --path --json a file.json --version\n");
}
