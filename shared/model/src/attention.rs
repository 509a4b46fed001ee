//! Attention of a step's new tokens over the paged context of their sequences.

use crate::batch::{Batch, Group};
use crate::device::Placement;
use crate::kv::{KvPool, Slots, int_tensor};
use burn::tensor::activation::softmax;
use burn::tensor::{Bool, DType, Device, Int, Tensor, TensorData};
use modelfile::ModelSpec;

/// Rows below which the CPU's matrix multiplication takes another way.
const ROWS_MIN: usize = 4;
/// Longest inner dimension that it adds up in one go.
const PIECE_TOKENS: usize = 512;

/// What every layer's attention needs, put onto the device once a step.
pub(crate) struct AttentionPlan {
    /// `[rows, 1, head_dim / 2]`
    cos: Tensor<3>,
    sin: Tensor<3>,
    slots: Slots,
    groups: Vec<PlannedGroup>,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    is_cpu: bool,
}

struct PlannedGroup {
    group: Group,
    pages: Tensor<1, Int>,
    /// `[sequences, 1, queries, context]`, true where a query may not look.
    hidden: Tensor<4, Bool>,
}

impl AttentionPlan {
    pub(crate) fn new(batch: &mut Batch, spec: &ModelSpec, rope: &Rope, place: &Placement) -> Self {
        let device = &place.device;
        let (cos, sin) = rope.tables(&batch.positions, device);
        let plan = |group: Group| PlannedGroup {
            pages: int_tensor(&group.pages, device),
            hidden: hidden(&group, device),
            group,
        };
        Self {
            cos,
            sin,
            slots: Slots::new(std::mem::take(&mut batch.slots), device),
            groups: std::mem::take(&mut batch.groups).into_iter().map(plan).collect(),
            heads: spec.heads,
            kv_heads: spec.kv_heads,
            head_dim: spec.head_dim,
            is_cpu: place.is_cpu,
        }
    }

    /// Rotates queries and keys, stores keys and values, and attends.
    ///
    /// # Shapes
    /// - `qkv`: `[rows, (heads + 2 * kv_heads) * head_dim]`
    /// - returns `[rows, heads * head_dim]`
    pub(crate) fn attend(&self, qkv: Tensor<2>, layer: usize, kv: &mut KvPool) -> Tensor<2> {
        let [rows, _] = qkv.dims();
        let rotated_width = (self.heads + self.kv_heads) * self.head_dim;
        let kv_width = self.kv_heads * self.head_dim;
        let values = qkv.clone().slice([0..rows, rotated_width..rotated_width + kv_width]);
        let rotated = self.rotate(qkv.slice([0..rows, 0..rotated_width]));
        let queries = rotated.clone().slice([0..rows, 0..self.heads]);
        let keys = rotated.slice([0..rows, self.heads..self.heads + self.kv_heads]);
        let entries = Tensor::cat(vec![keys.reshape([rows, kv_width]), values], 1);
        kv.append(layer, entries, &self.slots);

        let outputs = self.groups.iter().map(|planned| {
            let queries = queries.clone().slice([planned.group.rows.clone()]);
            self.attend_group(queries, planned, kv.gather(layer, &planned.pages))
        });
        Tensor::cat(outputs.collect(), 0)
    }

    /// Rotary embedding in half-split form.
    fn rotate(&self, heads: Tensor<2>) -> Tensor<3> {
        let [rows, width] = heads.dims();
        let (count, half) = (width / self.head_dim, self.head_dim / 2);
        let heads = heads.reshape([rows, count, self.head_dim]);
        let first = heads.clone().slice([0..rows, 0..count, 0..half]);
        let second = heads.slice([0..rows, 0..count, half..2 * half]);
        let (cos, sin) = (&self.cos, &self.sin);
        let turned_first = first.clone().mul(cos.clone()).sub(second.clone().mul(sin.clone()));
        let turned_second = second.mul(cos.clone()).add(first.mul(sin.clone()));
        Tensor::cat(vec![turned_first, turned_second], 2)
    }

    /// # Shapes
    /// - `queries`: `[sequences * queries, heads, head_dim]`
    /// - `context`: `[sequences * context, 2 * kv_heads * head_dim]`
    /// - returns `[sequences * queries, heads * head_dim]`
    fn attend_group(
        &self,
        queries: Tensor<3>,
        planned: &PlannedGroup,
        context: Tensor<2>,
    ) -> Tensor<2> {
        let PlannedGroup { group, hidden: masked, .. } = planned;
        let (batch, count, tokens) = (group.sequences, group.queries, group.context());
        let (kv_heads, head_dim) = (self.kv_heads, self.head_dim);
        let shared = self.heads / kv_heads;

        // The query heads that share a key head stand below each other: no key is repeated.
        let rows = shared * count;
        let queries = queries
            .reshape([batch, count, kv_heads, shared, head_dim])
            .permute([0, 2, 3, 1, 4])
            .reshape([batch, kv_heads, rows, head_dim]);
        let queries = self.with_company(queries);
        let context = context.reshape([batch, tokens, 2 * kv_heads, head_dim]).swap_dims(1, 2);
        let keys = context.clone().slice([0..batch, 0..kv_heads]).swap_dims(2, 3);
        let values = context.slice([0..batch, kv_heads..2 * kv_heads]);

        let scale = 1.0 / (head_dim as f32).sqrt();
        let hidden = masked.clone().expand([batch, self.heads, count, tokens]);
        let scores = queries
            .matmul(keys)
            .slice([0..batch, 0..kv_heads, 0..rows])
            .mul_scalar(scale)
            .reshape([batch, self.heads, count, tokens])
            .mask_fill(hidden, f32::NEG_INFINITY);
        let weights = softmax(scores, 3).reshape([batch, kv_heads, rows, tokens]);
        weighted_sum(self.with_company(weights), values)
            .slice([0..batch, 0..kv_heads, 0..rows])
            .reshape([batch, kv_heads, shared, count, head_dim])
            .permute([0, 3, 1, 2, 4])
            .reshape([batch * count, self.heads * head_dim])
    }

    /// Few rows, filled up with zeros: the CPU multiplies a handful in another order than many.
    ///
    /// # Shapes
    /// - `x`: `[batch, kv_heads, rows, width]`
    /// - returns `[batch, kv_heads, max(rows, 4), width]` on the CPU, else `x`
    fn with_company(&self, x: Tensor<4>) -> Tensor<4> {
        let [batch, heads, rows, width] = x.dims();
        if !self.is_cpu || rows >= ROWS_MIN {
            return x;
        }
        let zeros = Tensor::zeros([batch, heads, ROWS_MIN - rows, width], &x.device());
        Tensor::cat(vec![x, zeros], 2)
    }
}

/// The product of weights and values, added up in pieces of the context that the CPU's matrix
/// multiplication does not divide further, in their order.
///
/// # Shapes
/// - `weights`: `[batch, kv_heads, rows, context]`
/// - `values`: `[batch, kv_heads, context, head_dim]`
/// - returns `[batch, kv_heads, rows, head_dim]`
fn weighted_sum(weights: Tensor<4>, values: Tensor<4>) -> Tensor<4> {
    let [batch, heads, rows, tokens] = weights.dims();
    let [_, _, _, width] = values.dims();
    let piece = |start: usize| {
        let end = (start + PIECE_TOKENS).min(tokens);
        let weights = weights.clone().slice([0..batch, 0..heads, 0..rows, start..end]);
        weights.matmul(values.clone().slice([0..batch, 0..heads, start..end, 0..width]))
    };
    (PIECE_TOKENS..tokens).step_by(PIECE_TOKENS).fold(piece(0), |sum, start| sum.add(piece(start)))
}

fn hidden(group: &Group, device: &Device) -> Tensor<4, Bool> {
    let context = group.context();
    let flags: Vec<bool> = group
        .visible
        .iter()
        .flat_map(|&visible| (0..context).map(move |token| token >= visible))
        .collect();
    let shape = [group.sequences, 1, group.queries, context];
    Tensor::from_data(TensorData::new(flags, shape), device)
}

/// Rotary frequencies of a model.
pub(crate) struct Rope {
    frequencies: Vec<f64>,
}

impl Rope {
    pub(crate) fn new(spec: &ModelSpec) -> Self {
        let frequency = |pair: usize| {
            let power = -2.0 * pair as f64 / spec.head_dim as f64;
            let factor = spec.rope_factors.as_ref().map_or(1.0, |factors| f64::from(factors[pair]));
            f64::from(spec.rope_theta).powf(power) / factor
        };
        Self { frequencies: (0..spec.head_dim / 2).map(frequency).collect() }
    }

    /// Cosines and sines of each position, `[rows, 1, head_dim / 2]` each.
    fn tables(&self, positions: &[usize], device: &Device) -> (Tensor<3>, Tensor<3>) {
        let shape = [positions.len(), 1, self.frequencies.len()];
        let angles = positions
            .iter()
            .flat_map(|&position| self.frequencies.iter().map(move |f| position as f64 * f));
        let (sin, cos): (Vec<f32>, Vec<f32>) =
            angles.map(f64::sin_cos).map(|(sin, cos)| (sin as f32, cos as f32)).unzip();
        let tensor =
            |values| Tensor::from_data(TensorData::new(values, shape), (device, DType::F32));
        (tensor(cos), tensor(sin))
    }
}
