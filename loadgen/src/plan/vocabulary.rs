//! The tokenizer of the served model, and the alphabet of tokens that prompts consist of.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use traces::random::{RngStream, Stream};
use traces::units::Range;
use traces::{TokenizerError, Vocabulary};

/// A vocabulary that prompts cannot be made of.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the message of a variant names its fields")]
pub enum VocabularyError {
    /// The file is not a tokenizer.
    #[error("{path}: {message}")]
    Open { path: PathBuf, message: String },
    /// The tokenizer refused a text or a list of ids.
    #[error(transparent)]
    Convert(#[from] TokenizerError),
    /// Too few tokens are whole words.
    #[error("only {0} tokens of the vocabulary are plain words; prompts need 64")]
    FewWords(usize),
    /// The range of ids is too small for different prompts.
    #[error("--token-ids {0} holds fewer than 64 ids")]
    FewIds(Range),
}

/// The tokenizer of a model file.
struct ModelTokenizer(modelfile::Tokenizer);

impl Vocabulary for ModelTokenizer {
    fn encode(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        self.0.encode(text, false).map_err(|e| TokenizerError(e.to_string()))
    }

    fn decode(&self, ids: &[u32]) -> Result<String, TokenizerError> {
        Ok(self.0.decode(ids, false))
    }

    fn size(&self) -> u32 {
        u32::try_from(self.0.vocab_size()).unwrap_or(u32::MAX)
    }
}

/// Opens a `tokenizer.json`, or the tokenizer inside a model file or folder.
pub fn open(path: &Path) -> Result<Arc<dyn Vocabulary>, VocabularyError> {
    let bad = |message: String| VocabularyError::Open { path: path.to_owned(), message };
    let tokenizer = if path.extension().is_some_and(|extension| extension == "json") {
        let json = std::fs::read(path).map_err(|e| bad(e.to_string()))?;
        modelfile::Tokenizer::from_json(&json).map_err(|e| bad(e.to_string()))?
    } else {
        let file = modelfile::ModelFile::open(path).map_err(|e| bad(e.to_string()))?;
        file.tokenizer().map_err(|e| bad(e.to_string()))?
    };
    Ok(Arc::new(ModelTokenizer(tokenizer)))
}

/// The token ids that prompts consist of, in a seeded order.
#[derive(Clone, Debug)]
pub struct Alphabet(Vec<u32>);

const SMALLEST: usize = 64;

impl Alphabet {
    /// Creates an alphabet of all ids of `range`, excluding its upper end.
    pub fn of_range(range: Range, seed: u64) -> Result<Self, VocabularyError> {
        let ids: Vec<u32> = (range.lo..range.hi).collect();
        if ids.len() < SMALLEST {
            return Err(VocabularyError::FewIds(range));
        }
        Ok(Self::shuffled(ids, seed))
    }

    /// Creates an alphabet of the tokens that are a space and a lower-case word and that survive a
    /// round trip. Text of such tokens has the same tokens again, because tokenizers split at
    /// spaces.
    pub fn of_words(vocabulary: &dyn Vocabulary, seed: u64) -> Result<Self, VocabularyError> {
        let mut words = Vec::new();
        for id in 0..vocabulary.size() {
            let Ok(text) = vocabulary.decode(&[id]) else { continue };
            let is_word = text.strip_prefix(' ').is_some_and(|word| {
                word.len() >= 2 && word.bytes().all(|b| b.is_ascii_lowercase())
            });
            if is_word && vocabulary.encode(&text)? == [id] {
                words.push(id);
            }
        }
        if words.len() < SMALLEST {
            return Err(VocabularyError::FewWords(words.len()));
        }
        Ok(Self::shuffled(words, seed))
    }

    fn shuffled(mut ids: Vec<u32>, seed: u64) -> Self {
        Stream::new(seed, RngStream::Alphabet).shuffle(&mut ids);
        Self(ids)
    }

    /// Returns the ids in their seeded order.
    pub fn ids(&self) -> &[u32] {
        &self.0
    }
}
