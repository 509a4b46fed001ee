//! Builds a tokenizer from the vocabulary, merges and kind that a GGUF header holds.

use crate::error::ModelFileError;
use crate::spec::{STOP_TEXTS, SpecialTokens};
use crate::tokenizer::{Spelling, Token, Tokenizer};
use crate::value::Metadata;
use crate::words::Words;
use std::collections::BTreeSet;
use tokenizers::models::bpe::{BPE, Merges, Vocab};
use tokenizers::normalizers::{self, NormalizerWrapper, Prepend, Replace};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, Tokenizer as Inner};

const TOKENS: &str = "tokenizer.ggml.tokens";

/// ggml's kinds of tokens that matter here.
mod kind {
    pub(super) const UNKNOWN: i64 = 2;
    pub(super) const CONTROL: i64 = 3;
    pub(super) const USER_DEFINED: i64 = 4;
}

/// Builds the tokenizer described by `metadata`.
pub(crate) fn build(metadata: &Metadata) -> Result<Tokenizer, ModelFileError> {
    let texts = metadata.need_texts(TOKENS)?;
    let kinds = token_kinds(metadata, texts.len())?;
    let (mut inner, spelling) = match metadata.text("tokenizer.ggml.model")? {
        Some("gpt2") => (byte_level(metadata, texts)?, Spelling::ByteLevel),
        Some("llama") => (sentence_piece(metadata, texts)?, Spelling::SentencePiece),
        other => {
            return Err(ModelFileError::unsupported(format!("tokenizer.ggml.model {other:?}")));
        }
    };
    let added = |wanted: i64| {
        let chosen = texts.iter().zip(&kinds).filter(move |(_, kind)| **kind == wanted);
        chosen
            .filter(|(text, _)| !text.is_empty())
            .map(move |(text, _)| {
                AddedToken::from(text.clone(), wanted == kind::CONTROL).normalized(false)
            })
            .collect::<Vec<_>>()
    };
    inner.add_special_tokens(added(kind::CONTROL)).map_err(ModelFileError::tokenizer)?;
    inner.add_tokens(added(kind::USER_DEFINED)).map_err(ModelFileError::tokenizer)?;

    let tokens = texts.iter().zip(&kinds).map(|(text, &kind)| {
        let verbatim = matches!(kind, kind::CONTROL | kind::USER_DEFINED | kind::UNKNOWN);
        let bytes = if verbatim { text.as_bytes().into() } else { spelling.bytes(text) };
        Some(Token { bytes, special: matches!(kind, kind::CONTROL | kind::UNKNOWN) })
    });
    Ok(Tokenizer::new(inner, tokens.collect()))
}

fn token_kinds(metadata: &Metadata, count: usize) -> Result<Vec<i64>, ModelFileError> {
    let field = "tokenizer.ggml.token_type";
    match metadata.ints(field)? {
        Some(kinds) if kinds.len() == count => Ok(kinds.to_vec()),
        Some(kinds) => Err(ModelFileError::field(
            field,
            format!("has {} items for {count} tokens", kinds.len()),
        )),
        None => Ok(vec![1; count]),
    }
}

/// Ids by text; the first of equal texts wins.
fn vocabulary(texts: &[String]) -> Vocab {
    let mut vocab = Vocab::default();
    for (id, text) in texts.iter().enumerate() {
        vocab.entry(text.clone()).or_insert(id as u32);
    }
    vocab
}

fn byte_level(metadata: &Metadata, texts: &[String]) -> Result<Inner, ModelFileError> {
    let field = "tokenizer.ggml.merges";
    let vocab = vocabulary(texts);
    let mut merges = Merges::new();
    for merge in metadata.need_texts(field)? {
        let parts = merge.split_once(' ').filter(|(left, right)| {
            [*left, *right, &format!("{left}{right}")].iter().all(|text| vocab.contains_key(*text))
        });
        let (left, right) = parts.ok_or_else(|| {
            ModelFileError::field(field, format!("{merge:?} does not join two tokens into a third"))
        })?;
        merges.push((left.to_owned(), right.to_owned()));
    }
    let words = Words::of(metadata.text("tokenizer.ggml.pre")?)?;
    let model = BPE::builder()
        .vocab_and_merges(vocab, merges)
        .ignore_merges(words.ignores_merges())
        .build()
        .map_err(ModelFileError::tokenizer)?;
    let mut inner = Inner::new(model);
    inner.with_pre_tokenizer(Some(words.pre_tokenizer()?));
    inner.with_normalizer(words.normalizer()).map_err(ModelFileError::tokenizer)?;
    inner.with_decoder(Some(ByteLevel::default()));
    Ok(inner)
}

/// Turns SentencePiece's merging by score into merges in the order of their results' scores.
fn sentence_piece(metadata: &Metadata, texts: &[String]) -> Result<Inner, ModelFileError> {
    let field = "tokenizer.ggml.scores";
    let scores =
        metadata.floats(field)?.ok_or_else(|| ModelFileError::field(field, "is missing"))?;
    if scores.len() != texts.len() {
        let problem = format!("has {} items for {} tokens", scores.len(), texts.len());
        return Err(ModelFileError::field(field, problem));
    }
    let vocab = vocabulary(texts);
    let mut ranked: Vec<(f32, usize, &str, &str)> = Vec::new();
    for (id, text) in texts.iter().enumerate() {
        // A piece longer than this is no word, and trying all its splits would take long.
        if text.len() > 512 {
            continue;
        }
        for (at, _) in text.char_indices().skip(1) {
            let (left, right) = text.split_at(at);
            if vocab.contains_key(left) && vocab.contains_key(right) {
                ranked.push((scores[id], id, left, right));
            }
        }
    }
    ranked.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    let merges = ranked.into_iter().map(|(_, _, l, r)| (l.to_owned(), r.to_owned())).collect();

    let mut builder =
        BPE::builder().vocab_and_merges(vocab, merges).byte_fallback(true).fuse_unk(true);
    let unknown = metadata.token("tokenizer.ggml.unknown_token_id", texts.len())?;
    if let Some(id) = unknown {
        builder = builder.unk_token(texts[id as usize].clone());
    }
    let mut inner = Inner::new(builder.build().map_err(ModelFileError::tokenizer)?);
    let mut steps: Vec<NormalizerWrapper> = Vec::new();
    if metadata.bool("tokenizer.ggml.add_space_prefix")?.unwrap_or(true) {
        steps.push(Prepend::new("▁".into()).into());
    }
    steps.push(Replace::new(" ", "▁").map_err(ModelFileError::tokenizer)?.into());
    inner
        .with_normalizer(Some(normalizers::Sequence::new(steps)))
        .map_err(ModelFileError::tokenizer)?;
    Ok(inner)
}

/// Reads special tokens from the header.
pub(crate) fn special_tokens(metadata: &Metadata) -> Result<SpecialTokens, ModelFileError> {
    let texts = metadata.need_texts(TOKENS)?;
    let kinds = token_kinds(metadata, texts.len())?;
    let token = |key: &str| metadata.token(&format!("tokenizer.ggml.{key}"), texts.len());
    let (bos, eos) = (token("bos_token_id")?, token("eos_token_id")?);
    let mut stop: BTreeSet<u32> =
        [eos, token("eot_token_id")?, token("eom_token_id")?].into_iter().flatten().collect();
    for (id, (text, kind)) in texts.iter().zip(kinds).enumerate() {
        if kind == kind::CONTROL && STOP_TEXTS.contains(&text.as_str()) {
            stop.insert(id as u32);
        }
    }
    let add_bos = match metadata.bool("tokenizer.ggml.add_bos_token")? {
        Some(add_bos) => add_bos,
        None if metadata.text("tokenizer.ggml.model")? == Some("llama") => true,
        None => Words::of(metadata.text("tokenizer.ggml.pre")?).is_ok_and(Words::adds_bos),
    };
    Ok(SpecialTokens {
        bos,
        eos,
        stop: stop.into_iter().collect(),
        add_bos: add_bos && bos.is_some(),
    })
}
