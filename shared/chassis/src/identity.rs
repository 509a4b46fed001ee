//! Names that tell one process from another.

use std::hash::{BuildHasher as _, Hasher as _};

/// Returns `configured`, or the host's name with a random number when that is empty.
///
/// The result fits into a NATS subject: letters, digits, `-` and `_` only.
pub fn instance_id(configured: &str) -> String {
    if !configured.is_empty() {
        return configured.to_owned();
    }
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = host.trim().chars().take(32);
    let mut host: String =
        host.map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' }).collect();
    if host.is_empty() {
        host.push_str("host");
    }
    format!("{host}-{:08x}", random_bits() >> 32)
}

/// Returns bits of the system's randomness, with which the standard library keys each `RandomState`.
fn random_bits() -> u64 {
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configured_name_is_kept() {
        assert_eq!(instance_id("prefill-3"), "prefill-3");
    }

    #[test]
    fn generated_names_differ_and_fit_into_a_subject() {
        let (one, other) = (instance_id(""), instance_id(""));
        assert_ne!(one, other);
        assert!(one.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_'), "{one}");
    }
}
