//! The check of a file against the size and digest of the hub.

use std::io;
use std::path::Path;

use sha1::Sha1;
use sha2::{Digest as _, Sha256};

use crate::digest::digest;

/// Returns what is wrong with the file at `path`, if anything: it must have `size` bytes, and the digest
/// that `etag` is, where it is one (SHA-256 of large files, git's own of small ones).
pub(super) fn problem(path: &Path, size: u64, etag: &str) -> io::Result<Option<String>> {
    let found = std::fs::metadata(path)?.len();
    if found != size {
        return Ok(Some(format!("has {found} bytes, the hub says {size}")));
    }
    let is_hex =
        |length: usize| etag.len() == length && etag.bytes().all(|b| b.is_ascii_hexdigit());
    let found = if is_hex(64) {
        digest(path, Sha256::new())?
    } else if is_hex(40) {
        digest(path, Sha1::new().chain_update(format!("blob {size}\0")))?
    } else {
        return Ok(None);
    };
    let is_same = found.eq_ignore_ascii_case(etag);
    Ok((!is_same).then(|| format!("has digest {found}, the hub says {etag}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn size_and_either_digest_are_held_against_the_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "hello\n").unwrap();
        let check = |size, etag: &str| problem(file.path(), size, etag).unwrap();
        let git = "ce013625030ba8dba906f756967f9e9ca394464a";
        let sha256 = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";
        assert_eq!(check(6, git), None);
        assert_eq!(check(6, sha256), None);
        assert_eq!(check(6, "anything"), None);
        assert!(check(7, "anything").unwrap().contains("6 bytes, the hub says 7"));
        for wrong in [git.replace('c', "d"), sha256.replace('5', "6")] {
            assert!(check(6, &wrong).unwrap().contains("the hub says"), "{wrong}");
        }
    }
}
