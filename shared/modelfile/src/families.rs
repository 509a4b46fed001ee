//! The needs of each family: its constants, its tensors and their shapes.
//!
//! A family is one file here: a [`Rules`] that says what its files call it and which of the layers'
//! options it has. Reading the files ([`gguf`], [`config`]) and checking their tensors
//! ([`tensors`]) is the same for all.

mod config;
mod gguf;
mod llama;
mod mistral;
mod qwen2;
mod qwen3;
mod rope;
mod tensors;

pub(crate) use config::from_config;
pub(crate) use gguf::from_gguf;

use crate::error::ModelFileError;
use crate::spec::{Family, RopePairs};
use crate::value::Metadata;

const FAMILIES: [&Rules; 4] = [&llama::LLAMA, &mistral::MISTRAL, &qwen2::QWEN2, &qwen3::QWEN3];

/// The traits of a family that its files do not state.
pub(crate) struct Rules {
    family: Family,
    /// Returns true if a GGUF file with this `general.architecture` and metadata is of the family.
    reads_gguf: fn(&str, &Metadata) -> bool,
    /// `model_type` in `config.json`.
    model_type: &'static str,
    /// Elements of a head that its GGUF files turn together.
    gguf_rope_pairs: RopePairs,
    /// Biases on queries, keys and values; always or never.
    qkv_bias: bool,
    /// Norms on every query and key head; always or never.
    head_norms: bool,
    /// Key heads in `config.json`.
    kv_heads: KvHeads,
    /// Width of a head that a `config.json` without `head_dim` means; else `hidden / heads`.
    config_head_dim: Option<usize>,
    /// The window of attention in `config.json`.
    config_window: Window,
}

/// The rule for a missing `num_key_value_heads`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum KvHeads {
    /// There are as many as query heads then.
    OptionalInConfig,
    /// It may not; `null` means as many as query heads.
    Needed,
}

/// The key of `config.json` for the window of attention.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Window {
    /// The family has none.
    Never,
    /// `sliding_window`, where `null` means none.
    Plain {
        /// The meaning of a config without the key.
        unless_given: usize,
    },
    /// `sliding_window` if `use_sliding_window`, in the layers from `max_window_layers` on.
    Switched,
}

fn for_gguf(architecture: &str, metadata: &Metadata) -> Result<&'static Rules, ModelFileError> {
    let found = FAMILIES.into_iter().find(|rules| (rules.reads_gguf)(architecture, metadata));
    found.ok_or_else(|| unknown("general.architecture", architecture))
}

fn for_config(model_type: &str) -> Result<&'static Rules, ModelFileError> {
    let found = FAMILIES.into_iter().find(|rules| rules.model_type == model_type);
    found.ok_or_else(|| unknown("model_type", model_type))
}

fn unknown(field: &str, value: &str) -> ModelFileError {
    let known: Vec<&str> = FAMILIES.iter().map(|rules| rules.family.name()).collect();
    ModelFileError::unsupported(format!("{field} {value:?}; known are {}", known.join(", ")))
}
