//! The steps before attention for queries, keys and values: norms, rotation, and the way into the
//! KV pages.

use crate::activation::{RmsNorm, norm_row};
use crate::kv::{KvShape, PAGE_TOKENS};
use crate::lanes::{Kernel, LANES, Lanes};
use crate::matrix::Matrix;
use crate::memory::Shared;

/// Widest head.
pub const HEAD_DIM_MAX: usize = 1024;

/// Cosines and sines of the rows of a step.
#[derive(Default)]
pub(crate) struct Angles {
    /// `[rows][2][head_dim / 2]`: cosines, then sines.
    values: Vec<f32>,
    half: usize,
}

impl Angles {
    /// Computes those of `positions`, in double precision.
    pub(crate) fn set(&mut self, positions: &[u32], frequencies: &[f64]) {
        self.half = frequencies.len();
        self.values.clear();
        for &position in positions {
            let angles = frequencies.iter().map(|frequency| f64::from(position) * frequency);
            self.values.extend(angles.clone().map(|angle| angle.cos() as f32));
            self.values.extend(angles.map(|angle| angle.sin() as f32));
        }
    }

    fn row(&self, row: usize) -> (&[f32], &[f32]) {
        self.values[row * 2 * self.half..][..2 * self.half].split_at(self.half)
    }

    /// Returns true if there are angles of `rows` rows for heads of `head_dim`.
    pub(crate) fn fit(&self, rows: usize, head_dim: usize) -> bool {
        self.half * 2 == head_dim && self.values.len() == rows * head_dim
    }
}

/// One row of queries, keys and values on its way.
pub(crate) struct RotateRow<'a> {
    pub(crate) qkv: &'a Matrix,
    pub(crate) row: usize,
    pub(crate) heads: usize,
    pub(crate) shape: KvShape,
    pub(crate) pool: &'a Shared<'a, u16>,
    /// Start of the row's page in the pool, and the token of the page.
    pub(crate) page_start: usize,
    pub(crate) token: usize,
    pub(crate) angles: &'a Angles,
    pub(crate) norms: Option<[RmsNorm<'a>; 2]>,
    pub(crate) scale: f32,
    pub(crate) queries: &'a Shared<'a, f32>,
    pub(crate) queries_stride: usize,
}

impl Kernel for RotateRow<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let shape = self.shape;
        let head_dim = shape.head_dim;
        let row = self.qkv.row(self.row);
        let (queries, rest) = row.split_at(self.heads * head_dim);
        let (keys, values) = rest.split_at(shape.kv_heads * head_dim);
        let mut turned = [0f32; HEAD_DIM_MAX];
        let mut halves = [0u16; HEAD_DIM_MAX];
        // SAFETY: the instructions are promised by the caller; the row's queries, and its token in
        // its page, belong to this call.
        unsafe {
            for (head, query) in queries.chunks_exact(head_dim).enumerate() {
                self.turn::<L>(query, 0, &mut turned);
                let start = self.row * self.queries_stride + head * head_dim;
                let out = self.queries.part(start, head_dim);
                for (out, turned) in out.iter_mut().zip(&turned) {
                    *out = turned * self.scale;
                }
            }
            for (head, key) in keys.chunks_exact(head_dim).enumerate() {
                self.turn::<L>(key, 1, &mut turned);
                to_f16::<L>(&turned, head_dim, &mut halves);
                let start = self.page_start + head * shape.head_values() + self.token;
                for (element, half) in halves[..head_dim].iter().enumerate() {
                    self.pool.part(start + element * PAGE_TOKENS, 1)[0] = *half;
                }
            }
            for (head, value) in values.chunks_exact(head_dim).enumerate() {
                turned[..head_dim].copy_from_slice(value);
                to_f16::<L>(&turned, head_dim, &mut halves);
                let start = self.page_start
                    + shape.half_values()
                    + head * shape.head_values()
                    + self.token * head_dim;
                self.pool.part(start, head_dim).copy_from_slice(&halves[..head_dim]);
            }
        }
    }
}

impl RotateRow<'_> {
    /// Norms a head and rotates it.
    ///
    /// # Safety
    /// The machine has the instructions of `L`.
    #[inline(always)]
    unsafe fn turn<L: Lanes>(&self, head: &[f32], norm: usize, out: &mut [f32; HEAD_DIM_MAX]) {
        let width = head.len();
        let padded = width.next_multiple_of(LANES);
        let mut normed = [0f32; HEAD_DIM_MAX];
        let head = match self.norms {
            None => head,
            Some(norms) => {
                out[..width].copy_from_slice(head);
                out[width..padded].fill(0.0);
                // SAFETY: the instructions are promised by the caller.
                unsafe { norm_row::<L>(&out[..padded], width, norms[norm], &mut normed[..padded]) };
                &normed[..width]
            }
        };
        let (first, second) = head.split_at(width / 2);
        let (cos, sin) = self.angles.row(self.row);
        let (out_first, out_second) = out[..width].split_at_mut(width / 2);
        for pair in 0..width / 2 {
            let (a, b, cos, sin) = (first[pair], second[pair], cos[pair], sin[pair]);
            out_first[pair] = a * cos - b * sin;
            out_second[pair] = b * cos + a * sin;
        }
    }
}

/// Rounds `count` values to f16, and up to a vector more.
///
/// # Safety
/// The machine has the instructions of `L`.
#[inline(always)]
unsafe fn to_f16<L: Lanes>(
    values: &[f32; HEAD_DIM_MAX],
    count: usize,
    out: &mut [u16; HEAD_DIM_MAX],
) {
    for at in (0..count.min(HEAD_DIM_MAX)).step_by(LANES) {
        // SAFETY: the instructions are promised by the caller; both arrays have whole vectors.
        unsafe { L::store_f16(out.as_mut_ptr().add(at), L::load(values.as_ptr().add(at))) };
    }
}
