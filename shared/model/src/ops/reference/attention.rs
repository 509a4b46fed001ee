//! Attention of a step's new tokens over the paged context of their sequences.

use burn::tensor::activation::softmax;
use burn::tensor::{Bool, Tensor};
use protocol::BLOCK_TOKENS;

use super::Vector;
use super::kv::KvPool;
use super::plan::{Plan, PlannedGroup};
use crate::ops::{Attention, Norm};

/// Rows below which the CPU's matrix multiplication takes another way.
const ROWS_MIN: usize = 4;
/// Longest inner dimension that it adds up in one go.
const PIECE_TOKENS: usize = 512;

/// One layer's attention.
pub(super) struct Layer<'a> {
    pub(super) attention: &'a Attention<'a, Vector>,
    pub(super) is_cpu: bool,
}

impl Layer<'_> {
    /// Rotates queries and keys, stores keys and values, and attends.
    ///
    /// # Shapes
    /// - `qkv`: `[rows, (heads + 2 * kv_heads) * head_dim]`
    /// - returns `[rows, heads * head_dim]`
    pub(super) fn attend(&self, qkv: Tensor<2>, plan: &mut Plan, kv: &mut KvPool) -> Tensor<2> {
        let Attention { layer, heads, kv_heads, head_dim, .. } = *self.attention;
        let [rows, _] = qkv.dims();
        let rotated_width = (heads + kv_heads) * head_dim;
        let kv_width = kv_heads * head_dim;
        let values = qkv.clone().slice([0..rows, rotated_width..rotated_width + kv_width]);
        let turning =
            qkv.slice([0..rows, 0..rotated_width]).reshape([rows, heads + kv_heads, head_dim]);
        let rotated = self.rotate(self.norm_heads(turning), plan);
        let queries = rotated.clone().slice([0..rows, 0..heads]);
        let keys = rotated.slice([0..rows, heads..heads + kv_heads]);
        let entries = Tensor::cat(vec![keys.reshape([rows, kv_width]), values], 1);
        kv.append(layer, entries, &mut plan.slots);

        let outputs = plan.groups.iter_mut().map(|planned| {
            let queries = queries.clone().slice([planned.group.rows.clone()]);
            self.attend_group(queries, planned, kv.gather(layer, &planned.pages))
        });
        Tensor::cat(outputs.collect(), 0)
    }

    /// # Shapes
    /// - `heads`: `[rows, heads + kv_heads, head_dim]`
    fn norm_heads(&self, heads: Tensor<3>) -> Tensor<3> {
        let Some([query, key]) = self.attention.head_norms else { return heads };
        let [rows, count, width] = heads.dims();
        let norm = |x: Tensor<3>, norm: &Norm<Vector>| {
            let mean_square = x.clone().mul(x.clone()).mean_dim(2);
            let weight = norm.weight.0.clone().reshape([1, 1, width]);
            x.div(mean_square.add_scalar(norm.eps).sqrt()).mul(weight)
        };
        let queries = heads.clone().slice([0..rows, 0..self.attention.heads]);
        let keys = heads.slice([0..rows, self.attention.heads..count]);
        Tensor::cat(vec![norm(queries, query), norm(keys, key)], 1)
    }

    /// Applies rotary embedding in half-split form.
    fn rotate(&self, heads: Tensor<3>, plan: &Plan) -> Tensor<3> {
        let [rows, count, width] = heads.dims();
        let half = width / 2;
        let first = heads.clone().slice([0..rows, 0..count, 0..half]);
        let second = heads.slice([0..rows, 0..count, half..2 * half]);
        let (cos, sin) = (&plan.cos, &plan.sin);
        let turned_first = first.clone().mul(cos.clone()).sub(second.clone().mul(sin.clone()));
        let turned_second = second.mul(cos.clone()).add(first.mul(sin.clone()));
        Tensor::cat(vec![turned_first, turned_second], 2)
    }

    /// # Shapes
    /// - `queries`: `[sequences * queries, heads, head_dim]`
    /// - `context`: `[sequences * pages_each, 2 * half_values]`
    /// - returns `[sequences * queries, heads * head_dim]`
    fn attend_group(
        &self,
        queries: Tensor<3>,
        planned: &mut PlannedGroup,
        context: Tensor<2>,
    ) -> Tensor<2> {
        let Attention { heads, kv_heads, head_dim, scale, window, .. } = *self.attention;
        let masked = planned.hidden(window);
        let group = &planned.group;
        let (batch, count, tokens) = (group.sequences, group.queries, group.context());
        let shared = heads / kv_heads;

        // The query heads that share a key head stand below each other: no key is repeated.
        let rows = shared * count;
        let queries = queries
            .reshape([batch, count, kv_heads, shared, head_dim])
            .permute([0, 2, 3, 1, 4])
            .reshape([batch, kv_heads, rows, head_dim]);
        let queries = self.with_company(queries);
        let (keys, values) = self.keys_and_values(context, batch);
        let hidden: Tensor<4, Bool> = masked.expand([batch, heads, count, tokens]);
        let scores = queries
            .matmul(keys)
            .slice([0..batch, 0..kv_heads, 0..rows])
            .mul_scalar(scale)
            .reshape([batch, heads, count, tokens])
            .mask_fill(hidden, f32::NEG_INFINITY);
        let weights = softmax(scores, 3).reshape([batch, kv_heads, rows, tokens]);
        weighted_sum(self.with_company(weights), values)
            .slice([0..batch, 0..kv_heads, 0..rows])
            .reshape([batch, kv_heads, shared, count, head_dim])
            .permute([0, 3, 1, 2, 4])
            .reshape([batch * count, heads * head_dim])
    }

    /// # Shapes
    /// - `context`: `[batch * pages_each, 2 * half_values]`
    /// - returns `[batch, kv_heads, head_dim, tokens]` and `[batch, kv_heads, tokens, head_dim]`
    fn keys_and_values(&self, context: Tensor<2>, batch: usize) -> (Tensor<4>, Tensor<4>) {
        let Attention { kv_heads, head_dim, .. } = *self.attention;
        let [all_pages, width] = context.dims();
        let (pages, half) = (all_pages / batch, width / 2);
        let keys = context
            .clone()
            .slice([0..all_pages, 0..half])
            .reshape([batch, pages, kv_heads, head_dim, BLOCK_TOKENS])
            .permute([0, 2, 3, 1, 4])
            .reshape([batch, kv_heads, head_dim, pages * BLOCK_TOKENS]);
        let values = context
            .slice([0..all_pages, half..width])
            .reshape([batch, pages, kv_heads, BLOCK_TOKENS, head_dim])
            .permute([0, 2, 1, 3, 4])
            .reshape([batch, kv_heads, pages * BLOCK_TOKENS, head_dim]);
        (keys, values)
    }

    /// Fills few rows up with zeros: the CPU multiplies a handful in another order than many.
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

/// Computes the product of weights and values, added up in pieces of the context that the CPU's
/// matrix multiplication does not divide further, in their order.
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
