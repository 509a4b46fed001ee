//! Reads a text file line by line with a bound on the line length, hashing what it reads.

use std::io::{BufRead, Read};
use std::path::Path;

use super::TraceError;

/// The longest line accepted.
pub(super) const MAX_LINE_BYTES: usize = 4 << 20;

/// One line without its end.
pub(super) struct Line<'a> {
    /// Its number, from 1.
    pub(super) number: usize,
    /// Its text.
    pub(super) text: &'a str,
}

/// A problem with a line before its content is looked at.
pub(super) enum LineError {
    Io(std::io::Error),
    Bad(usize, &'static str),
}

impl LineError {
    pub(super) fn locate(self, path: &Path) -> TraceError {
        let path = path.to_owned();
        match self {
            Self::Io(source) => TraceError::Io { path, source },
            Self::Bad(line, problem) => {
                TraceError::Line { path, line, problem: problem.to_owned() }
            }
        }
    }
}

/// The lines of a reader.
pub(super) struct Lines<R> {
    reader: R,
    buffer: Vec<u8>,
    number: usize,
    hasher: blake3::Hasher,
}

impl<R: BufRead> Lines<R> {
    pub(super) fn new(reader: R) -> Self {
        Self { reader, buffer: Vec::new(), number: 0, hasher: blake3::Hasher::new() }
    }

    /// The next line, none at the end of the file.
    pub(super) fn next_line(&mut self) -> Result<Option<Line<'_>>, LineError> {
        self.buffer.clear();
        let mut bounded = (&mut self.reader).take(MAX_LINE_BYTES as u64 + 1);
        let read = bounded.read_until(b'\n', &mut self.buffer).map_err(LineError::Io)?;
        if read == 0 {
            return Ok(None);
        }
        self.number += 1;
        if read > MAX_LINE_BYTES {
            return Err(LineError::Bad(self.number, "longer than 4 MiB"));
        }
        self.hasher.update(&self.buffer);
        let bytes = self.buffer.strip_suffix(b"\n").unwrap_or(&self.buffer);
        let bytes = bytes.strip_suffix(b"\r").unwrap_or(bytes);
        let text = std::str::from_utf8(bytes)
            .map_err(|_| LineError::Bad(self.number, "not valid UTF-8"))?;
        if text.trim().is_empty() {
            return Err(LineError::Bad(self.number, "the line is empty"));
        }
        Ok(Some(Line { number: self.number, text }))
    }

    /// Digest of everything read so far.
    pub(super) fn digest(&self) -> [u8; 32] {
        *self.hasher.finalize().as_bytes()
    }
}
