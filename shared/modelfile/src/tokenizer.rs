//! Text to tokens and tokens to exact bytes, around the `tokenizers` crate.

use crate::error::ModelFileError;
use std::collections::HashMap;
use std::sync::LazyLock;
use tokenizers::Tokenizer as Inner;

/// A model's tokenizer; cheap to share behind an `Arc`.
pub struct Tokenizer {
    /// Recognises the texts of special tokens.
    special_aware: Inner,
    /// Takes the texts of special tokens as ordinary text.
    plain: Inner,
    tokens: Vec<Option<Token>>,
}

/// The meaning of one id.
pub(crate) struct Token {
    pub(crate) bytes: Box<[u8]>,
    pub(crate) special: bool,
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Tokenizer").field("vocab_size", &self.tokens.len()).finish()
    }
}

impl Tokenizer {
    pub(crate) fn new(special_aware: Inner, tokens: Vec<Option<Token>>) -> Self {
        let mut plain = special_aware.clone();
        plain.set_encode_special_tokens(true);
        Self { special_aware, plain, tokens }
    }

    /// Builds a tokenizer from the text of a `tokenizer.json`.
    pub fn from_json(json: &[u8]) -> Result<Self, ModelFileError> {
        let settings: serde_json::Value =
            serde_json::from_slice(json).map_err(ModelFileError::tokenizer)?;
        // The crate unwraps where a sound JSON has the wrong shape: that is the file's fault too.
        let mut inner = std::panic::catch_unwind(|| Inner::from_bytes(json))
            .map_err(|_| ModelFileError::tokenizer("tokenizer.json has the wrong shape"))?
            .map_err(ModelFileError::tokenizer)?;
        // A prompt is never cut or filled up behind the caller's back.
        inner.with_truncation(None).map_err(ModelFileError::tokenizer)?;
        inner.with_padding(None);
        let spelling = if settings["decoder"].to_string().contains("\"ByteLevel\"") {
            Spelling::ByteLevel
        } else {
            Spelling::SentencePiece
        };
        let vocabulary = inner.get_vocab(true);
        let size = vocabulary.values().max().map_or(0, |&id| id as usize + 1);
        if size > crate::spec::limits::VOCAB {
            return Err(ModelFileError::tokenizer(format!("has {size} tokens")));
        }
        let added = inner.get_added_tokens_decoder();
        let mut tokens: Vec<Option<Token>> = std::iter::repeat_with(|| None).take(size).collect();
        for (text, id) in vocabulary {
            tokens[id as usize] = Some(match added.get(&id) {
                Some(token) => Token { bytes: text.into_bytes().into(), special: token.special },
                None => Token { bytes: spelling.bytes(&text), special: false },
            });
        }
        Ok(Self::new(inner, tokens))
    }

    /// Returns the text of a `tokenizer.json` that makes the same tokenizer.
    pub fn to_json(&self) -> Result<String, ModelFileError> {
        self.special_aware.to_string(false).map_err(ModelFileError::tokenizer)
    }

    /// Returns the token ids of `text`, without a beginning-of-text token. With `parse_special` the texts of
    /// special tokens become those tokens; without, they are text like any other.
    pub fn encode(&self, text: &str, parse_special: bool) -> Result<Vec<u32>, ModelFileError> {
        let inner = if parse_special { &self.special_aware } else { &self.plain };
        let encoding = inner.encode_fast(text, false).map_err(ModelFileError::tokenizer)?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Returns the exact bytes a token stands for, which need not be whole characters; a special token
    /// gives its text.
    pub fn token_bytes(&self, id: u32) -> Option<Vec<u8>> {
        Some(self.token(id)?.bytes.to_vec())
    }

    /// Returns the text of `ids`; bytes that are no UTF-8 become replacement characters.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> String {
        let tokens = ids.iter().filter_map(|&id| self.token(id));
        let bytes: Vec<u8> = tokens
            .filter(|token| !(skip_special && token.special))
            .flat_map(|token| token.bytes.iter().copied())
            .collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Returns true if `id` is a control token, which has a meaning but no text.
    pub fn is_special(&self, id: u32) -> bool {
        self.token(id).is_some_and(|token| token.special)
    }

    /// Returns one more than the largest id.
    pub fn vocab_size(&self) -> usize {
        self.tokens.len()
    }

    /// Returns the id of the token spelled `text` in the vocabulary.
    pub fn token_id(&self, text: &str) -> Option<u32> {
        self.special_aware.token_to_id(text)
    }

    fn token(&self, id: u32) -> Option<&Token> {
        self.tokens.get(id as usize)?.as_ref()
    }

    /// Returns true if the file's own post-processing begins every text with a token.
    pub(crate) fn adds_bos(&self) -> bool {
        self.special_aware.encode_fast("", true).is_ok_and(|encoding| !encoding.is_empty())
    }
}

/// The spelling of bytes in a vocabulary.
#[derive(Clone, Copy)]
pub(crate) enum Spelling {
    /// Every byte as a printable character (GPT-2).
    ByteLevel,
    /// A space as `▁`, a lone byte as `<0xHH>`.
    SentencePiece,
}

impl Spelling {
    pub(crate) fn bytes(self, text: &str) -> Box<[u8]> {
        match self {
            Self::ByteLevel => {
                let bytes = text.chars().map(|c| BYTE_OF.get(&c).copied());
                // A character outside the alphabet can only come from an added text: kept as it is.
                match bytes.collect::<Option<Vec<u8>>>() {
                    Some(bytes) => bytes.into(),
                    None => text.as_bytes().into(),
                }
            }
            Self::SentencePiece => {
                let hex = text.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
                match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
                    Some(byte) => Box::new([byte]),
                    None => text.replace('▁', " ").into_bytes().into(),
                }
            }
        }
    }
}

/// Returns GPT-2's alphabet: printable Latin-1 stands for itself, the other bytes for U+0100 onwards.
pub fn byte_alphabet() -> [char; 256] {
    let mut next = 0x100u32;
    std::array::from_fn(|byte| {
        if matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff) {
            char::from(byte as u8)
        } else {
            next += 1;
            char::from_u32(next - 1).expect("U+0100 to U+0143 are characters")
        }
    })
}

static BYTE_OF: LazyLock<HashMap<char, u8>> =
    LazyLock::new(|| byte_alphabet().into_iter().zip(0..=255).collect());
