//! The systems that run on this machine, each announced by its `tandem up` in a file of the cache, so
//! that `chat` and `status` find them without a URL.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use protocol::NatsUrl;
use serde_json::{Value, json};

/// The addresses of a running system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Running {
    /// Base URL of its gateway.
    pub(crate) base_url: String,
    /// URL of its NATS server.
    pub(crate) nats_url: NatsUrl,
}

/// The announcement of a system, withdrawn when dropped.
///
/// The file is locked for as long as its owner lives: a file without a lock is stale.
#[derive(Debug)]
pub(super) struct Announcement {
    path: PathBuf,
    _lock: File,
}

impl Running {
    /// Announces a system of this process.
    pub(super) fn announce(&self, cache: &Path) -> io::Result<Announcement> {
        let folder = folder(cache);
        fs::create_dir_all(&folder)?;
        let path = folder.join(format!("{}.json", std::process::id()));
        // It appears under its name when it is locked and whole.
        let draft = path.with_extension("draft");
        // The URL may hold a password.
        let mut file =
            File::options().create(true).truncate(true).write(true).mode(0o600).open(&draft)?;
        file.lock()?;
        let Self { base_url, nats_url } = self;
        let text =
            json!({ "pid": std::process::id(), "gateway": base_url, "nats": nats_url.expose() });
        file.write_all(text.to_string().as_bytes())?;
        fs::rename(&draft, &path)?;
        Ok(Announcement { path, _lock: file })
    }

    /// Returns the system that was started last, if any runs. Removes stale announcements.
    pub(crate) fn find(cache: &Path) -> Option<Self> {
        let entries = fs::read_dir(folder(cache)).ok()?.flatten();
        let files = entries.map(|entry| entry.path());
        let files =
            files.filter(|path| path.extension().is_some_and(|extension| extension == "json"));
        let announced = files.filter_map(|path| read(&path));
        announced.max_by_key(|(started, _)| *started).map(|(_, running)| running)
    }
}

impl Drop for Announcement {
    fn drop(&mut self) {
        // A file that stays is stale, and removed by whoever looks next.
        let _ = fs::remove_file(&self.path);
    }
}

fn folder(cache: &Path) -> PathBuf {
    cache.join("running")
}

fn read(path: &Path) -> Option<(SystemTime, Running)> {
    let file = File::open(path).ok()?;
    match file.try_lock_shared() {
        Err(TryLockError::WouldBlock) => {}
        Ok(()) | Err(TryLockError::Error(_)) => {
            let _ = fs::remove_file(path);
            return None;
        }
    }
    let started = file.metadata().ok()?.modified().ok()?;
    let value: Value = serde_json::from_str(&fs::read_to_string(path).ok()?).ok()?;
    let text = |name: &str| value[name].as_str().map(str::to_owned);
    Some((started, Running { base_url: text("gateway")?, nats_url: text("nats")?.into() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn running(port: u16) -> Running {
        Running {
            base_url: format!("http://127.0.0.1:{port}"),
            nats_url: "nats://127.0.0.1:4222".into(),
        }
    }

    #[test]
    fn a_system_is_found_while_it_runs() {
        let cache = tempfile::tempdir().unwrap();
        assert_eq!(Running::find(cache.path()), None);
        let announcement = running(1).announce(cache.path()).unwrap();
        assert_eq!(Running::find(cache.path()), Some(running(1)));
        drop(announcement);
        assert_eq!(Running::find(cache.path()), None);
    }

    #[test]
    fn what_a_killed_owner_left_is_ignored_and_removed() {
        let cache = tempfile::tempdir().unwrap();
        let announcement = running(1).announce(cache.path()).unwrap();
        let left = fs::read(&announcement.path).unwrap();
        drop(announcement);
        let path = folder(cache.path()).join("1.json");
        fs::write(&path, left).unwrap();
        assert_eq!(Running::find(cache.path()), None);
        assert!(!path.exists());
    }
}
