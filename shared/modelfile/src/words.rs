//! The ways in which byte-level vocabularies cut text into words before merging within them.

use crate::error::ModelFileError;
use tokenizers::SplitDelimiterBehavior;
use tokenizers::normalizers::{NFC, NormalizerWrapper};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};

const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// A value of `tokenizer.ggml.pre`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Words {
    /// GPT-2's rules.
    Gpt2,
    /// GPT-2's rules after every digit was set apart.
    LoneDigits,
    /// Llama 3's: numbers by three digits; a word that is a token needs no merging.
    Llama3,
    /// The same without that exception.
    Llama3Merged,
    /// Qwen2's, Qwen2.5's and Qwen3's: every digit alone, text composed first.
    Qwen2,
    /// Qwen2's for text as it comes.
    Qwen2Verbatim,
    /// Mistral Nemo's: words end where capitals begin, every digit alone.
    Tekken,
}

impl Words {
    /// Returns the rules that a file calls `kind`. A kind that is not known is refused: taking another for it would
    /// give tokens that are nearly right.
    pub(crate) fn of(kind: Option<&str>) -> Result<Self, ModelFileError> {
        Ok(match kind {
            Some("gpt-2") => Self::Gpt2,
            Some("smollm" | "starcoder" | "refact" | "codeshell" | "command-r") => Self::LoneDigits,
            Some("llama-bpe" | "llama3" | "llama-v3" | "falcon3") => Self::Llama3,
            Some("smaug-bpe" | "dbrx") => Self::Llama3Merged,
            Some("qwen2") => Self::Qwen2,
            Some("deepseek-r1-qwen") => Self::Qwen2Verbatim,
            Some("tekken") => Self::Tekken,
            Some(other) => {
                return Err(ModelFileError::unsupported(format!("tokenizer.ggml.pre {other:?}")));
            }
            None => {
                let problem = "is missing: it says how text is cut into words; \
                               newer converters write it";
                return Err(ModelFileError::field("tokenizer.ggml.pre", problem));
            }
        })
    }

    /// Returns true if a word that is itself a token is taken whole, whatever its merges would give.
    pub(crate) fn ignores_merges(self) -> bool {
        matches!(self, Self::Llama3 | Self::Tekken)
    }

    /// Returns true if texts begin with the beginning-of-text token unless the file says otherwise.
    pub(crate) fn adds_bos(self) -> bool {
        matches!(self, Self::Llama3)
    }

    pub(crate) fn normalizer(self) -> Option<NormalizerWrapper> {
        matches!(self, Self::Qwen2).then(|| NFC.into())
    }

    pub(crate) fn pre_tokenizer(self) -> Result<PreTokenizerWrapper, ModelFileError> {
        let gpt2 = ByteLevel::new(false, true, true);
        let pattern = match self {
            Self::Gpt2 => return Ok(gpt2.into()),
            Self::LoneDigits => {
                return Ok(Sequence::new(vec![Digits::new(true).into(), gpt2.into()]).into());
            }
            Self::Llama3 | Self::Llama3Merged => LLAMA3,
            Self::Qwen2 | Self::Qwen2Verbatim => QWEN2,
            Self::Tekken => TEKKEN,
        };
        let pattern = SplitPattern::Regex(pattern.to_owned());
        let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false)
            .map_err(ModelFileError::tokenizer)?;
        Ok(Sequence::new(vec![split.into(), ByteLevel::new(false, true, false).into()]).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokenizers::tokenizer::{OffsetReferential, OffsetType};
    use tokenizers::{PreTokenizedString, PreTokenizer};

    fn cut(kind: &str, text: &str) -> Vec<String> {
        let words = Words::of(Some(kind)).unwrap().pre_tokenizer().unwrap();
        let mut pieces = PreTokenizedString::from(text);
        words.pre_tokenize(&mut pieces).unwrap();
        pieces
            .get_splits(OffsetReferential::Original, OffsetType::Byte)
            .into_iter()
            .map(|(_, (start, end), _)| text[start..end].to_owned())
            .collect()
    }

    const TEXT: &str = "I'M don't HTTPServer 12345 a/b\n\n  x";

    /// Cuts a text, with `|` between the pieces.
    fn joined(kind: &str, text: &str) -> String {
        cut(kind, text).join("|")
    }

    #[test]
    fn every_kind_cuts_in_its_own_way() {
        let gpt2 = "I|'|M| don|'t| HTTPServer| 12345| a|/|b|\n\n | x";
        assert_eq!(joined("gpt-2", TEXT), gpt2);
        let smollm = "I|'|M| don|'t| HTTPServer| |1|2|3|4|5| a|/|b|\n\n | x";
        assert_eq!(joined("smollm", TEXT), smollm);
        let llama3 = "I|'M| don|'t| HTTPServer| |123|45| a|/b|\n\n| | x";
        assert_eq!(joined("llama-bpe", TEXT), llama3);
        let single_digits = "I|'M| don|'t| HTTPServer| |1|2|3|4|5| a|/b|\n\n| | x";
        assert_eq!(joined("qwen2", TEXT), single_digits);
        assert_eq!(joined("tekken", TEXT), single_digits);
        let capitals = "camelCase don't //\n";
        assert_eq!(joined("tekken", capitals), "camel|Case| don|'t| //\n");
        assert_eq!(joined("qwen2", capitals), "camelCase| don|'t| //\n");
    }

    #[test]
    fn an_unknown_or_missing_kind_is_refused() {
        for kind in ["default", "deepseek-llm", ""] {
            assert!(Words::of(Some(kind)).unwrap_err().to_string().contains("tokenizer.ggml.pre"));
        }
        assert!(Words::of(None).unwrap_err().to_string().contains("is missing"));
    }
}
