//! Reads little-endian fields of a header without ever asking for more than the file can hold.

use crate::error::ModelFileError;
use std::io::Read;

/// A header may not be longer than this, however large its file is.
const HEADER_BYTES_MAX: u64 = 256 << 20;

/// A bounded reader; `left` falls with every byte, and no allocation exceeds it.
pub(crate) struct Reader<R> {
    inner: R,
    left: u64,
    taken: u64,
}

impl<R: Read> Reader<R> {
    pub(crate) fn new(inner: R, file_bytes: u64) -> Self {
        Self { inner, left: file_bytes.min(HEADER_BYTES_MAX), taken: 0 }
    }

    /// Bytes read so far.
    pub(crate) fn position(&self) -> u64 {
        self.taken
    }

    /// Refuses `count` items of at least `item_bytes` each when they cannot be there.
    pub(crate) fn check_count(
        &self,
        field: &str,
        count: u64,
        item_bytes: u64,
    ) -> Result<usize, ModelFileError> {
        match count.checked_mul(item_bytes) {
            Some(bytes) if bytes <= self.left => Ok(count as usize),
            _ => Err(ModelFileError::field(
                field,
                format!("count {count} does not fit the {} bytes left in the header", self.left),
            )),
        }
    }

    fn fill(&mut self, field: &str, buffer: &mut [u8]) -> Result<(), ModelFileError> {
        let wanted = buffer.len() as u64;
        if wanted > self.left {
            return Err(ModelFileError::field(field, "runs past the end of the file"));
        }
        self.inner
            .read_exact(buffer)
            .map_err(|error| ModelFileError::field(field, format!("cannot be read: {error}")))?;
        self.left -= wanted;
        self.taken += wanted;
        Ok(())
    }

    pub(crate) fn array<const N: usize>(&mut self, field: &str) -> Result<[u8; N], ModelFileError> {
        let mut buffer = [0; N];
        self.fill(field, &mut buffer)?;
        Ok(buffer)
    }

    pub(crate) fn bytes(&mut self, field: &str, count: usize) -> Result<Vec<u8>, ModelFileError> {
        let count = self.check_count(field, count as u64, 1)?;
        let mut buffer = vec![0; count];
        self.fill(field, &mut buffer)?;
        Ok(buffer)
    }

    pub(crate) fn u32(&mut self, field: &str) -> Result<u32, ModelFileError> {
        Ok(u32::from_le_bytes(self.array(field)?))
    }

    pub(crate) fn u64(&mut self, field: &str) -> Result<u64, ModelFileError> {
        Ok(u64::from_le_bytes(self.array(field)?))
    }

    /// Reads a length-prefixed text.
    pub(crate) fn text(&mut self, field: &str) -> Result<String, ModelFileError> {
        let length = self.u64(field)?;
        let length = self.check_count(field, length, 1)?;
        String::from_utf8(self.bytes(field, length)?)
            .map_err(|_| ModelFileError::field(field, "is not UTF-8"))
    }
}
