//! One child process: its lines, its end, and its orderly stop.

use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};
use tokio::process::{ChildStdin, Command};
use tokio::task::JoinSet;

use super::services::Service;

/// The variable of the setting `nats.url`.
const NATS_URL_VARIABLE: &str = "TANDEM_NATS__URL";
/// Longer lines are cut into several.
const LINE_BYTES_MAX: usize = 16 << 10;
/// The wait for the last lines of a child that has ended.
const LAST_LINES_LIMIT: Duration = Duration::from_secs(1);

/// A service process that reads the tether on its standard input: when that closes, it ends.
#[derive(Debug)]
pub(crate) struct Child {
    process: tokio::process::Child,
    tether: Option<ChildStdin>,
    lines: JoinSet<()>,
}

/// The end of a child that was asked to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stopped {
    /// By itself, within the limit.
    InTime,
    /// It had to be killed.
    Killed,
}

impl Child {
    /// Starts `service`. Its lines appear on our standard error behind its name.
    pub(crate) fn start(program: &Path, service: &Service) -> std::io::Result<Self> {
        let mut command = Command::new(program);
        // The graphics libraries look for a Wayland socket there, and complain about a variable
        // that is not set, as in containers and over ssh. They are content with any folder.
        if std::env::var_os("XDG_RUNTIME_DIR").is_none() {
            command.env("XDG_RUNTIME_DIR", std::env::temp_dir());
        }
        let mut process = command
            .args(&service.arguments)
            .env(NATS_URL_VARIABLE, service.nats_url.expose())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            // Ctrl-C in the terminal reaches only us, so that we choose the order of the end.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        let tether = process.stdin.take();
        let mut lines = JoinSet::new();
        if let Some(stderr) = process.stderr.take() {
            lines.spawn(forward(stderr, service.name.clone()));
        }
        Ok(Self { process, tether, lines })
    }

    /// Returns the process id while the child lives.
    pub(crate) fn id(&self) -> Option<u32> {
        self.process.id()
    }

    /// Waits for its end and its last lines.
    pub(crate) async fn ended(&mut self) -> std::io::Result<ExitStatus> {
        let status = self.process.wait().await?;
        let _ = tokio::time::timeout(LAST_LINES_LIMIT, self.lines.join_next()).await;
        Ok(status)
    }

    /// Closes the tether, and kills what is still there after `limit`.
    pub(crate) async fn stop(mut self, limit: Duration) -> Stopped {
        drop(self.tether.take());
        match tokio::time::timeout(limit, self.ended()).await {
            Ok(_) => Stopped::InTime,
            Err(_) => {
                // It may have ended this very moment; either way it is gone afterwards.
                let _ = self.process.kill().await;
                Stopped::Killed
            }
        }
    }
}

/// Returns an exit status in words.
pub(crate) fn describe(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt as _;
    match (status.signal(), status.code()) {
        (Some(signal), _) => format!("was ended by signal {signal}"),
        (None, Some(code)) => format!("ended with status {code}"),
        (None, None) => "ended".to_owned(),
    }
}

async fn forward(stderr: impl AsyncRead + Unpin, name: String) {
    let mut reader = BufReader::new(stderr);
    let mut line = Vec::new();
    loop {
        let (used, ended) = match reader.fill_buf().await {
            Ok([]) | Err(_) => break,
            Ok(bytes) => take_line(bytes, &mut line),
        };
        reader.consume(used);
        if ended {
            show(&name, &line);
            line.clear();
        }
    }
    if !line.is_empty() {
        show(&name, &line);
    }
}

/// Moves bytes up to the end of a line into `line`. Returns their number, and whether the line is
/// complete.
fn take_line(bytes: &[u8], line: &mut Vec<u8>) -> (usize, bool) {
    let room = LINE_BYTES_MAX - line.len();
    let window = &bytes[..bytes.len().min(room)];
    match window.iter().position(|byte| *byte == b'\n') {
        Some(end) => {
            line.extend_from_slice(&window[..end]);
            (end + 1, true)
        }
        None => {
            line.extend_from_slice(window);
            (window.len(), line.len() == LINE_BYTES_MAX)
        }
    }
}

fn show(name: &str, line: &[u8]) {
    crate::console::log_line(name, String::from_utf8_lossy(line).trim_end());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(chunks: &[&[u8]]) -> Vec<usize> {
        let (mut line, mut lengths) = (Vec::new(), Vec::new());
        for chunk in chunks {
            let mut rest = *chunk;
            while !rest.is_empty() {
                let (used, ended) = take_line(rest, &mut line);
                rest = &rest[used..];
                if ended {
                    lengths.push(line.len());
                    line.clear();
                }
            }
        }
        lengths.push(line.len());
        lengths
    }

    #[test]
    fn lines_end_where_they_end_however_they_arrive() {
        assert_eq!(lines(&[b"ab\ncd", b"e\n\nf"]), [2, 3, 0, 1]);
    }

    #[test]
    fn an_endless_line_is_cut() {
        let long = vec![b'x'; 2 * LINE_BYTES_MAX + 3];
        assert_eq!(lines(&[&long]), [LINE_BYTES_MAX, LINE_BYTES_MAX, 3]);
    }
}
