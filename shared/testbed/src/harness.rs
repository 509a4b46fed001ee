//! The harness of the suites that need programs or devices that a machine may lack.
//!
//! Cargo's own harness knows at compile time which tests are ignored. These suites find out while
//! they run: a test that lacks something is counted as ignored, and the reasons follow the summary.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use libtest_mimic::{Arguments, Completion, Trial};

/// A test that `#[testbed::test]` has registered.
pub struct Case {
    path: &'static str,
    run: fn(),
}

inventory::collect!(Case);

impl Case {
    /// Names a test by its path, with the name of the suite in front.
    pub const fn new(path: &'static str, run: fn()) -> Self {
        Self { path, run }
    }

    fn trial(&self) -> Trial {
        let name = self.path.split_once("::").map_or(self.path, |(_suite, name)| name);
        let run = self.run;
        Trial::ignorable_test(name, move || Ok(run_case(name, run)))
    }
}

/// The reason for which a test ends early, as the payload of its unwinding.
struct Skip(String);

static IS_RUNNING: AtomicBool = AtomicBool::new(false);
static LACKS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Runs the registered tests with the arguments of `cargo test`.
///
/// Called by the expansion of `testbed::suite!`.
pub fn run_suite() -> ExitCode {
    IS_RUNNING.store(true, Ordering::Relaxed);
    let arguments = Arguments::from_args();
    let trials = inventory::iter::<Case>.into_iter().map(Case::trial).collect();
    let conclusion = libtest_mimic::run(&arguments, trials);
    let mut lacks = std::mem::take(&mut *LACKS.lock().unwrap_or_else(PoisonError::into_inner));
    lacks.sort();
    lacks.dedup();
    for lack in &lacks {
        eprintln!("skipped: {lack}");
    }
    if !lacks.is_empty() {
        eprintln!("TANDEM_REQUIRE=all turns what is skipped into failures\n");
    }
    conclusion.exit_code()
}

fn run_case(name: &str, run: fn()) -> Completion {
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(()) => Completion::Completed,
        Err(payload) => ignored(name, payload),
    }
}

/// Turns the payload of a skip into its outcome; any other goes on to fail the test.
fn ignored(name: &str, payload: Box<dyn Any + Send>) -> Completion {
    let Skip(reason) = *payload.downcast().unwrap_or_else(|panic| resume_unwind(panic));
    note(format!("{name}: {reason}"));
    Completion::ignored_with(reason)
}

/// Lists a lack after the summary of the suite, or prints it where no suite runs.
pub(crate) fn note(lack: String) {
    if IS_RUNNING.load(Ordering::Relaxed) {
        LACKS.lock().unwrap_or_else(PoisonError::into_inner).push(lack);
    } else {
        eprintln!("skipped: {lack}");
    }
}

/// Ends the test that runs on this thread as ignored, even with `TANDEM_REQUIRE=all`: for data that
/// is not public. Everything else goes through [`require`](crate::require).
///
/// # Panics
///
/// To end the test; under Cargo's own harness, which cannot show the skip, as failed.
pub fn skip(reason: impl Into<String>) -> ! {
    let reason = reason.into();
    if IS_RUNNING.load(Ordering::Relaxed) {
        resume_unwind(Box::new(Skip(reason)));
    }
    panic!("{reason}; a test that may be skipped belongs in a suite with `testbed::suite!()`");
}

/// Runs an asynchronous test on the thread that calls it.
///
/// Called by the expansion of `#[testbed::test]`.
///
/// # Panics
///
/// When the system has no descriptors to give.
pub fn block_on(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime starts").block_on(test);
}

/// Runs an asynchronous test on the thread that calls it, with a clock that stands still and moves on
/// to the next timer when there is nothing else to do.
///
/// Called by the expansion of `#[testbed::test(paused)]`.
///
/// # Panics
///
/// When the system has no descriptors to give.
pub fn block_on_paused(test: impl Future<Output = ()>) {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_all().start_paused(true).build();
    runtime.expect("a runtime starts").block_on(test);
}

/// Runs an asynchronous test beside two worker threads.
///
/// Called by the expansion of `#[testbed::test(multi_thread)]`.
///
/// # Panics
///
/// When the system has no threads to give.
pub fn block_on_threads(test: impl Future<Output = ()>) {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.worker_threads(2).enable_all().build();
    runtime.expect("a runtime starts").block_on(test);
}

/// The `main` of a suite of `#[testbed::test]` functions; its target has `harness = false`.
#[macro_export]
macro_rules! suite {
    () => {
        fn main() -> ::std::process::ExitCode {
            ::testbed::run_suite()
        }
    };
}
