//! Bounded, hashed reading of files of unknown origin.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use super::draft::Draft;
use super::error::{Problem, TraceError};

/// Longest line in a file with one record per line.
pub(crate) const LINE_BYTES_MAX: u64 = 4 << 20;
/// Largest file.
const FILE_BYTES_MAX: u64 = 4 << 30;
/// Largest number of files in a folder.
const FOLDER_FILES_MAX: usize = 100_000;

/// A file that is hashed as it is read. Reading fails at a limit.
pub(crate) struct Guarded {
    file: File,
    hasher: blake3::Hasher,
    left: u64,
    line_limit: Option<u64>,
    line: u64,
}

impl Guarded {
    /// Opens `path`. The length of a line is limited only if `lines` are records.
    pub(crate) fn open(path: &Path, lines: bool) -> Result<Self, TraceError> {
        let io = TraceError::io(path);
        let file = File::open(path).map_err(&io)?;
        let kind = file.metadata().map_err(&io)?;
        if kind.is_dir() {
            return Err(io(io::Error::new(
                io::ErrorKind::IsADirectory,
                "is a folder: expected a file",
            )));
        }
        let line_limit = lines.then_some(LINE_BYTES_MAX);
        Ok(Self { file, hasher: blake3::Hasher::new(), left: FILE_BYTES_MAX, line_limit, line: 0 })
    }

    /// Returns the digest of everything read so far.
    pub(crate) fn digest(&self) -> [u8; 32] {
        *self.hasher.finalize().as_bytes()
    }

    fn check_lines(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Some(limit) = self.line_limit else { return Ok(()) };
        for piece in bytes.split_inclusive(|b| *b == b'\n') {
            self.line += piece.len() as u64;
            if self.line > limit {
                return Err(io::Error::other(format!("a line is longer than {limit} bytes")));
            }
            if piece.ends_with(b"\n") {
                self.line = 0;
            }
        }
        Ok(())
    }
}

impl Read for Guarded {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buffer)?;
        self.hasher.update(&buffer[..read]);
        self.left = self.left.checked_sub(read as u64).ok_or_else(|| {
            io::Error::other(format!("the file is larger than {FILE_BYTES_MAX} bytes"))
        })?;
        self.check_lines(&buffer[..read])?;
        Ok(read)
    }
}

/// Lines of a file with one record per line.
pub(crate) struct Lines {
    reader: BufReader<Guarded>,
    path: PathBuf,
    buffer: Vec<u8>,
    number: u64,
}

impl Lines {
    pub(crate) fn open(path: &Path) -> Result<Self, TraceError> {
        // `next_line` checks the limit, because it has the number of the line.
        let reader = BufReader::new(Guarded::open(path, false)?);
        Ok(Self { reader, path: path.to_owned(), buffer: Vec::new(), number: 0 })
    }

    /// Reads the next line and its number; `None` at the end of the file.
    pub(crate) fn next_line(&mut self) -> Result<Option<(u64, &str)>, TraceError> {
        self.buffer.clear();
        let mut bounded = (&mut self.reader).take(LINE_BYTES_MAX + 1);
        let read =
            bounded.read_until(b'\n', &mut self.buffer).map_err(TraceError::io(&self.path))?;
        if read == 0 {
            return Ok(None);
        }
        self.number += 1;
        let bad = |value: String, expected: &str| {
            Problem::new("the line", value, expected).at(&self.path, self.number)
        };
        if read as u64 > LINE_BYTES_MAX {
            return Err(bad("longer".to_owned(), &format!("at most {LINE_BYTES_MAX} bytes")));
        }
        let bytes = self.buffer.strip_suffix(b"\n").unwrap_or(&self.buffer);
        let bytes = bytes.strip_suffix(b"\r").unwrap_or(bytes);
        let text = std::str::from_utf8(bytes)
            .map_err(|e| bad(format!("broken at byte {}", e.valid_up_to() + 1), "UTF-8"))?;
        if text.trim().is_empty() {
            return Err(bad("empty".to_owned(), "a record"));
        }
        Ok(Some((self.number, text)))
    }

    /// Passes every remaining line to `take`, and adds the digest of the file to `draft`.
    pub(crate) fn drain(
        mut self,
        draft: &mut Draft,
        mut take: impl FnMut(&str, &mut Draft) -> Result<(), Problem>,
    ) -> Result<(), TraceError> {
        let path = self.path.clone();
        while let Some((number, text)) = self.next_line()? {
            take(text, draft).map_err(|problem| problem.at(&path, number))?;
        }
        draft.add_digest(self.digest());
        Ok(())
    }

    /// Returns the digest of everything read so far.
    pub(crate) fn digest(&self) -> [u8; 32] {
        self.reader.get_ref().digest()
    }
}

/// Returns the files of a folder by name, without hidden ones.
pub(crate) fn files_of(folder: &Path) -> Result<Vec<PathBuf>, TraceError> {
    let io = TraceError::io(folder);
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(&io)? {
        let path = entry.map_err(&io)?.path();
        let hidden = path.file_name().is_none_or(|name| name.to_string_lossy().starts_with('.'));
        if hidden || !path.is_file() {
            continue;
        }
        if files.len() == FOLDER_FILES_MAX {
            let message = format!("the folder holds more than {FOLDER_FILES_MAX} files");
            return Err(io(io::Error::other(message)));
        }
        files.push(path);
    }
    files.sort_unstable();
    Ok(files)
}
