//! Llama written out as in the papers, token by token, in double precision.

use half::f16;
use modelfile::fixture::TinyLlama;
use std::collections::HashMap;

pub(crate) struct Naive {
    tiny: TinyLlama,
    tensors: HashMap<String, (Vec<usize>, Vec<f64>)>,
}

impl Naive {
    pub(crate) fn new(tiny: &TinyLlama) -> Self {
        let tensors = tiny.tensors().into_iter().map(|(name, tensor)| {
            let values = tensor.to_f32().into_iter().map(f64::from).collect();
            (name, (tensor.shape, values))
        });
        Self { tiny: tiny.clone(), tensors: tensors.collect() }
    }

    /// Logits after every token.
    pub(crate) fn logits(&self, tokens: &[u32]) -> Vec<Vec<f32>> {
        let tiny = &self.tiny;
        let mut keys = vec![Vec::new(); tiny.layers];
        let mut values = vec![Vec::new(); tiny.layers];
        let mut out = Vec::new();
        for (position, &token) in tokens.iter().enumerate() {
            let embedding = &self.tensors["token_embd.weight"].1;
            let mut x = embedding[token as usize * tiny.hidden..][..tiny.hidden].to_vec();
            for layer in 0..tiny.layers {
                let name = |part: &str| format!("blk.{layer}.{part}.weight");
                let normed = self.norm(&name("attn_norm"), &x);
                let query = self.rotate(self.multiply(&name("attn_q"), &normed), position);
                let key = self.rotate(self.multiply(&name("attn_k"), &normed), position);
                let value = self.multiply(&name("attn_v"), &normed);
                keys[layer].push(stored(key));
                values[layer].push(stored(value));
                let mixed = self.attend(&query, &keys[layer], &values[layer]);
                add(&mut x, &self.multiply(&name("attn_output"), &mixed));
                let normed = self.norm(&name("ffn_norm"), &x);
                let gate = self.multiply(&name("ffn_gate"), &normed);
                let up = self.multiply(&name("ffn_up"), &normed);
                let gated: Vec<f64> =
                    gate.iter().zip(up).map(|(g, u)| g / (1.0 + (-g).exp()) * u).collect();
                add(&mut x, &self.multiply(&name("ffn_down"), &gated));
            }
            let head = if tiny.tied_embeddings { "token_embd.weight" } else { "output.weight" };
            let logits = self.multiply(head, &self.norm("output_norm.weight", &x));
            out.push(logits.into_iter().map(|logit| logit as f32).collect());
        }
        out
    }

    fn multiply(&self, name: &str, x: &[f64]) -> Vec<f64> {
        let (shape, weights) = &self.tensors[name];
        assert_eq!(shape[1], x.len(), "{name}");
        weights.chunks(shape[1]).map(|row| row.iter().zip(x).map(|(w, x)| w * x).sum()).collect()
    }

    fn norm(&self, name: &str, x: &[f64]) -> Vec<f64> {
        let mean: f64 = x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
        let scale = 1.0 / (mean + 1e-5).sqrt();
        x.iter().zip(&self.tensors[name].1).map(|(x, w)| x * scale * w).collect()
    }

    fn rotate(&self, mut heads: Vec<f64>, position: usize) -> Vec<f64> {
        let half = self.tiny.head_dim / 2;
        for head in heads.chunks_mut(2 * half) {
            for pair in 0..half {
                let angle = position as f64 * 10_000f64.powf(-(pair as f64) / half as f64);
                let (a, b) = (head[pair], head[pair + half]);
                head[pair] = a * angle.cos() - b * angle.sin();
                head[pair + half] = b * angle.cos() + a * angle.sin();
            }
        }
        heads
    }

    fn attend(&self, query: &[f64], keys: &[Vec<f64>], values: &[Vec<f64>]) -> Vec<f64> {
        let TinyLlama { heads, kv_heads, head_dim, .. } = self.tiny;
        let mut out = vec![0.0; heads * head_dim];
        for head in 0..heads {
            let shared = head / (heads / kv_heads) * head_dim;
            let query = &query[head * head_dim..][..head_dim];
            let scores: Vec<f64> = keys
                .iter()
                .map(|key| {
                    let dot: f64 = query.iter().zip(&key[shared..]).map(|(q, k)| q * k).sum();
                    (dot / (head_dim as f64).sqrt()).exp()
                })
                .collect();
            let total: f64 = scores.iter().sum();
            for (score, value) in scores.iter().zip(values) {
                for element in 0..head_dim {
                    out[head * head_dim + element] += score / total * value[shared + element];
                }
            }
        }
        out
    }
}

/// As the KV pool keeps it.
fn stored(values: Vec<f64>) -> Vec<f64> {
    values.into_iter().map(|value| f16::from_f32(value as f32).to_f64()).collect()
}

fn add(x: &mut [f64], y: &[f64]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}
