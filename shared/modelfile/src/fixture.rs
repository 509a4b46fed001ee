//! A tiny random Llama with a real vocabulary, in both formats: the model of tests that need one.

use crate::dtype::TensorData;
use crate::error::ModelFileError;
use crate::tokenizer::byte_alphabet;
use crate::write::{self, NamedTensor, Value};
use crate::{ModelFile, tokenizer_gguf};
use std::path::Path;

const CHAT_TEMPLATE: &str = "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";
const CONTROL_TOKENS: [&str; 3] = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];
/// Tokens made of two others, in the order in which they merge.
const MERGES: [(&str, &str); 8] = [
    ("t", "h"),
    ("th", "e"),
    ("Ġ", "the"),
    ("i", "n"),
    ("a", "n"),
    ("an", "d"),
    ("Ġ", "and"),
    ("1", "2"),
];

/// Sizes of the tiny model; its weights follow from `seed`.
#[derive(Clone, Debug)]
pub struct TinyLlama {
    /// Chooses the weights.
    pub seed: u64,
    /// Transformer layers.
    pub layers: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Width of one head.
    pub head_dim: usize,
    /// Width of the feed-forward layer.
    pub ffn: usize,
    /// Longest context.
    pub context_tokens: usize,
    /// Whether the head is the embedding.
    pub tied_embeddings: bool,
}

impl Default for TinyLlama {
    fn default() -> Self {
        Self {
            seed: 1,
            layers: 2,
            hidden: 64,
            heads: 4,
            kv_heads: 2,
            head_dim: 16,
            ffn: 96,
            context_tokens: 512,
            tied_embeddings: true,
        }
    }
}

/// Splitmix64: the sequence depends on nothing but its seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform within `-1..1`.
    fn symmetric(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}

impl TinyLlama {
    /// Number of tokens in the vocabulary.
    pub fn vocab() -> usize {
        CONTROL_TOKENS.len() + 256 + MERGES.len()
    }

    /// All tensors under this crate's names, rows of q and k for half-split rotary embedding.
    pub fn tensors(&self) -> Vec<NamedTensor> {
        let (query, kv) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        let mut random = Random(self.seed);
        let mut tensors = Vec::new();
        let mut matrix = |name: String, rows: usize, columns: usize| {
            let scale = (3.0 / columns as f32).sqrt();
            let values: Vec<f32> =
                (0..rows * columns).map(|_| scale * random.symmetric()).collect();
            tensors.push((name, TensorData::from_f32(&[rows, columns], &values)));
        };
        matrix("token_embd.weight".into(), Self::vocab(), self.hidden);
        if !self.tied_embeddings {
            matrix("output.weight".into(), Self::vocab(), self.hidden);
        }
        for layer in 0..self.layers {
            let name = |part: &str| format!("blk.{layer}.{part}.weight");
            matrix(name("attn_q"), query, self.hidden);
            matrix(name("attn_k"), kv, self.hidden);
            matrix(name("attn_v"), kv, self.hidden);
            matrix(name("attn_output"), self.hidden, query);
            matrix(name("ffn_gate"), self.ffn, self.hidden);
            matrix(name("ffn_up"), self.ffn, self.hidden);
            matrix(name("ffn_down"), self.hidden, self.ffn);
        }
        let norms = (0..self.layers)
            .flat_map(|layer| {
                ["attn_norm", "ffn_norm"].map(|part| format!("blk.{layer}.{part}.weight"))
            })
            .chain(["output_norm.weight".to_owned()]);
        for name in norms {
            let values: Vec<f32> =
                (0..self.hidden).map(|_| 1.0 + 0.2 * random.symmetric()).collect();
            tensors.push((name, TensorData::from_f32(&[self.hidden], &values)));
        }
        tensors
    }

    /// The metadata of the GGUF file.
    pub fn metadata(&self) -> Vec<(String, Value)> {
        let alphabet = byte_alphabet().map(String::from);
        let merged = MERGES.map(|(left, right)| format!("{left}{right}"));
        let control = CONTROL_TOKENS.map(str::to_owned);
        let tokens: Vec<String> = control.into_iter().chain(alphabet).chain(merged).collect();
        let mut kinds = vec![1; tokens.len()];
        kinds[..CONTROL_TOKENS.len()].fill(3);
        let merges = MERGES.map(|(left, right)| format!("{left} {right}"));
        let count = |n: usize| Value::Int(n as i128);
        let text = |text: &str| Value::Text(text.to_owned());
        [
            ("general.architecture", text("llama")),
            ("general.name", text("tiny-llama")),
            ("llama.block_count", count(self.layers)),
            ("llama.context_length", count(self.context_tokens)),
            ("llama.embedding_length", count(self.hidden)),
            ("llama.feed_forward_length", count(self.ffn)),
            ("llama.attention.head_count", count(self.heads)),
            ("llama.attention.head_count_kv", count(self.kv_heads)),
            ("llama.attention.key_length", count(self.head_dim)),
            ("llama.rope.dimension_count", count(self.head_dim)),
            ("llama.rope.freq_base", Value::Float(10_000.0)),
            ("llama.attention.layer_norm_rms_epsilon", Value::Float(1e-5)),
            ("tokenizer.ggml.model", text("gpt2")),
            ("tokenizer.ggml.pre", text("smollm")),
            ("tokenizer.ggml.tokens", Value::Texts(tokens)),
            ("tokenizer.ggml.token_type", Value::Ints(kinds)),
            ("tokenizer.ggml.merges", Value::Texts(merges.to_vec())),
            ("tokenizer.ggml.bos_token_id", count(1)),
            ("tokenizer.ggml.eos_token_id", count(2)),
            ("tokenizer.ggml.add_bos_token", Value::Bool(false)),
            ("tokenizer.chat_template", text(CHAT_TEMPLATE)),
        ]
        .map(|(key, value)| (key.to_owned(), value))
        .to_vec()
    }

    /// Writes the model as one GGUF file and opens it.
    pub fn write_gguf(&self, path: &Path) -> Result<ModelFile, ModelFileError> {
        let tensors: Vec<NamedTensor> =
            self.tensors().into_iter().map(|named| self.interleave(named)).collect();
        let bytes = write::gguf(&self.metadata(), &tensors);
        std::fs::write(path, bytes).map_err(|error| ModelFileError::io(path, error))?;
        ModelFile::open(path)
    }

    /// Writes the model as a directory of safetensors and JSON, and opens it.
    pub fn write_safetensors(&self, directory: &Path) -> Result<ModelFile, ModelFileError> {
        let put = |name: &str, bytes: Vec<u8>| {
            let path = directory.join(name);
            std::fs::write(&path, bytes).map_err(|error| ModelFileError::io(&path, error))
        };
        let metadata = crate::value::Metadata(self.metadata().into_iter().collect());
        let tokenizer = tokenizer_gguf::build(&metadata)?;
        let config = serde_json::json!({
            "model_type": "llama",
            "num_hidden_layers": self.layers,
            "hidden_size": self.hidden,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "intermediate_size": self.ffn,
            "vocab_size": Self::vocab(),
            "max_position_embeddings": self.context_tokens,
            "rope_theta": 10_000.0,
            "rms_norm_eps": 1e-5,
            "tie_word_embeddings": self.tied_embeddings,
            "bos_token_id": 1,
            "eos_token_id": 2,
        });
        let settings = serde_json::json!({
            "bos_token": "<|im_start|>",
            "eos_token": "<|im_end|>",
            "add_bos_token": false,
            "chat_template": CHAT_TEMPLATE,
        });
        put("config.json", config.to_string().into_bytes())?;
        put("tokenizer_config.json", settings.to_string().into_bytes())?;
        put("tokenizer.json", tokenizer.to_json()?.into_bytes())?;
        let tensors: Vec<NamedTensor> = self
            .tensors()
            .into_iter()
            .map(|(name, tensor)| (published_name(&name), tensor))
            .collect();
        put("model.safetensors", write::safetensors(&tensors)?)?;
        ModelFile::open(directory)
    }

    /// Rows of q and k in the order of ggml's files: pair elements `2i`, `2i + 1`.
    fn interleave(&self, (name, tensor): NamedTensor) -> NamedTensor {
        if !name.ends_with("attn_q.weight") && !name.ends_with("attn_k.weight") {
            return (name, tensor);
        }
        let row_bytes = tensor.bytes.len() / tensor.shape[0];
        let half = self.head_dim / 2;
        let rows = (0..tensor.shape[0]).flat_map(|row| {
            let (head, element) = (row / self.head_dim, row % self.head_dim);
            let source = head * self.head_dim + (element % 2) * half + element / 2;
            tensor.bytes[source * row_bytes..][..row_bytes].iter().copied()
        });
        let bytes = rows.collect();
        (name, TensorData { bytes, ..tensor })
    }
}

/// The name of a tensor in Hugging Face's files.
fn published_name(name: &str) -> String {
    match name {
        "token_embd.weight" => return "model.embed_tokens.weight".into(),
        "output_norm.weight" => return "model.norm.weight".into(),
        "output.weight" => return "lm_head.weight".into(),
        _ => {}
    }
    const PARTS: [(&str, &str); 9] = [
        ("attn_norm", "input_layernorm"),
        ("attn_q", "self_attn.q_proj"),
        ("attn_k", "self_attn.k_proj"),
        ("attn_v", "self_attn.v_proj"),
        ("attn_output", "self_attn.o_proj"),
        ("ffn_norm", "post_attention_layernorm"),
        ("ffn_gate", "mlp.gate_proj"),
        ("ffn_up", "mlp.up_proj"),
        ("ffn_down", "mlp.down_proj"),
    ];
    let mut out = name.replacen("blk.", "model.layers.", 1);
    for (ours, theirs) in PARTS {
        out = out.replace(&format!(".{ours}."), &format!(".{theirs}."));
    }
    out
}
