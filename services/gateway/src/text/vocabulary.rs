//! The vocabulary of a model, as the gateway uses it.

use protocol::{TokenId, simulated};

/// A conversion of text to tokens and back to exact bytes.
pub trait Vocabulary: Send + Sync + 'static {
    /// Returns the tokens of `text`; the texts of special tokens become those tokens.
    fn encode(&self, text: &str) -> Result<Vec<TokenId>, String>;
    /// Returns the bytes of a token, which need not be whole characters.
    fn token_bytes(&self, token: TokenId) -> Vec<u8>;
    /// Returns true for a control token, which is not text.
    fn is_special(&self, token: TokenId) -> bool;
    /// Returns the number of tokens: one more than the largest.
    fn size(&self) -> usize;

    /// Returns the text of tokens; bytes that are no UTF-8 become replacement characters.
    fn decode(&self, tokens: &[TokenId]) -> String {
        let bytes: Vec<u8> = tokens.iter().flat_map(|&token| self.token_bytes(token)).collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// The vocabulary of the simulated engine.
pub(crate) struct CommonWords;

impl Vocabulary for CommonWords {
    fn encode(&self, text: &str) -> Result<Vec<TokenId>, String> {
        Ok(simulated::encode(text))
    }

    fn token_bytes(&self, token: TokenId) -> Vec<u8> {
        simulated::token_bytes(token)
    }

    fn is_special(&self, token: TokenId) -> bool {
        token == simulated::END
    }

    fn size(&self) -> usize {
        simulated::VOCABULARY
    }
}

impl Vocabulary for modelfile::Tokenizer {
    fn encode(&self, text: &str) -> Result<Vec<TokenId>, String> {
        self.encode(text, true).map_err(|error| error.to_string())
    }

    fn token_bytes(&self, token: TokenId) -> Vec<u8> {
        self.token_bytes(token).unwrap_or_default()
    }

    fn is_special(&self, token: TokenId) -> bool {
        self.is_special(token)
    }

    fn size(&self) -> usize {
        self.vocab_size()
    }
}
