//! The null server as a separate process.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::send::clock::cpu_seconds_of;

const START_LIMIT: Duration = Duration::from_secs(10);

/// A running server. Dropping it ends the process.
#[derive(Debug)]
pub(super) struct Server {
    /// Base URL.
    pub(super) url: String,
    child: Child,
}

impl Server {
    /// Starts `program null-server`.
    pub(super) async fn start(program: &Path, ttft: Duration, itl: Duration) -> Result<Self> {
        let us = |span: Duration| format!("{}us", span.as_micros());
        let mut child = Command::new(program)
            .args(["null-server", "--tethered", "--listen", "127.0.0.1:0"])
            .args(["--ttft", &us(ttft), "--itl", &us(itl)])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let out = child.stdout.take().context("the server has no standard output")?;
        let mut lines = BufReader::new(out).lines();
        let line =
            tokio::time::timeout(START_LIMIT, lines.next_line()).await.with_context(|| {
                format!("the null server printed no address within {START_LIMIT:?}")
            })??;
        match line.as_deref().and_then(|line| line.strip_prefix("listening at ")) {
            Some(url) => Ok(Self { url: url.to_owned(), child }),
            None => bail!("the null server printed {line:?} instead of its address"),
        }
    }

    /// Returns the CPU seconds of the server.
    pub(super) fn cpu_seconds(&self) -> Option<f64> {
        cpu_seconds_of(self.child.id()?)
    }
}
