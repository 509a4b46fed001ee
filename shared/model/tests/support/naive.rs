//! The families written out as in the papers, token by token, in double precision.

use half::f16;
use std::collections::HashMap;
use tinymodel::{TinyModel, TinyRope};

pub(crate) struct Naive {
    tiny: TinyModel,
    tensors: HashMap<String, (Vec<usize>, Vec<f64>)>,
}

impl Naive {
    pub(crate) fn new(tiny: &TinyModel) -> Self {
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
                let project = |part: &str| self.project(layer, part, &normed);
                let query = self.rotate(project("attn_q"), position);
                let key = self.rotate(project("attn_k"), position);
                let value = project("attn_v");
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

    /// Queries, keys or values, with what a family adds to them: Qwen2's biases, Qwen3's norm of
    /// each query head and each key head.
    fn project(&self, layer: usize, part: &str, x: &[f64]) -> Vec<f64> {
        let mut out = self.multiply(&format!("blk.{layer}.{part}.weight"), x);
        if let Some((_, bias)) = self.tensors.get(&format!("blk.{layer}.{part}.bias")) {
            add(&mut out, bias);
        }
        let norm = format!("blk.{layer}.{part}_norm.weight");
        if !self.tensors.contains_key(&norm) {
            return out;
        }
        out.chunks(self.tiny.head_dim).flat_map(|head| self.norm(&norm, head)).collect()
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
                let angle = position as f64 * self.frequency(pair);
                let (a, b) = (head[pair], head[pair + half]);
                head[pair] = a * angle.cos() - b * angle.sin();
                head[pair + half] = b * angle.cos() + a * angle.sin();
            }
        }
        heads
    }

    /// Radians per position. Llama 3.1: waves longer than the trained context over the low limit
    /// are stretched whole, those shorter than it over the high limit not at all, and those between
    /// in proportion.
    fn frequency(&self, pair: usize) -> f64 {
        let half = self.tiny.head_dim / 2;
        let plain = f64::from(self.tiny.rope_theta).powf(-(pair as f64) / half as f64);
        match self.tiny.rope {
            TinyRope::Plain => plain,
            TinyRope::Linear(factor) => plain / f64::from(factor),
            TinyRope::Llama3 { factor, trained } => {
                let (factor, trained) = (f64::from(factor), trained as f64);
                let (low, high) = (f64::from(TinyRope::LOW), f64::from(TinyRope::HIGH));
                let wave = std::f64::consts::TAU / plain;
                if wave < trained / high {
                    plain
                } else if wave > trained / low {
                    plain / factor
                } else {
                    let share = (trained / wave - low) / (high - low);
                    (1.0 - share) * plain / factor + share * plain
                }
            }
        }
    }

    fn attend(&self, query: &[f64], keys: &[Vec<f64>], values: &[Vec<f64>]) -> Vec<f64> {
        let TinyModel { heads, kv_heads, head_dim, window, .. } = self.tiny;
        // The latest tokens, this one included.
        let first = window.map_or(0, |window| keys.len().saturating_sub(window));
        let (keys, values) = (&keys[first..], &values[first..]);
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
