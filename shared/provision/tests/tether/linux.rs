//! Owners that are killed, stopped or gone, with `/proc` as the witness.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use procfs::process::Process;
use provision::{Tethered, tether};

/// Says its process id, then sleeps under that id.
const SLEEPER: [&str; 3] = ["sh", "-c", "echo $$; exec sleep 300"];
/// The same, but deaf to SIGTERM.
const DEAF: [&str; 3] = ["sh", "-c", "trap '' TERM; echo $$; while :; do sleep 0.05; done"];

fn is_alive(pid: i32) -> bool {
    // A process that is not reaped yet is in state Z; it is not alive.
    let stat = Process::new(pid).and_then(|process| process.stat());
    stat.is_ok_and(|stat| stat.state != 'Z')
}

fn assert_gone(pid: i32) {
    testbed::wait_for(testbed::PATIENCE, || {
        if is_alive(pid) { Err(format!("process {pid} outlives its owner")) } else { Ok(()) }
    });
}

fn read_pid(stdout: ChildStdout) -> i32 {
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line).unwrap();
    line.trim().parse().unwrap()
}

fn owner_of(command: [&str; 3]) -> (Child, i32) {
    let tests = std::env::current_exe().unwrap();
    let target: PathBuf = tests.parent().unwrap().parent().unwrap().into();
    let mut owner = Command::new(target.join("examples/tethered"))
        .args(command)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let pid = read_pid(owner.stdout.take().unwrap());
    assert!(is_alive(pid));
    (owner, pid)
}

#[testbed::test]
fn sigkill_of_the_owner_ends_the_child() {
    let (mut owner, pid) = owner_of(SLEEPER);
    owner.kill().unwrap();
    owner.wait().unwrap();
    assert_gone(pid);
}

#[testbed::test]
fn sigkill_of_the_owner_ends_a_child_that_ignores_sigterm() {
    let (mut owner, pid) = owner_of(DEAF);
    owner.kill().unwrap();
    owner.wait().unwrap();
    assert_gone(pid);
}

#[testbed::test]
fn sigkill_of_the_shell_in_between_ends_the_child_where_setpriv_can_do_it() {
    let probe = Command::new("setpriv").args(["--pdeathsig", "KILL", "--", "true"]).status();
    let works = probe.is_ok_and(|status| status.success());
    testbed::require("setpriv", works.then_some(()).ok_or("it does not know --pdeathsig"));
    let patience = Duration::from_secs(1);
    let mut command = Command::new(SLEEPER[0]);
    command.args(&SLEEPER[1..]);
    let mut shell = tether(&command, patience).stdout(Stdio::piped()).spawn().unwrap();
    let pid = read_pid(shell.stdout.take().unwrap());
    shell.kill().unwrap();
    shell.wait().unwrap();
    assert_gone(pid);
}

#[testbed::test]
fn dropping_the_tether_ends_the_child() {
    let patience = Duration::from_secs(1);
    let mut command = Command::new(SLEEPER[0]);
    command.args(&SLEEPER[1..]);
    let mut wrapped = tether(&command, patience);
    wrapped.stdout(Stdio::piped());
    let mut child = wrapped.spawn().unwrap();
    let pid = read_pid(child.stdout.take().unwrap());
    drop(child.stdin.take());
    child.wait().unwrap();
    assert_gone(pid);
}

#[testbed::test]
fn the_childs_own_end_and_environment_come_through() {
    let patience = Duration::from_secs(1);
    let mut command = Command::new("sh");
    command.args(["-c", "exit $CODE"]).env("CODE", "7");
    let mut child = Tethered::spawn(&mut tether(&command, patience), patience).unwrap();
    let status = testbed::wait_for(testbed::PATIENCE, || {
        child.try_wait().unwrap().ok_or("the child still runs".to_owned())
    });
    assert_eq!(status.code(), Some(7));
}
