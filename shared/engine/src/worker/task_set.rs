//! Owned short-lived tasks: reaped as they end, aborted with their owner.

use std::future::Future;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::task::{AbortHandle, JoinSet};

/// The tasks of one worker: a fetch per admitted sequence, a put per block, a hand-over per prompt.
#[derive(Debug, Default)]
pub(crate) struct TaskSet {
    tasks: Mutex<JoinSet<()>>,
}

impl TaskSet {
    /// Spawns a task; callers bound the number of tasks (sequences, put permits).
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        let mut tasks = self.lock();
        while tasks.try_join_next().is_some() {}
        tasks.spawn(task)
    }

    /// Aborts all tasks, which hold the worker that owns them.
    pub(crate) fn abort(&self) {
        self.lock().abort_all();
    }

    /// Returns the number of tasks that have not ended.
    pub(crate) fn running(&self) -> usize {
        let mut tasks = self.lock();
        while tasks.try_join_next().is_some() {}
        tasks.len()
    }

    fn lock(&self) -> MutexGuard<'_, JoinSet<()>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
