//! Tasks with an owner, and the signals that stop a service.

use std::collections::HashMap;
use std::future::Future;
use std::io::{ErrorKind, Read};
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::{Id, JoinError, JoinSet};

/// The signal to every task that the service is to stop; cheap to clone, may have children.
pub use tokio_util::sync::CancellationToken as StopToken;

/// The long-running tasks of one service; dropping it aborts them.
#[derive(Debug, Default)]
pub struct Tasks {
    set: JoinSet<anyhow::Result<()>>,
    names: HashMap<Id, String>,
    stop: StopToken,
}

impl Tasks {
    /// Returns an empty set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns the token that stops the tasks.
    pub fn stop(&self) -> StopToken {
        self.stop.clone()
    }

    /// Starts a task that is to run until the stop token is cancelled.
    pub fn spawn<F>(&mut self, name: impl Into<String>, task: F)
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let handle = self.set.spawn(task);
        self.names.insert(handle.id(), name.into());
    }

    /// Runs until `shutdown` resolves, then lets the tasks finish for at most `drain_timeout`.
    ///
    /// A task that ends before shutdown, well or not, ends the service with its name. The first
    /// failure is the result. Tasks that still run after the timeout are aborted and named.
    pub async fn run_until(
        mut self,
        shutdown: impl Future<Output = ()>,
        drain_timeout: Duration,
    ) -> anyhow::Result<()> {
        let outcome = tokio::select! {
            // When both are ready, the task may have ended because of the shutdown.
            biased;
            () = shutdown => Ok(()),
            Some(ended) = self.set.join_next_with_id() => {
                let (name, result) = Self::take_name(&mut self.names, ended);
                match result {
                    Ok(()) if self.stop.is_cancelled() => Ok(()),
                    Ok(()) => Err(anyhow!("task {name} ended although the service was to go on")),
                    Err(error) => Err(error.context(format!("task {name} failed"))),
                }
            }
        };
        self.stop.cancel();
        let drained = self.drain(drain_timeout).await;
        outcome.and(drained)
    }

    async fn drain(&mut self, timeout: Duration) -> anyhow::Result<()> {
        let mut first_failure = Ok(());
        let finish = async {
            while let Some(ended) = self.set.join_next_with_id().await {
                let (name, result) = Self::take_name(&mut self.names, ended);
                if let Err(error) = result {
                    tracing::warn!(
                        task = name,
                        error = crate::error::chain(error.as_ref()),
                        "task failed while stopping"
                    );
                    let failure = Err(error.context(format!("task {name} failed while stopping")));
                    first_failure = std::mem::replace(&mut first_failure, Ok(())).and(failure);
                }
            }
        };
        if tokio::time::timeout(timeout, finish).await.is_ok() {
            return first_failure;
        }
        self.set.shutdown().await;
        let mut running: Vec<&str> = self.names.values().map(String::as_str).collect();
        running.sort_unstable();
        first_failure.and(Err(anyhow!(
            "still running {} ms after the stop: {}",
            timeout.as_millis(),
            running.join(", ")
        )))
    }

    fn take_name(names: &mut HashMap<Id, String>, ended: Ended) -> (String, anyhow::Result<()>) {
        let (id, result) = match ended {
            Ok((id, result)) => (id, result),
            Err(error) => (error.id(), Err(anyhow::Error::new(error))),
        };
        (names.remove(&id).unwrap_or_default(), result)
    }
}

type Ended = Result<(Id, anyhow::Result<()>), JoinError>;

/// Resolves when the process is to stop: SIGTERM, SIGINT, or, when `tethered`, the end of standard
/// input, which the parent process holds open for as long as it lives.
///
/// Installs the signal handlers when called, not when first polled.
pub fn shutdown_signal(tethered: bool) -> anyhow::Result<impl Future<Output = ()> + Send> {
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    let cut = StopToken::new();
    if tethered {
        watch_standard_input(cut.clone()).context("watch standard input")?;
    }
    Ok(async move {
        let reason = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
            () = cut.cancelled() => "standard input closed",
        };
        tracing::info!(reason, "stopping");
    })
}

/// Starts a thread of its own, not one of the runtime's blocking pool: a runtime waits for its
/// blocking reads when it ends, and this one may last as long as the process.
fn watch_standard_input(cut: StopToken) -> std::io::Result<()> {
    let thread = std::thread::Builder::new().name("tether".to_owned());
    let spawned = thread.spawn(move || {
        read_to_end(std::io::stdin().lock());
        cut.cancel();
    });
    spawned.map(drop)
}

/// Returns when the input ends or cannot be read.
fn read_to_end(mut input: impl Read) {
    let mut buffer = [0; 256];
    loop {
        match input.read(&mut buffer) {
            Ok(0) => break,
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
}

/// Makes every panic, in whatever thread or task, log itself and abort the process.
///
/// Half a service is worse than none: the supervisor starts it again. Tests unwind as
/// usual, because only `main` calls this.
pub fn install_panic_hook() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        let thread = std::thread::current();
        let thread = thread.name().unwrap_or("unnamed");
        tracing::error!(thread, panic = %info, "a panic ends the process");
        print(info);
        std::process::abort();
    }));
}
