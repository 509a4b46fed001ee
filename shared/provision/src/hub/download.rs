//! Fetches the files of one model, each until it is whole.

use std::collections::BTreeSet;
use std::fs::{self, File, TryLockError};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use hf_hub::api::sync::{Api, ApiBuilder, ApiError, ApiRepo};
use hf_hub::{Cache, CacheRepo, Repo, RepoType};

use super::choice::{self, Choice, INDEX};
use super::reference::is_relative;
use super::transfer::Transfer;
use super::{HubError, HubOptions, HubRef, Outbox};

/// The time that another process may take for the same repository.
const BUSY_LIMIT: Duration = Duration::from_secs(4 * 3600);
const BUSY_POLL: Duration = Duration::from_millis(200);

/// One model being fetched.
pub(super) struct Fetch {
    reference: HubRef,
    pub(super) options: HubOptions,
    cache: Cache,
    pub(super) api: Api,
    token_sent: bool,
    pub(super) outbox: Outbox,
}

impl Fetch {
    pub(super) fn new(
        reference: HubRef,
        options: HubOptions,
        outbox: Outbox,
    ) -> Result<Self, HubError> {
        let cache = options.cache.clone().map_or_else(Cache::default, Cache::new);
        let token = options.token.clone().or_else(|| cache.token());
        let token_sent = token.is_some();
        let api = ApiBuilder::from_cache(cache.clone())
            .with_endpoint(options.endpoint.clone())
            .with_token(token)
            .with_progress(false)
            .with_user_agent("tandem", env!("CARGO_PKG_VERSION"))
            .build();
        let api = api.map_err(|error| HubError::Unreachable {
            what: reference.to_string(),
            endpoint: options.endpoint.clone(),
            source: Box::new(error),
        })?;
        Ok(Self { reference, options, cache, api, token_sent, outbox })
    }

    /// Fetches what is missing; gives the path to open.
    pub(super) fn run(&self) -> Result<PathBuf, HubError> {
        if self.options.offline {
            return self.cached().ok_or_else(|| HubError::Offline {
                what: self.reference.to_string(),
                cache: self.cache.path().clone(),
            });
        }
        let info = match self.hub_repo(&self.reference.revision).info() {
            Ok(info) => info,
            Err(error) => return self.without_hub(error),
        };
        self.outbox.alive();
        if !is_plain(&info.sha) {
            return Err(self.choice_error(format!("has a strange commit {:?}", info.sha)));
        }
        // A name that leads out of its directory is no file of ours.
        let files: BTreeSet<String> = info
            .siblings
            .into_iter()
            .map(|sibling| sibling.rfilename)
            .filter(|name| is_relative(name))
            .collect();
        let choice = choice::choose(&files, self.reference.file.as_deref())
            .map_err(|problem| self.choice_error(problem))?;
        let mut lock = self.lock()?;
        let snapshot = self.cache_repo(&info.sha).pointer_path(&info.sha);
        for file in choice.files() {
            Transfer { fetch: self, commit: &info.sha, lock: &mut lock }.obtain(&snapshot, file)?;
        }
        if let Choice::Safetensors(chosen) = &choice
            && chosen.iter().any(|file| file == INDEX)
        {
            let path = snapshot.join(INDEX);
            let index = fs::read(&path).map_err(|source| HubError::Io { path, source })?;
            let shards =
                choice::shards(&index, &files).map_err(|problem| self.choice_error(problem))?;
            for file in &shards {
                Transfer { fetch: self, commit: &info.sha, lock: &mut lock }
                    .obtain(&snapshot, file)?;
            }
        }
        // From now on the revision's name leads here, also when the hub cannot be asked.
        self.cache_repo(&self.reference.revision)
            .create_ref(&info.sha)
            .map_err(|source| HubError::Io { path: snapshot.clone(), source })?;
        Ok(target(&snapshot, &choice))
    }

    /// Returns the model in the cache when the hub does not answer. A refusal of the hub counts.
    fn without_hub(&self, error: ApiError) -> Result<PathBuf, HubError> {
        let error = self.api_error(error, &self.reference.to_string(), "repository");
        let is_refusal = match &error {
            HubError::Unreachable { .. } => false,
            HubError::Status { status, .. } => *status < 500,
            _ => true,
        };
        match self.cached() {
            Some(path) if !is_refusal => {
                self.outbox.note(format!("{error}; using {}", path.display()));
                Ok(path)
            }
            _ => Err(error),
        }
    }

    /// The model as an earlier fetch left it, if it is whole.
    fn cached(&self) -> Option<PathBuf> {
        let HubRef { revision, file, .. } = &self.reference;
        let reference = self.repo_dir().join("refs").join(revision);
        let commit = fs::read_to_string(reference).ok()?;
        let commit = commit.trim();
        let snapshot = is_plain(commit).then(|| self.cache_repo(commit).pointer_path(commit))?;
        let mut files = BTreeSet::new();
        list_files(&snapshot, &snapshot, &mut files);
        let choice = choice::choose(&files, file.as_deref()).ok()?;
        if choice.files().iter().any(|file| file == INDEX) {
            choice::shards(&fs::read(snapshot.join(INDEX)).ok()?, &files).ok()?;
        }
        Some(target(&snapshot, &choice))
    }

    /// Makes processes that fetch the same repository wait for each other.
    fn lock(&self) -> Result<RepoLock, HubError> {
        let folder = self.cache.path().join(".locks").join(self.folder_name());
        let path = folder.join("tandem.lock");
        let io = |source| HubError::Io { path: path.clone(), source };
        fs::create_dir_all(&folder).map_err(io)?;
        let open = File::options().create(true).truncate(false).read(true).write(true).open(&path);
        let file = open.map_err(io)?;
        let started = Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::Error(error)) => return Err(io(error)),
                Err(TryLockError::WouldBlock) if started.elapsed() < BUSY_LIMIT => {
                    sleep(BUSY_POLL);
                    self.outbox.alive();
                }
                Err(TryLockError::WouldBlock) => {
                    let what = self.reference.to_string();
                    return Err(HubError::Busy { what, seconds: BUSY_LIMIT.as_secs() });
                }
            }
        }
        let mut lock = RepoLock { file, path };
        lock.forget_unchecked()?;
        Ok(lock)
    }

    /// Returns the name of the repository.
    pub(super) fn name(&self) -> &str {
        &self.reference.repo
    }

    pub(super) fn hub_repo(&self, revision: &str) -> ApiRepo {
        self.api.repo(self.repo(revision))
    }

    pub(super) fn cache_repo(&self, revision: &str) -> CacheRepo {
        self.cache.repo(self.repo(revision))
    }

    fn repo(&self, revision: &str) -> Repo {
        let repo = self.reference.repo.clone();
        Repo::with_revision(repo, RepoType::Model, revision.to_owned())
    }

    fn folder_name(&self) -> String {
        self.repo(&self.reference.revision).folder_name()
    }

    fn repo_dir(&self) -> PathBuf {
        self.cache.path().join(self.folder_name())
    }

    fn choice_error(&self, problem: String) -> HubError {
        HubError::Choice { repo: self.reference.repo.clone(), problem }
    }

    /// The error for people; `what` of `kind` was asked for.
    pub(super) fn api_error(&self, error: ApiError, what: &str, kind: &'static str) -> HubError {
        let (what, endpoint) = (what.to_owned(), self.options.endpoint.clone());
        match status_of(&error) {
            Some(status @ (401 | 403)) => {
                HubError::Denied { what, endpoint, status, token_sent: self.token_sent }
            }
            Some(404) => HubError::NotFound { what, endpoint, kind },
            Some(status) => HubError::Status { what, endpoint, status },
            None => HubError::Unreachable { what, endpoint, source: Box::new(error) },
        }
    }
}

/// The status with which the hub refused, if it answered.
pub(super) fn status_of(error: &ApiError) -> Option<u16> {
    match error {
        ApiError::RequestError(error) => match **error {
            ureq::Error::StatusCode(status) => Some(status),
            _ => None,
        },
        _ => None,
    }
}

/// The lock of one repository. Its file names what is fetched and not checked yet, so that a process
/// that ends in between leaves nothing behind that looks whole.
pub(super) struct RepoLock {
    file: File,
    path: PathBuf,
}

impl RepoLock {
    /// Writes down which file is about to appear unchecked; nothing when it was checked.
    pub(super) fn unchecked(&mut self, path: Option<&Path>) -> Result<(), HubError> {
        let text = path.map_or_else(String::new, |path| path.display().to_string());
        let write = self.file.set_len(0).and_then(|()| self.file.write_all_at(text.as_bytes(), 0));
        write.map_err(|source| HubError::Io { path: self.path.clone(), source })
    }

    /// Takes away what an earlier process did not come to check.
    fn forget_unchecked(&mut self) -> Result<(), HubError> {
        let left = fs::read_to_string(&self.path).unwrap_or_default();
        let left = Path::new(&left);
        let is_ours =
            left.is_symlink() && left.components().any(|part| part.as_os_str() == "snapshots");
        if is_ours {
            let io = |source| HubError::Io { path: left.to_owned(), source };
            if let Ok(blob) = left.canonicalize() {
                fs::remove_file(blob).map_err(io)?;
            }
            fs::remove_file(left).map_err(io)?;
        }
        self.unchecked(None)
    }
}

/// Returns whether a commit can be the name of a directory.
fn is_plain(commit: &str) -> bool {
    is_relative(commit) && !commit.contains('/')
}

fn target(snapshot: &Path, choice: &Choice) -> PathBuf {
    match choice {
        Choice::Gguf(files) => snapshot.join(&files[0]),
        Choice::Safetensors(_) => snapshot.to_path_buf(),
    }
}

/// The files below `folder`, as the repository names them.
fn list_files(root: &Path, folder: &Path, into: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            list_files(root, &path, into);
        } else if let Some(name) = path.strip_prefix(root).ok().and_then(Path::to_str)
            && path.exists()
        {
            into.insert(name.to_owned());
        }
    }
}
