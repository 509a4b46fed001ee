//! The directory of the private nats-server's files, removed also after an owner that was killed.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

/// Held while directories are claimed and cleared.
const GATE: &str = "gate";
const LOCK: &str = "lock";

/// A directory of our own, removed when dropped.
///
/// Its lock file is locked for as long as this process lives. A directory without a lock has no
/// owner.
#[derive(Debug)]
pub(super) struct StoreDir {
    path: PathBuf,
    lock_path: PathBuf,
    _lock: File,
}

impl StoreDir {
    /// Claims a new directory below `root`, after removing those whose owners are gone.
    pub(super) fn claim(root: &Path) -> io::Result<Self> {
        fs::create_dir_all(root)?;
        let gate = File::create(root.join(GATE))?;
        gate.lock()?;
        let mut taken = Vec::new();
        for entry in fs::read_dir(root)? {
            let lock_path = entry?.path();
            if lock_path.extension().is_some_and(|extension| extension == LOCK)
                && !clear_if_left(&lock_path)?
            {
                taken.push(lock_path);
            }
        }
        let free = (0..).map(|number| root.join(format!("{number}.{LOCK}")));
        let lock_path = free.into_iter().find(|path| !taken.contains(path));
        let lock_path = lock_path.unwrap_or_else(|| root.join(format!("0.{LOCK}")));
        let lock = File::create(&lock_path)?;
        lock.lock()?;
        let path = lock_path.with_extension("");
        fs::create_dir_all(&path)?;
        Ok(Self { path, lock_path, _lock: lock })
    }

    /// Returns the directory.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for StoreDir {
    fn drop(&mut self) {
        // Remains are removed by the next claim.
        let _ = fs::remove_dir_all(&self.path);
        let _ = fs::remove_file(&self.lock_path);
    }
}

/// Removes the directory of a dead owner. Returns false when the owner lives.
fn clear_if_left(lock_path: &Path) -> io::Result<bool> {
    match File::open(lock_path)?.try_lock() {
        Err(TryLockError::WouldBlock) => return Ok(false),
        Err(TryLockError::Error(error)) => return Err(error),
        Ok(()) => {}
    }
    match fs::remove_dir_all(lock_path.with_extension("")) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fs::remove_file(lock_path)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(root: &Path) -> Vec<String> {
        let entries = fs::read_dir(root).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn living_owners_have_directories_of_their_own() {
        let root = tempfile::tempdir().unwrap();
        let one = StoreDir::claim(root.path()).unwrap();
        fs::write(one.path().join("file"), "kept").unwrap();
        let other = StoreDir::claim(root.path()).unwrap();
        assert_ne!(one.path(), other.path());
        assert!(one.path().join("file").exists());
        drop((one, other));
        assert_eq!(names(root.path()), [GATE]);
    }

    #[test]
    fn the_directory_of_a_dead_owner_is_removed() {
        let root = tempfile::tempdir().unwrap();
        // The remains of an owner that was killed: files, and an unlocked lock file.
        fs::create_dir(root.path().join("0")).unwrap();
        fs::write(root.path().join("0/file"), "left").unwrap();
        fs::write(root.path().join("0.lock"), "").unwrap();
        let next = StoreDir::claim(root.path()).unwrap();
        assert_eq!(fs::read_dir(next.path()).unwrap().count(), 0);
        assert_eq!(names(root.path()), ["0", "0.lock", GATE]);
    }
}
