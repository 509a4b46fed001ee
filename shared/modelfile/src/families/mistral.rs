//! Mistral: Llama's layers; the first version's attention sees only the latest 4,096 tokens.

use super::llama::is_windowed;
use super::{KvHeads, Rules, Window};
use crate::spec::{Family, RopePairs};

pub(super) const MISTRAL: Rules = Rules {
    family: Family::Mistral,
    // Its GGUF files call themselves `llama`, with the rows of queries and keys in that order.
    reads_gguf: |architecture, metadata| architecture == "llama" && is_windowed(metadata),
    model_type: "mistral",
    gguf_rope_pairs: RopePairs::Interleaved,
    qkv_bias: false,
    head_norms: false,
    kv_heads: KvHeads::Needed,
    config_head_dim: None,
    // The meaning of a config without the key; later versions say `null`: no window.
    config_window: Window::Plain { unless_given: 4096 },
};
