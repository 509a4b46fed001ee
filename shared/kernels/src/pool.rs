//! A few threads that share the chunks of one operation after the other.
//!
//! An operation is done when its chunks are, whoever did them: a thread that the system has put
//! aside delays the others only while it has a chunk. Waiting spins for a moment and then sleeps, so
//! that shared cores go to whoever has work.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle, Thread, ThreadId};

/// Turns before a waiting thread sleeps: some tens of microseconds, longer than the gap between two
/// operations of a step.
const SPINS: u32 = 4_000;

/// A value of the next chunk that no operation has.
const CLOSED: u64 = u32::MAX as u64;

/// A function that runs a chunk: the context, then chunk and thread.
type Run = unsafe fn(*mut (), usize, usize);

struct Shared {
    /// Epoch in the upper half, next chunk in the lower.
    next: AtomicU64,
    chunks: AtomicU32,
    done: AtomicU32,
    run: AtomicUsize,
    context: AtomicPtr<()>,
    panicked: AtomicBool,
    stop: AtomicBool,
    /// The thread that waits for the chunks; looked at only to wake it.
    owner: Mutex<Thread>,
    owner_sleeps: AtomicBool,
    /// The workers that sleep, one bit each.
    sleepers: AtomicU64,
}

/// The threads. The one that calls [`Pool::run`] is one of them.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    owner: ThreadId,
    epoch: u32,
}

impl Pool {
    /// Most threads in a pool.
    pub const THREADS_MAX: usize = 64;

    /// Starts a pool of `threads` threads, the caller's included.
    ///
    /// # Errors
    /// Fails if the system refuses to start a thread.
    pub fn new(threads: usize) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            next: AtomicU64::new(0),
            chunks: AtomicU32::new(0),
            done: AtomicU32::new(0),
            run: AtomicUsize::new(0),
            context: AtomicPtr::new(std::ptr::null_mut()),
            panicked: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            owner: Mutex::new(thread::current()),
            owner_sleeps: AtomicBool::new(false),
            sleepers: AtomicU64::new(0),
        });
        let owner = thread::current().id();
        let mut pool = Self { shared, workers: Vec::new(), owner, epoch: 0 };
        for index in 1..threads.clamp(1, Self::THREADS_MAX) {
            let shared = pool.shared.clone();
            let worker = thread::Builder::new()
                .name(format!("kernel-{index}"))
                .spawn(move || work(&shared, index))?;
            pool.workers.push(worker);
        }
        Ok(pool)
    }

    /// Threads that share the work.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Runs `task(chunk, thread)` for every chunk below `chunks` and returns when all are done.
    ///
    /// # Panics
    /// Panics if a task did.
    pub fn run<T: Fn(usize, usize) + Sync>(&mut self, chunks: usize, task: &T) {
        if self.workers.is_empty() || chunks <= 1 {
            (0..chunks).for_each(|chunk| task(chunk, 0));
            return;
        }
        let chunks = u32::try_from(chunks).expect("an operation has few chunks");
        let shared = &*self.shared;
        let caller = thread::current();
        if caller.id() != self.owner {
            self.owner = caller.id();
            *shared.owner.lock().unwrap_or_else(PoisonError::into_inner) = caller;
        }
        // First the old operation is closed: who still looks at it and sees something of the new one
        // sees this too, and takes nothing.
        self.epoch = self.epoch.wrapping_add(1);
        shared.next.store(u64::from(self.epoch) << 32 | CLOSED, Ordering::SeqCst);
        shared.chunks.store(chunks, Ordering::Release);
        shared.done.store(0, Ordering::Release);
        shared.run.store(call::<T> as Run as usize, Ordering::Release);
        shared.context.store(std::ptr::from_ref(task).cast_mut().cast(), Ordering::Release);
        self.epoch = self.epoch.wrapping_add(1);
        shared.next.store(u64::from(self.epoch) << 32, Ordering::SeqCst);
        let sleepers = shared.sleepers.load(Ordering::SeqCst);
        if sleepers != 0 {
            for (index, worker) in self.workers.iter().enumerate() {
                if sleepers & (1 << index) != 0 {
                    worker.thread().unpark();
                }
            }
        }
        take_all(shared, 0);
        wait(&shared.owner_sleeps, || shared.done.load(Ordering::SeqCst) == chunks);
        if shared.panicked.swap(false, Ordering::Relaxed) {
            panic!("a chunk of an operation panicked");
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        for worker in self.workers.drain(..) {
            worker.thread().unpark();
            // A worker catches its panics: it has nothing to tell.
            let _ = worker.join();
        }
    }
}

/// # Safety
/// `context` is a `T` that outlives the call.
unsafe fn call<T: Fn(usize, usize) + Sync>(context: *mut (), chunk: usize, thread: usize) {
    // SAFETY: promised by the caller.
    let task = unsafe { &*context.cast::<T>() };
    task(chunk, thread);
}

/// Counts a chunk as done even when it panics, so that no thread waits for it forever.
struct Done<'a>(&'a Shared);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        let Self(shared) = self;
        if thread::panicking() {
            shared.panicked.store(true, Ordering::Relaxed);
        }
        let chunks = shared.chunks.load(Ordering::Relaxed);
        let done = shared.done.fetch_add(1, Ordering::SeqCst) + 1;
        if done == chunks && shared.owner_sleeps.load(Ordering::SeqCst) {
            shared.owner.lock().unwrap_or_else(PoisonError::into_inner).unpark();
        }
    }
}

/// Takes chunks until there are none, panics or not.
fn take_all(shared: &Shared, thread: usize) {
    while catch_unwind(AssertUnwindSafe(|| take_chunks(shared, thread))).is_err() {}
}

/// Takes chunks of the current operation until there are none.
fn take_chunks(shared: &Shared, thread: usize) {
    loop {
        let state = shared.next.load(Ordering::Acquire);
        let run = shared.run.load(Ordering::Acquire);
        let context = shared.context.load(Ordering::Acquire);
        let chunk = state as u32;
        if chunk >= shared.chunks.load(Ordering::Acquire) {
            return;
        }
        let taken = shared.next.compare_exchange_weak(
            state,
            state + 1,
            Ordering::AcqRel,
            Ordering::Relaxed,
        );
        if taken.is_err() {
            continue;
        }
        let _done = Done(shared);
        // SAFETY: `run` is a `Run` stored by `Pool::run`. The exchange succeeded, so nothing that was
        // read belongs to a later operation, for which this one would have been closed first; and
        // this one has a chunk that is not done: `Pool::run` has not returned and its task lives.
        unsafe {
            let run = std::mem::transmute::<usize, Run>(run);
            run(context, chunk as usize, thread);
        }
    }
}

fn work(shared: &Shared, index: usize) {
    let bit = 1u64 << (index - 1);
    let mut seen = 0;
    loop {
        let mut spins = 0;
        loop {
            if shared.stop.load(Ordering::SeqCst) {
                return;
            }
            let state = shared.next.load(Ordering::SeqCst);
            if state >> 32 != seen {
                seen = state >> 32;
                break;
            }
            if spins < SPINS {
                spins += 1;
                std::hint::spin_loop();
                continue;
            }
            shared.sleepers.fetch_or(bit, Ordering::SeqCst);
            if shared.next.load(Ordering::SeqCst) >> 32 == seen
                && !shared.stop.load(Ordering::SeqCst)
            {
                thread::park();
            }
            shared.sleepers.fetch_and(!bit, Ordering::SeqCst);
        }
        take_all(shared, index);
    }
}

/// Waits on the owner's thread, spinning first.
fn wait(sleeps: &AtomicBool, is_done: impl Fn() -> bool) {
    for _ in 0..SPINS {
        if is_done() {
            return;
        }
        std::hint::spin_loop();
    }
    sleeps.store(true, Ordering::SeqCst);
    while !is_done() {
        thread::park();
    }
    sleeps.store(false, Ordering::SeqCst);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    #[test]
    fn every_chunk_runs_once() {
        for threads in 1..5 {
            let mut pool = Pool::new(threads).unwrap();
            for chunks in [0, 1, 2, 3, 7, 100] {
                for _ in 0..50 {
                    let counts: Vec<AtomicU32> = (0..chunks).map(|_| AtomicU32::new(0)).collect();
                    pool.run(chunks, &|chunk, thread| {
                        assert!(thread < threads);
                        counts[chunk].fetch_add(1, Ordering::Relaxed);
                    });
                    assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 1));
                }
            }
        }
    }

    #[test]
    fn sleeping_threads_are_woken() {
        let mut pool = Pool::new(3).unwrap();
        for _ in 0..5 {
            let deadline = Instant::now() + Duration::from_secs(30);
            while pool.shared.sleepers.load(Ordering::SeqCst).count_ones() < 2 {
                assert!(Instant::now() < deadline, "the threads do not fall asleep");
                thread::yield_now();
            }
            let sum = AtomicUsize::new(0);
            pool.run(64, &|chunk, _| {
                sum.fetch_add(chunk, Ordering::Relaxed);
            });
            assert_eq!(sum.into_inner(), 63 * 64 / 2);
        }
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_goes_on() {
        let mut pool = Pool::new(2).unwrap();
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            pool.run(20, &|chunk, _| assert!(chunk % 3 != 1));
        }));
        assert!(panicked.is_err());
        let count = AtomicUsize::new(0);
        pool.run(20, &|_, _| {
            count.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(count.into_inner(), 20);
    }
}
