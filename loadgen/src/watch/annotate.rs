//! Annotations of a run's timeline: marks, and commands that are run at their time.

use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::send::clock::Clock;
use traces::units::{Nanos, UnitError};

/// The most bytes kept of what a command prints, of each of its two streams.
pub const MAX_OUTPUT_BYTES: usize = 16 << 10;
/// From the end of the run to the killing of a command that has not heeded its end.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// What shall happen when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    /// From the start of the schedule.
    pub at: Nanos,
    /// The mark's text, or the command.
    pub text: String,
    /// Whether the text is a command, to be run with `sh -c`.
    pub command: bool,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Annotation {
    /// When it should happen, from the start of the run.
    pub intended_ns: i64,
    /// When it did; none if the run was over before.
    pub at_ns: Option<i64>,
    /// The mark's text, or the command.
    pub text: String,
    /// What became of the command, if it is one that was begun.
    pub command: Option<Ran>,
}

/// What became of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ran {
    /// When it ended, from the start of the run.
    pub ended_ns: i64,
    /// `exit 0`, `signal 9`, `ended with the run`, or why it could not be begun.
    pub status: String,
    /// Whether it did what it should.
    pub succeeded: bool,
    /// What it printed, standard error behind standard output, each cut off at its bound.
    pub output: String,
}

/// Reads what `--at TIME COMMAND` or `--mark TIME TEXT`, given any number of times, asks for.
pub fn planned(words: &[String], command: bool) -> Result<Vec<Planned>, UnitError> {
    let pair =
        |pair: &[String]| Ok(Planned { at: pair[0].parse()?, text: pair[1].clone(), command });
    words.chunks_exact(2).map(pair).collect()
}

impl Planned {
    /// Waits for its time and does it. `ended` turns true when the run is over; a command that
    /// still runs then is told to end, and killed if it does not.
    async fn carry_out(self, clock: Clock, mut ended: watch::Receiver<bool>) -> Annotation {
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

/// Annotations that are carried out while a run goes on.
pub struct Annotations {
    tasks: JoinSet<Annotation>,
    ended: watch::Sender<bool>,
}

impl Annotations {
    /// Starts waiting for the time of each of `planned`.
    pub fn start(planned: Vec<Planned>, clock: Clock) -> Self {
        let (ended, over) = watch::channel(false);
        let mut tasks = JoinSet::new();
        for planned in planned {
            tasks.spawn(planned.carry_out(clock, over.clone()));
        }
        Self { tasks, ended }
    }

    /// Ends the commands that still run; returns the annotations by intended time.
    pub async fn end(self) -> Vec<Annotation> {
        self.ended.send_replace(true);
        let mut annotations = self.tasks.join_all().await;
        annotations.sort_by_key(|annotation| annotation.intended_ns);
        annotations
    }
}

/// Waits for the end of the run; that its sender has gone away is the end as well.
async fn end_of(ended: &mut watch::Receiver<bool>) {
    drop(ended.wait_for(|over| *over).await);
}

/// Runs a command in a process group of its own: how it ended, whether well, what it printed.
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
            tokio::join!(keep(out, &mut printed), keep(err, &mut complained), child.wait()).2
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

/// Signals a command and what it started; one that is gone has nothing to be told.
fn signal(group: Option<Pid>, signal: Signal) {
    if let Some(Err(error)) = group.map(|group| kill_process_group(group, signal))
        && error != rustix::io::Errno::SRCH
    {
        eprintln!("warning: a command of --at cannot be ended: {error}");
    }
}

fn describe(status: std::io::Result<ExitStatus>) -> (String, bool) {
    use std::os::unix::process::ExitStatusExt as _;
    match status {
        Ok(status) => {
            let code = status.code().map(|code| format!("exit {code}"));
            let by_signal = || status.signal().map(|signal| format!("signal {signal}"));
            let text = code.or_else(by_signal).unwrap_or_else(|| status.to_string());
            (text, status.success())
        }
        Err(error) => (format!("lost: {error}"), false),
    }
}

/// Reads a stream to its end and keeps its beginning.
async fn keep(stream: Option<impl AsyncRead + Unpin>, kept: &mut Vec<u8>) {
    let Some(mut stream) = stream else { return };
    let mut buffer = [0; 4096];
    while let Ok(n @ 1..) = stream.read(&mut buffer).await {
        let room = MAX_OUTPUT_BYTES - kept.len();
        kept.extend_from_slice(&buffer[..n.min(room)]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: i64, text: &str, command: bool) -> Planned {
        Planned { at: Nanos(ms * 1_000_000), text: text.to_owned(), command }
    }

    async fn done(planned: Planned) -> Annotation {
        let (_running, ended) = watch::channel(false);
        planned.carry_out(Clock::starting_in(Duration::ZERO), ended).await
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
        assert_eq!((long.succeeded, long.output.len()), (true, MAX_OUTPUT_BYTES));
    }

    #[tokio::test]
    async fn the_end_of_the_run_ends_a_command_and_what_it_started() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let told = file.path().display().to_string();
        let (running, ended) = watch::channel(false);
        let clock = Clock::starting_in(Duration::ZERO);
        let sleeps = at(0, &format!("sleep 1000 & echo $!; echo told > {told}; wait"), true)
            .carry_out(clock, ended.clone());
        let later = at(3_600_000, "never", true).carry_out(clock, ended);
        let end = async {
            let told = std::path::Path::new(&told);
            while std::fs::read(told).is_ok_and(|text| text.is_empty()) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            running.send_replace(true);
        };
        let (slept, later, ()) = tokio::join!(sleeps, later, end);
        assert_eq!((later.at_ns, later.command), (None, None));
        let ran = slept.command.unwrap();
        assert_eq!((ran.status.as_str(), ran.succeeded), ("ended with the run", false));
        let sleeper: i32 = ran.output.trim().parse().unwrap();
        // It has closed its output, and may still be on its way out. Its parent is gone as well, so
        // it may stay behind as a process that nobody has waited for.
        let is_gone = || {
            let stat = std::fs::read_to_string(format!("/proc/{sleeper}/stat")).unwrap_or_default();
            let state = stat.rsplit(") ").next().unwrap_or_default().chars().next();
            matches!(state, None | Some('Z' | 'X'))
        };
        for _ in 0..500 {
            if is_gone() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{sleeper} still runs");
    }
}
