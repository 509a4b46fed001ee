//! Bounded, hashed reading of files of unknown origin.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use super::draft::Draft;
use super::error::{Problem, TraceError};
use super::oddity::Oddity;

/// Longest line in a file with one record per line.
pub(crate) const LINE_BYTES_MAX: u64 = 4 << 20;
/// Largest file.
const FILE_BYTES_MAX: u64 = 4 << 30;
/// Largest number of files in a folder.
const FOLDER_FILES_MAX: usize = 100_000;

/// Mark that some programs write before UTF-8 text.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// A file that is hashed as it is read. Reading fails at a limit.
pub(crate) struct Guarded {
    file: File,
    hasher: blake3::Hasher,
    left: u64,
}

impl Guarded {
    pub(crate) fn open(path: &Path) -> Result<Self, TraceError> {
        let io = TraceError::io(path);
        let file = File::open(path).map_err(&io)?;
        let kind = file.metadata().map_err(&io)?;
        if kind.is_dir() {
            return Err(io(io::Error::new(
                io::ErrorKind::IsADirectory,
                "is a folder: expected a file",
            )));
        }
        Ok(Self { file, hasher: blake3::Hasher::new(), left: FILE_BYTES_MAX })
    }

    /// Returns the digest of everything read so far.
    pub(crate) fn digest(&self) -> [u8; 32] {
        *self.hasher.finalize().as_bytes()
    }
}

impl Read for Guarded {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buffer)?;
        self.hasher.update(&buffer[..read]);
        self.left = self.left.checked_sub(read as u64).ok_or_else(|| {
            io::Error::other(format!("the file is larger than {FILE_BYTES_MAX} bytes"))
        })?;
        Ok(read)
    }
}

/// Skips a byte-order mark at the beginning of a file; returns whether there was one.
pub(crate) fn skip_mark(file: &mut impl BufRead) -> io::Result<bool> {
    let marked = file.fill_buf()?.starts_with(BYTE_ORDER_MARK);
    if marked {
        file.consume(BYTE_ORDER_MARK.len());
    }
    Ok(marked)
}

/// Lines of a file with one record per line.
pub(crate) struct Lines {
    reader: BufReader<Guarded>,
    buffer: Vec<u8>,
}

impl Lines {
    /// Opens the file at `path` as the next one of `draft`, which counts its lines.
    pub(crate) fn open(path: &Path, draft: &mut Draft) -> Result<Self, TraceError> {
        draft.begin_file(path);
        Ok(Self { reader: BufReader::new(Guarded::open(path)?), buffer: Vec::new() })
    }

    /// Reads the next line that is not empty; `None` at the end of the file.
    pub(crate) fn next_line(&mut self, draft: &mut Draft) -> Result<Option<&str>, TraceError> {
        loop {
            if !self.read_line(draft)? {
                return Ok(None);
            }
            if self.buffer.starts_with(BYTE_ORDER_MARK) {
                self.buffer.drain(..BYTE_ORDER_MARK.len());
                draft.skipped_mark().map_err(|problem| draft.locate(problem))?;
            }
            if !self.buffer.trim_ascii().is_empty() {
                break;
            }
            let problem = Problem::new("the line", "empty", "a record");
            draft.odd(Oddity::EmptyLine, problem).map_err(|problem| draft.locate(problem))?;
        }
        let text = std::str::from_utf8(&self.buffer).map_err(|error| {
            let value = format!("broken at byte {}", error.valid_up_to() + 1);
            draft.locate(Problem::new("the line", value, "UTF-8"))
        })?;
        Ok(Some(text.trim_end_matches(['\r', '\n'])))
    }

    /// Reads the next line to the buffer; false at the end of the file.
    fn read_line(&mut self, draft: &mut Draft) -> Result<bool, TraceError> {
        self.buffer.clear();
        let mut bounded = (&mut self.reader).take(LINE_BYTES_MAX + 1);
        let read = bounded.read_until(b'\n', &mut self.buffer).map_err(|e| draft.io_error(e))?;
        draft.line += u64::from(read > 0);
        if read as u64 > LINE_BYTES_MAX {
            let expected = format!("at most {LINE_BYTES_MAX} bytes");
            return Err(draft.locate(Problem::new("the line", "longer", expected)));
        }
        Ok(read > 0)
    }

    /// Passes every remaining line to `take`, and adds the digest of the file to `draft`.
    pub(crate) fn drain(
        mut self,
        draft: &mut Draft,
        mut take: impl FnMut(&str, &mut Draft) -> Result<(), Problem>,
    ) -> Result<(), TraceError> {
        while let Some(text) = self.next_line(draft)? {
            take(text, draft).map_err(|problem| draft.locate(problem))?;
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
