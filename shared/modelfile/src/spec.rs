//! The description of a model: its sizes, its constants and its special tokens.

use std::fmt;

/// The architecture that reads the tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Llama and what shares its layers (SmolLM2, Llama 2 and 3.x, TinyLlama).
    Llama,
    /// Mistral: Llama's layers, and attention that may see only the latest tokens.
    Mistral,
    /// Qwen2 and Qwen2.5: queries, keys and values have biases.
    Qwen2,
    /// Qwen3: each query head and each key head is normed before it is rotated.
    Qwen3,
}

impl Family {
    /// Its usual name in lower case.
    pub fn name(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Mistral => "mistral",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// The elements of a head that rotary embedding turns together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RopePairs {
    /// Elements `2i` and `2i + 1`: rows of q and k as ggml's Llama files order them.
    Interleaved,
    /// Elements `i` and `i + head_dim / 2`: rows as Hugging Face's files order them.
    Halves,
}

/// Sizes and constants of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelSpec {
    /// The architecture.
    pub family: Family,
    /// Transformer layers.
    pub layers: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of one head; even.
    pub head_dim: usize,
    /// Width of the feed-forward layer.
    pub ffn: usize,
    /// Rows of the embedding, and logits of the head.
    pub vocab: usize,
    /// Longest context the model was trained for, in tokens.
    pub context_tokens: usize,
    /// Base of the rotary frequencies.
    pub rope_theta: f32,
    /// Divisors of the rotary frequencies, one per pair of elements, where the model has them.
    pub rope_factors: Option<Vec<f32>>,
    /// Elements that rotary embedding pairs, in this file.
    pub rope_pairs: RopePairs,
    /// Added to the mean square before its root is taken.
    pub rms_eps: f32,
    /// True if the head is the embedding.
    pub tied_embeddings: bool,
    /// A query sees only this many latest tokens, itself included; less than `context_tokens`.
    pub window: Option<usize>,
    /// True if queries, keys and values have biases (`blk.N.attn_q.bias` and so on).
    pub qkv_bias: bool,
    /// True if each query head and each key head is normed before rotation
    /// (`blk.N.attn_q_norm.weight`, `blk.N.attn_k_norm.weight`).
    pub head_norms: bool,
}

/// Tokens with a meaning of their own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpecialTokens {
    /// Begins a text.
    pub bos: Option<u32>,
    /// Ends a text.
    pub eos: Option<u32>,
    /// Every token that ends a generation, ascending.
    pub stop: Vec<u32>,
    /// True if `bos` is put before a prompt that does not come from a chat template.
    pub add_bos: bool,
}

/// Texts of control tokens that end an answer, whatever else the file says.
pub(crate) const STOP_TEXTS: [&str; 7] = [
    "<|im_end|>",
    "<|eot_id|>",
    "<|end_of_text|>",
    "<|endoftext|>",
    "<|eom_id|>",
    "<|end|>",
    "<end_of_turn>",
];

/// Limits that no real model reaches; they keep products of sizes far from overflow.
pub(crate) mod limits {
    pub(crate) const LAYERS: usize = 1 << 10;
    pub(crate) const WIDTH: usize = 1 << 17;
    pub(crate) const HEADS: usize = 1 << 10;
    pub(crate) const HEAD_DIM: usize = 1 << 10;
    pub(crate) const VOCAB: usize = 1 << 21;
    pub(crate) const CONTEXT: usize = 1 << 26;
}
