//! Llama 2 and 3.x, and what shares their layers: SmolLM2, TinyLlama, DeepSeek's distilled Llamas.

use super::{KvHeads, Rules, Window};
use crate::spec::{Family, RopePairs};
use crate::value::Metadata;

pub(super) const LLAMA: Rules = Rules {
    family: Family::Llama,
    reads_gguf: |architecture, metadata| architecture == "llama" && !is_windowed(metadata),
    model_type: "llama",
    // Converters reorder the rows of queries and keys so that neighbors turn together.
    gguf_rope_pairs: RopePairs::Interleaved,
    qkv_bias: false,
    head_norms: false,
    kv_heads: KvHeads::OptionalInConfig,
    config_head_dim: None,
    config_window: Window::Never,
};

/// Returns true if a `llama` file has a window, and is a Mistral.
pub(super) fn is_windowed(metadata: &Metadata) -> bool {
    metadata.0.contains_key("llama.attention.sliding_window")
}
