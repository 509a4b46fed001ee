//! Ties a child process to this one, so that it ends with us however we end.
//!
//! A small shell stands between: it holds the read end of a pipe whose write end only this process
//! has. When this process ends, by SIGKILL too, the kernel closes the pipe, and the shell ends the
//! child. Where util-linux's `setpriv` can do it, the child also dies with that shell.

use std::io;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// `$1` is how long the child may take to end after SIGTERM, in tenths of a second.
const SCRIPT: &str = r#"
patience=$1; shift
exec 3<&0 </dev/null
if setpriv --pdeathsig KILL -- true 2>/dev/null; then
    setpriv --pdeathsig KILL -- "$@" 3<&- &
else
    "$@" 3<&- &
fi
child=$!
(
    read -r line <&3
    kill -TERM "$child" 2>/dev/null
    waited=0
    while [ "$waited" -lt "$patience" ] && kill -0 "$child" 2>/dev/null; do
        sleep 0.1
        waited=$((waited + 1))
    done
    kill -KILL "$child" 2>/dev/null
) >/dev/null 2>&1 &
watcher=$!
exec 3<&- 2>/dev/null
trap 'kill -TERM "$child" 2>/dev/null' TERM INT HUP
wait "$child"; code=$?
while kill -0 "$child" 2>/dev/null; do wait "$child"; code=$?; done
kill "$watcher" 2>/dev/null
exit "$code"
"#;

/// Wraps `command` so that its process ends when this one does, whatever the reason.
///
/// The wrapped command's standard input is the tether and must stay piped: keep the child's
/// `stdin` handle for as long as the process should live. Dropping it sends SIGTERM, and SIGKILL
/// after `patience`. It runs in a process group of its own, so that Ctrl-C reaches only us.
pub fn tether(command: &Command, patience: Duration) -> Command {
    let mut wrapped = Command::new("sh");
    let tenths = patience.as_millis().div_ceil(100);
    wrapped.args(["-c", SCRIPT, "tether"]).arg(tenths.to_string());
    wrapped.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => wrapped.env(name, value),
            None => wrapped.env_remove(name),
        };
    }
    if let Some(folder) = command.get_current_dir() {
        wrapped.current_dir(folder);
    }
    wrapped.stdin(Stdio::piped());
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(&mut wrapped, 0);
    wrapped
}

/// A child that was started through [`tether`], ended when dropped.
#[derive(Debug)]
pub struct Tethered {
    child: Child,
    patience: Duration,
}

impl Tethered {
    /// Starts a command that [`tether`] has wrapped with the same `patience`.
    pub fn spawn(wrapped: &mut Command, patience: Duration) -> io::Result<Self> {
        Ok(Self { child: wrapped.spawn()?, patience })
    }

    /// The process id of the shell in between.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Returns the exit status of the child, if it has ended.
    pub fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    /// Cuts the tether and waits until the child is gone.
    pub fn stop(&mut self) -> io::Result<()> {
        drop(self.child.stdin.take());
        // The shell needs the patience and a moment; then it is killed, and the child with it.
        let deadline = Instant::now() + self.patience + Duration::from_secs(2);
        while self.child.try_wait()?.is_none() {
            if Instant::now() >= deadline {
                self.child.kill()?;
                self.child.wait()?;
                break;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }
}

impl Drop for Tethered {
    fn drop(&mut self) {
        // Nothing can be done about a failure here; the closed pipe ends the child all the same.
        let _ = self.stop();
    }
}
