//! Qwen3: no biases, norms on every query and key head, heads wider than `hidden / heads`.

use super::{KvHeads, Rules, Window};
use crate::spec::{Family, RopePairs};

pub(super) const QWEN3: Rules = Rules {
    family: Family::Qwen3,
    reads_gguf: |architecture, _| architecture == "qwen3",
    model_type: "qwen3",
    gguf_rope_pairs: RopePairs::Halves,
    qkv_bias: false,
    head_norms: true,
    kv_heads: KvHeads::Needed,
    config_head_dim: Some(128),
    config_window: Window::Switched,
};
