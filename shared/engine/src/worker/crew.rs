//! Owned short-lived tasks: reaped as they end, aborted with their owner.

use std::future::Future;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::task::{AbortHandle, JoinSet};

/// Tasks of one worker: a fetch per admitted sequence, a put per block, a hand-over per prompt.
#[derive(Debug, Default)]
pub(crate) struct Crew {
    tasks: Mutex<JoinSet<()>>,
}

impl Crew {
    /// Starts a task; its number is bounded by what starts it (sequences, put permits).
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        let mut tasks = self.lock();
        while tasks.try_join_next().is_some() {}
        tasks.spawn(task)
    }

    /// Ends all tasks: they hold the worker that holds them.
    pub(crate) fn abort(&self) {
        self.lock().abort_all();
    }

    /// Tasks that have not ended.
    pub(crate) fn running(&self) -> usize {
        let mut tasks = self.lock();
        while tasks.try_join_next().is_some() {}
        tasks.len()
    }

    fn lock(&self) -> MutexGuard<'_, JoinSet<()>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
