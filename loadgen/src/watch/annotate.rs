//! Annotations of a run's timeline: marks, and commands that are run at their time.

use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use traces::units::{Nanos, UnitError};

use crate::send::clock::Clock;

/// Largest number of bytes stored of each output stream of a command.
pub const OUTPUT_BYTES_MAX: usize = 16 << 10;
/// Time that a command has after each signal at the end of the run.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// A planned annotation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    /// Time from the start of the schedule.
    pub at: Nanos,
    /// Text of the mark, or the command.
    pub text: String,
    /// True if the text is a command, to be run with `sh -c`.
    pub command: bool,
}

/// An annotation of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Annotation {
    /// Planned time, from the start of the run.
    pub intended_ns: i64,
    /// Actual time; `None` if the run ended before.
    pub at_ns: Option<i64>,
    /// Text of the mark, or the command.
    pub text: String,
    /// Result of the command, if it was started.
    pub command: Option<Ran>,
}

/// Result of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ran {
    /// End, from the start of the run.
    pub ended_ns: i64,
    /// `exit 0`, `signal 9`, `ended with the run`, or the reason that it could not be started.
    pub status: String,
    /// True if the exit status was 0.
    pub succeeded: bool,
    /// Standard output followed by standard error, each up to its limit.
    pub output: String,
}

/// Parses the values of all `--at TIME COMMAND`, or of all `--mark TIME TEXT`.
pub fn planned(words: &[String], command: bool) -> Result<Vec<Planned>, UnitError> {
    words
        .chunks_exact(2)
        .map(|pair| Ok(Planned { at: pair[0].parse()?, text: pair[1].clone(), command }))
        .collect()
}

impl Planned {
    /// Waits for the time and carries the annotation out. When `ended` becomes true, a command that
    /// still runs is terminated, then killed.
    async fn run(self, clock: Clock, mut ended: watch::Receiver<bool>) -> Annotation {
        let mut annotation =
            Annotation { intended_ns: self.at.0, at_ns: None, text: self.text, command: None };
        let due = Instant::from_std(clock.instant_of(self.at.0));
        tokio::select! {
            biased;
            () = end_of(&mut ended) => return annotation,
            () = tokio::time::sleep_until(due) => annotation.at_ns = Some(clock.now_ns()),
        }
        if self.command {
            let (status, succeeded, output) = execute(&annotation.text, &mut ended).await;
            annotation.command = Some(Ran { ended_ns: clock.now_ns(), status, succeeded, output });
        }
        annotation
    }
}

/// The annotations of a run in progress.
pub struct Annotations {
    tasks: JoinSet<Annotation>,
    ended: watch::Sender<bool>,
}

impl Annotations {
    /// Starts a task for each of `planned`.
    pub fn start(planned: Vec<Planned>, clock: Clock) -> Self {
        let (ended, over) = watch::channel(false);
        let mut tasks = JoinSet::new();
        for planned in planned {
            tasks.spawn(planned.run(clock, over.clone()));
        }
        Self { tasks, ended }
    }

    /// Ends the commands that still run. Returns the annotations by planned time.
    pub async fn end(self) -> Vec<Annotation> {
        self.ended.send_replace(true);
        let mut annotations = self.tasks.join_all().await;
        annotations.sort_by_key(|annotation| annotation.intended_ns);
        annotations
    }
}

/// Waits for the end of the run, or for the drop of its sender.
async fn end_of(ended: &mut watch::Receiver<bool>) {
    drop(ended.wait_for(|over| *over).await);
}

/// Runs a command in a process group of its own. Returns its status, its success and its output.
async fn execute(text: &str, ended: &mut watch::Receiver<bool>) -> (String, bool, String) {
    let spawned = Command::new("sh")
        .args(["-c", text])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn();
    let mut child = match spawned {
        Ok(child) => child,
        Err(error) => return (format!("not begun: {error}"), false, String::new()),
    };
    let group = child.id().and_then(|id| Pid::from_raw(id as i32));
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let (mut printed, mut complained) = (Vec::new(), Vec::new());
    let (status, succeeded) = {
        let finish = async {
            tokio::join!(
                read_start(out, &mut printed),
                read_start(err, &mut complained),
                child.wait()
            )
            .2
        };
        tokio::pin!(finish);
        tokio::select! {
            status = &mut finish => describe(status),
            () = end_of(ended) => {
                for last in [Signal::TERM, Signal::KILL] {
                    signal(group, last);
                    if tokio::time::timeout(LAST_WORDS, &mut finish).await.is_ok() {
                        break;
                    }
                }
                ("ended with the run".to_owned(), false)
            }
        }
    };
    let mut output = String::from_utf8_lossy(&printed).into_owned();
    output += &String::from_utf8_lossy(&complained);
    (status, succeeded, output)
}

/// Sends a signal to a command and its children. A process that has ended is not an error.
fn signal(group: Option<Pid>, signal: Signal) {
    if let Some(Err(error)) = group.map(|group| kill_process_group(group, signal))
        && error != rustix::io::Errno::SRCH
    {
        eprintln!("warning: cannot end a command of --at: {error}");
    }
}

fn describe(status: std::io::Result<ExitStatus>) -> (String, bool) {
    use std::os::unix::process::ExitStatusExt as _;
    match status {
        Ok(status) => {
            let code = status.code().map(|code| format!("exit {code}"));
            let text = code
                .or_else(|| status.signal().map(|signal| format!("signal {signal}")))
                .unwrap_or_else(|| status.to_string());
            (text, status.success())
        }
        Err(error) => (format!("lost: {error}"), false),
    }
}

/// Reads a stream to its end and stores its beginning.
async fn read_start(stream: Option<impl AsyncRead + Unpin>, kept: &mut Vec<u8>) {
    let Some(mut stream) = stream else { return };
    let mut buffer = [0; 4096];
    while let Ok(n @ 1..) = stream.read(&mut buffer).await {
        let room = OUTPUT_BYTES_MAX - kept.len();
        kept.extend_from_slice(&buffer[..n.min(room)]);
    }
}

#[cfg(test)]
mod tests {
    use procfs::process::Process;
    use testbed::eventually;

    use super::*;

    fn at(ms: i64, text: &str, command: bool) -> Planned {
        Planned { at: Nanos(ms * 1_000_000), text: text.to_owned(), command }
    }

    async fn done(planned: Planned) -> Annotation {
        let (_running, ended) = watch::channel(false);
        planned.run(Clock::starting_in(Duration::ZERO), ended).await
    }

    #[test]
    fn times_and_texts_come_in_pairs() {
        let words = ["1.5s", "kill -9 7", "0s", "x"].map(str::to_owned);
        let both = planned(&words, true).unwrap();
        assert_eq!(both, [at(1500, "kill -9 7", true), at(0, "x", true)]);
        assert!(planned(&["soon".to_owned(), "kill".to_owned()], true).is_err());
    }

    #[tokio::test]
    async fn a_command_is_run_at_its_time_and_its_end_kept() {
        let mark = done(at(30, "now", false)).await;
        assert!(mark.at_ns.unwrap() >= 30_000_000 && mark.command.is_none());
        let good = done(at(0, "echo out; echo err >&2", true)).await.command.unwrap();
        assert_eq!(
            (good.status.as_str(), good.succeeded, good.output.as_str()),
            ("exit 0", true, "out\nerr\n")
        );
        let bad = done(at(0, "kill -9 $$", true)).await.command.unwrap();
        assert_eq!((bad.status.as_str(), bad.succeeded), ("signal 9", false));
        let long = done(at(0, "head -c 100000 /dev/zero", true)).await.command.unwrap();
        assert_eq!((long.succeeded, long.output.len()), (true, OUTPUT_BYTES_MAX));
    }

    #[tokio::test]
    async fn the_end_of_the_run_ends_a_command_and_what_it_started() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().display();
        let (running, ended) = watch::channel(false);
        let clock = Clock::starting_in(Duration::ZERO);
        let sleeps = at(0, &format!("sleep 1000 & echo $!; echo started > {path}; wait"), true)
            .run(clock, ended.clone());
        let later = at(3_600_000, "never", true).run(clock, ended);
        let end = async {
            let has_started = async || !std::fs::read(file.path()).unwrap().is_empty();
            eventually("the command starts", has_started).await;
            running.send_replace(true);
        };
        let (slept, later, ()) = tokio::join!(sleeps, later, end);
        assert_eq!((later.at_ns, later.command), (None, None));
        let ran = slept.command.unwrap();
        assert_eq!((ran.status.as_str(), ran.succeeded), ("ended with the run", false));
        let sleeper: i32 = ran.output.trim().parse().unwrap();
        // The process has closed its output, and may still be exiting. Its parent has ended as
        // well, so it may remain as a zombie.
        let is_gone = async || {
            let stat = Process::new(sleeper).and_then(|process| process.stat());
            stat.map_or(true, |stat| matches!(stat.state, 'Z' | 'X'))
        };
        eventually("the process that the command started ends", is_gone).await;
    }
}
