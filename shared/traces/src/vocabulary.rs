//! The tokenizer that counts the tokens of traces of texts, as its users provide it.

/// A text or a list of ids that a tokenizer did not accept.
#[derive(Debug, thiserror::Error)]
#[error("tokenizer: {0}")]
pub struct TokenizerError(pub String);

/// Turns text into token ids and back.
pub trait Vocabulary: Send + Sync {
    /// The token ids of `text`, without special tokens around it.
    fn encode(&self, text: &str) -> Result<Vec<u32>, TokenizerError>;
    /// The text of `ids`.
    fn decode(&self, ids: &[u32]) -> Result<String, TokenizerError>;
    /// How many ids there are.
    fn size(&self) -> u32;
}
