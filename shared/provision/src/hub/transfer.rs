//! One file into the cache: as many attempts as it takes, each going on where the last ended.

use std::cell::Cell;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use hf_hub::api::Progress;
use hf_hub::api::sync::ApiError;
use protocol::Backoff;

use super::download::{Fetch, RepoLock, status_of};
use super::reference::is_relative;
use super::{HubError, Outbox, verify};

/// Longest wait between two attempts.
const WAIT_MAX: Duration = Duration::from_secs(10);
/// Progress is reported after this many bytes, after this time, and at the end.
const REPORT_BYTES: u64 = 1 << 20;
const REPORT_PERIOD: Duration = Duration::from_secs(1);

/// The files of one commit on their way.
pub(super) struct Transfer<'a> {
    pub(super) fetch: &'a Fetch,
    pub(super) commit: &'a str,
    pub(super) lock: &'a mut RepoLock,
}

/// The reason for which an attempt failed.
enum Failure {
    /// Another may do better.
    Again(HubError),
    /// No other will.
    Final(HubError),
}

impl Transfer<'_> {
    /// Puts `file` into `snapshot`, unless it is there.
    pub(super) fn obtain(&mut self, snapshot: &Path, file: &str) -> Result<(), HubError> {
        let target = snapshot.join(file);
        if target.exists() {
            return Ok(());
        }
        let options = &self.fetch.options;
        let (mut fruitless, mut best) = (0, 0);
        loop {
            let meter = Meter::new(file, &self.fetch.outbox);
            let error = match self.attempt(&target, file, &meter) {
                Ok(()) => return Ok(()),
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Again(error)) => error,
            };
            fruitless = if meter.done.get() > best { 0 } else { fruitless + 1 };
            best = best.max(meter.done.get());
            if fruitless >= options.fruitless_max {
                return Err(error);
            }
            self.fetch.outbox.note(format!("{error}; going on"));
            let backoff = Backoff { first: options.retry_wait, max: WAIT_MAX };
            sleep(backoff.delay(fruitless));
        }
    }

    fn attempt(&mut self, target: &Path, file: &str, meter: &Meter) -> Result<(), Failure> {
        let what = format!("{} of {}", file, self.fetch.name());
        let api = &self.fetch.api;
        let repo = self.fetch.hub_repo(self.commit);
        let failed = |error| classify(self.fetch, error, &what);
        let said = api.metadata(&repo.url(file)).map_err(failed)?;
        self.fetch.outbox.alive();
        let damaged = |problem| HubError::Damaged { what: what.clone(), problem };
        if said.commit_hash() != self.commit || !is_relative(said.etag()) {
            let problem = format!("has commit {:?} and ETag {:?}", said.commit_hash(), said.etag());
            return Err(Failure::Final(damaged(problem)));
        }
        let blob = self.fetch.cache_repo(self.commit).blob_path(said.etag());
        let size = said.size() as u64;
        let problem_of = |path: &Path| {
            verify::problem(path, size, said.etag()).map_err(|source| io(path, source))
        };
        // Another commit may have brought the same file.
        if blob.is_file() && problem_of(&blob)?.is_none() {
            return link(&blob, target).map_err(|source| io(target, source));
        }
        discard_useless(&blob, size).map_err(|source| io(&blob, source))?;
        self.lock.unchecked(Some(target)).map_err(Failure::Final)?;
        repo.download_with_progress(file, meter).map_err(failed)?;
        if let Some(problem) = problem_of(target)? {
            fs::remove_file(target).map_err(|source| io(target, source))?;
            fs::remove_file(&blob).map_err(|source| io(&blob, source))?;
            return Err(Failure::Again(damaged(problem)));
        }
        self.lock.unchecked(None).map_err(Failure::Final)
    }
}

fn io(path: &Path, source: std::io::Error) -> Failure {
    Failure::Final(HubError::Io { path: path.to_owned(), source })
}

/// Takes away a part to which nothing can be added: the client would ask for what lies beyond.
fn discard_useless(blob: &Path, size: u64) -> std::io::Result<()> {
    let part = blob.with_extension("part");
    match fs::metadata(&part) {
        Ok(metadata) if metadata.len() >= size => fs::remove_file(part),
        _ => Ok(()),
    }
}

/// Links as the hub's tools do: relative, from the snapshot to the blob.
fn link(blob: &Path, target: &Path) -> std::io::Result<()> {
    let (Some(folder), Some(repo)) = (target.parent(), blob.parent().and_then(Path::parent)) else {
        return Err(ErrorKind::InvalidInput.into());
    };
    fs::create_dir_all(folder)?;
    let up = folder.strip_prefix(repo).map_err(|_| ErrorKind::InvalidInput)?;
    let mut relative: PathBuf = up.components().map(|_| "..").collect();
    relative.push(blob.strip_prefix(repo).map_err(|_| ErrorKind::InvalidInput)?);
    std::os::unix::fs::symlink(relative, target)
}

/// Returns whether an error comes from this machine's file system, where another try is no help.
fn is_local(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::StorageFull
            | ErrorKind::QuotaExceeded
            | ErrorKind::PermissionDenied
            | ErrorKind::ReadOnlyFilesystem
            | ErrorKind::NotFound
    )
}

fn classify(fetch: &Fetch, error: ApiError, what: &str) -> Failure {
    let passes = match (&error, status_of(&error)) {
        (_, Some(status)) => matches!(status, 408 | 416 | 429 | 500..),
        (ApiError::IoError(error), _) => !is_local(error.kind()),
        (ApiError::RequestError(error), _) => {
            !matches!(**error, ureq::Error::BadUri(_) | ureq::Error::Http(_))
        }
        (ApiError::InvalidResume | ApiError::LockAcquisition(_), _) => true,
        _ => false,
    };
    let error = fetch.api_error(error, what, "file");
    if passes { Failure::Again(error) } else { Failure::Final(error) }
}

/// Counts what arrives of one file.
struct Meter<'a> {
    file: &'a str,
    outbox: &'a Outbox,
    done: Cell<u64>,
    total: Cell<u64>,
    reported: Cell<(u64, Instant)>,
}

impl<'a> Meter<'a> {
    fn new(file: &'a str, outbox: &'a Outbox) -> Self {
        let reported = Cell::new((0, Instant::now()));
        Self { file, outbox, done: Cell::new(0), total: Cell::new(0), reported }
    }
}

impl Progress for &Meter<'_> {
    fn init(&mut self, size: usize, _filename: &str) {
        self.total.set(size as u64);
        self.done.set(0);
        self.reported.set((0, Instant::now()));
    }

    fn update(&mut self, size: usize) {
        let done = self.done.get() + size as u64;
        self.done.set(done);
        let (reported, at) = self.reported.get();
        if done - reported >= REPORT_BYTES || at.elapsed() >= REPORT_PERIOD {
            self.reported.set((done, Instant::now()));
            self.outbox.bytes(self.file, done, self.total.get());
        }
    }

    fn finish(&mut self) {
        self.outbox.bytes(self.file, self.done.get(), self.total.get());
    }
}
