//! Qwen2 and Qwen2.5: biases on queries, keys and values.

use super::{KvHeads, Rules, Window};
use crate::spec::{Family, RopePairs};

pub(super) const QWEN2: Rules = Rules {
    family: Family::Qwen2,
    reads_gguf: |architecture, _| architecture == "qwen2",
    model_type: "qwen2",
    gguf_rope_pairs: RopePairs::Halves,
    qkv_bias: true,
    head_norms: false,
    kv_heads: KvHeads::Needed,
    config_head_dim: None,
    config_window: Window::Switched,
};
