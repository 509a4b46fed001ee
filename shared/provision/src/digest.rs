//! Digests of files, which may be larger than memory.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use sha2::Digest;

/// Returns the digest of a file's bytes after those that `hasher` has, in lower-case hexadecimal.
pub(crate) fn digest<D: Digest>(path: &Path, mut hasher: D) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()),
            filled => hasher.update(&buffer[..filled]),
        }
    }
}
