//! Hashes of KV blocks.
//!
//! A block is the KV of [`BLOCK_TOKENS`] consecutive tokens. Its hash is a keyed BLAKE3 hash over the
//! model, the tenant scope, the parent's hash and the exact tokens, every field prefixed with its
//! length. Two processes with the same prefix derive the same hash without communicating, and
//! different models or tenants never share one. The byte layout is a contract: a golden test pins it.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ids::TokenId;

/// Tokens in a full block.
pub const BLOCK_TOKENS: usize = 16;

const VERSION: &[u8] = b"tandem-kv-1";
const KEY_CONTEXT: &str = "tandem 2026-11 kv block name";

/// The BLAKE3 hash of the content of the model's files.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FileDigest(pub [u8; 32]);

/// Digest of weights, dtypes, rope and tokenizer (all inside the files), and of the KV's format: its
/// version, the precision it was computed in, and its layout.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ModelFingerprint(pub [u8; 32]);

impl ModelFingerprint {
    /// Returns the fingerprint of a model whose KV is computed and laid out as `kv_format` describes.
    pub fn new(files: FileDigest, kv_format: &str) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("tandem 2026-11 model fingerprint");
        field(&mut hasher, &files.0);
        field(&mut hasher, kv_format.as_bytes());
        Self(*hasher.finalize().as_bytes())
    }

    /// Returns the namespace of this model's blocks: 16 hexadecimal digits, usable in a subject.
    pub fn namespace(&self) -> String {
        hex(&self.0[..8])
    }
}

/// The tenant part of a block hash. Derived by the gateway, never taken from a client.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Scope(pub [u8; 16]);

impl Scope {
    /// Returns the scope of all clients where authentication is off.
    pub fn shared() -> Self {
        Self::of_tenant("", None)
    }

    /// Returns the scope of an authenticated tenant. A client's `cache_salt` only narrows it.
    pub fn of_tenant(tenant: &str, cache_salt: Option<&str>) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("tandem 2026-11 tenant scope");
        field(&mut hasher, tenant.as_bytes());
        match cache_salt {
            Some(salt) => field(&mut hasher, salt.as_bytes()),
            None => hasher.update(&u64::MAX.to_le_bytes()),
        };
        Self(first_16(&hasher.finalize()))
    }
}

/// The hash of a block: of its tokens and of every token before them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BlockHash(pub [u8; 16]);

impl BlockHash {
    /// Parses the 32 hexadecimal digits that [`fmt::Display`] writes.
    pub fn from_hex(text: &str) -> Option<Self> {
        let mut bytes = [0; 16];
        parse_hex(text, &mut bytes)?;
        Some(Self(bytes))
    }
}

/// The hash chain over the blocks of one sequence, in order.
///
/// The chain runs over full 32-byte hashes; 16 bytes of each go on the wire.
#[derive(Clone, Debug)]
pub struct BlockChain {
    fingerprint: ModelFingerprint,
    scope: Scope,
    parent: Option<[u8; 32]>,
}

impl BlockChain {
    /// Starts the chain of an empty sequence.
    pub fn new(fingerprint: ModelFingerprint, scope: Scope) -> Self {
        Self { fingerprint, scope, parent: None }
    }

    /// Returns the hash of the next full block and moves past it.
    ///
    /// # Panics
    /// If `tokens` is not [`BLOCK_TOKENS`] long: only the tail may be short ([`Self::tail`]).
    pub fn push(&mut self, tokens: &[TokenId]) -> BlockHash {
        assert_eq!(tokens.len(), BLOCK_TOKENS, "a sealed block is full");
        let hash = self.hash(tokens);
        self.parent = Some(hash);
        truncate(&hash)
    }

    /// Returns the hash of a partly filled last block; the number of its tokens is part of it.
    pub fn tail(&self, tokens: &[TokenId]) -> BlockHash {
        truncate(&self.hash(tokens))
    }

    /// Returns the hashes of every full block of `tokens`, from an empty sequence on.
    pub fn sealed(
        fingerprint: ModelFingerprint,
        scope: Scope,
        tokens: &[TokenId],
    ) -> Vec<BlockHash> {
        let mut chain = Self::new(fingerprint, scope);
        tokens.chunks_exact(BLOCK_TOKENS).map(|block| chain.push(block)).collect()
    }

    fn hash(&self, tokens: &[TokenId]) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_derive_key(KEY_CONTEXT);
        field(&mut hasher, VERSION);
        field(&mut hasher, &self.fingerprint.0);
        field(&mut hasher, &self.scope.0);
        field(&mut hasher, self.parent.as_ref().map_or(&[][..], |hash| &hash[..]));
        hasher.update(&(4 * tokens.len() as u64).to_le_bytes());
        for token in tokens {
            hasher.update(&token.to_le_bytes());
        }
        *hasher.finalize().as_bytes()
    }
}

fn truncate(hash: &[u8; 32]) -> BlockHash {
    let mut truncated = [0; 16];
    truncated.copy_from_slice(&hash[..16]);
    BlockHash(truncated)
}

fn field<'a>(hasher: &'a mut blake3::Hasher, bytes: &[u8]) -> &'a mut blake3::Hasher {
    hasher.update(&(bytes.len() as u64).to_le_bytes());
    hasher.update(bytes)
}

fn first_16(hash: &blake3::Hash) -> [u8; 16] {
    truncate(hash.as_bytes()).0
}

/// Writes bytes as lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

pub(crate) fn parse_hex(text: &str, into: &mut [u8]) -> Option<()> {
    if text.len() != 2 * into.len() || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    for (index, byte) in into.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * index..2 * index + 2], 16).ok()?;
    }
    Some(())
}

macro_rules! shown_as_hex {
    ($($name:ident),*) => { $(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    )* };
}

shown_as_hex!(FileDigest, ModelFingerprint, Scope, BlockHash);

#[cfg(test)]
mod tests {
    use super::*;

    fn fingerprint() -> ModelFingerprint {
        ModelFingerprint::new(FileDigest([7; 32]), "f16/b16/l30/kv3/d64")
    }

    #[test]
    fn golden_hashes() {
        let tokens: Vec<u32> = (0..40).collect();
        let hashes = BlockChain::sealed(fingerprint(), Scope::shared(), &tokens);
        let mut chain = BlockChain::new(fingerprint(), Scope::shared());
        chain.push(&tokens[..16]);
        chain.push(&tokens[16..32]);
        let shown: Vec<String> = hashes
            .iter()
            .copied()
            .chain([chain.tail(&tokens[32..])])
            .map(|hash| hash.to_string())
            .collect();
        assert_eq!(
            shown,
            include_str!("../tests/golden/block-names.txt").lines().collect::<Vec<_>>()
        );
    }

    #[test]
    fn every_part_of_a_hash_matters() {
        let tokens: Vec<u32> = (0..16).collect();
        let base = BlockChain::sealed(fingerprint(), Scope::shared(), &tokens)[0];
        let other_model = ModelFingerprint::new(FileDigest([7; 32]), "f16/b16/l30/kv3/d65");
        let salted = Scope::of_tenant("", Some(""));
        let mut swapped = tokens.clone();
        swapped.swap(0, 1);
        let chain = BlockChain::new(fingerprint(), Scope::shared());
        for other in [
            BlockChain::sealed(other_model, Scope::shared(), &tokens)[0],
            BlockChain::sealed(fingerprint(), salted, &tokens)[0],
            BlockChain::sealed(fingerprint(), Scope::shared(), &swapped)[0],
            chain.tail(&tokens[..15]),
        ] {
            assert_ne!(base, other);
        }
    }

    #[test]
    fn the_same_block_after_another_parent_has_another_hash() {
        let tokens: Vec<u32> = (0..16).chain(0..16).collect();
        let hashes = BlockChain::sealed(fingerprint(), Scope::shared(), &tokens);
        assert_ne!(hashes[0], hashes[1]);
    }

    #[test]
    fn tenants_do_not_meet() {
        assert_ne!(Scope::of_tenant("a", None), Scope::of_tenant("b", None));
        assert_ne!(Scope::of_tenant("a", Some("b")), Scope::of_tenant("ab", Some("")));
    }

    #[test]
    fn a_hash_survives_its_text() {
        let hash = BlockHash([0xab; 16]);
        assert_eq!(BlockHash::from_hex(&hash.to_string()), Some(hash));
        assert_eq!(BlockHash::from_hex("+b"), None);
    }
}
