//! The tokenizer interface of traces of texts.

/// A text or a list of ids that a tokenizer refused.
#[derive(Debug, thiserror::Error)]
#[error("tokenizer: {0}")]
pub struct TokenizerError(pub String);

/// A tokenizer: text to token ids and back.
pub trait Vocabulary: Send + Sync {
    /// Returns the token ids of `text`, without special tokens.
    fn encode(&self, text: &str) -> Result<Vec<u32>, TokenizerError>;
    /// Returns the text of `ids`.
    fn decode(&self, ids: &[u32]) -> Result<String, TokenizerError>;
    /// Returns the number of token ids.
    fn size(&self) -> u32;
}
