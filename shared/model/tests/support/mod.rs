//! Tools that the model tests share: page tables, prompts, and a naive Llama in double precision.
#![allow(dead_code, reason = "every test binary uses its own part")]

pub(crate) mod accuracy;
pub(crate) mod golden;
pub(crate) mod naive;

use model::{
    ActivationsChoice, BatchSequence, DeviceChoice, IsaChoice, Model, ModelLimits, Precision,
    RowOutput, StepOutput, Wanted,
};
use modelfile::ModelFile;

/// All that can compute: stock operations, the CPU's kernels, and those of graphics devices.
pub(crate) const DEVICES: [&str; 5] = ["reference", "cpu", "cpu int16", "reference:wgpu", "wgpu"];

/// Returns true if a device gives the same bits for any chunks and any company. Stock
/// matrix multiplication on a graphics device picks its order of summing by the number of rows.
pub(crate) fn is_exact(device: &str) -> bool {
    device != "reference:wgpu"
}

/// The device named, such as `wgpu`, `cpu` or `cpu int16`, loaded with `file`, or nothing where this
/// machine has no such device.
pub(crate) fn load(file: &ModelFile, device: &str, kv_pages: usize) -> Option<Model> {
    load_with(file, device, kv_pages, (2, IsaChoice::Auto))
}

/// As [`load`], with so many threads and these instructions.
pub(crate) fn load_with(
    file: &ModelFile,
    device: &str,
    kv_pages: usize,
    (threads, isa): (usize, IsaChoice),
) -> Option<Model> {
    let (device, activations) = match device.strip_suffix(" int16") {
        Some(device) => (device, Precision::Int16),
        None => (device, Precision::Int8),
    };
    let activations = ActivationsChoice::Only(activations);
    let limits = ModelLimits { kv_pages, threads, isa, activations };
    let choice: DeviceChoice = device.parse().unwrap();
    let resolved = testbed::require_or_skip(&format!("device {device}"), choice.resolve())?;
    println!("device: {} ({})", resolved.name, resolved.reason);
    Some(Model::load(file, &choice, &limits, &mut |_| {}).unwrap())
}

/// A sequence and its block table; it is fed in pieces of any size.
pub(crate) struct Fed {
    pub(crate) tokens: Vec<u32>,
    pub(crate) pages: Vec<u32>,
    pub(crate) done: usize,
}

impl Fed {
    pub(crate) fn new(tokens: &[u32], pages: impl IntoIterator<Item = u32>) -> Self {
        Self { tokens: tokens.to_vec(), pages: pages.into_iter().collect(), done: 0 }
    }

    /// The next `count` tokens as part of a batch; call `advance` after the step.
    pub(crate) fn next(&self, count: usize, logits: Wanted) -> BatchSequence<'_> {
        let tokens = &self.tokens[self.done..self.done + count];
        BatchSequence { tokens, position: self.done, pages: &self.pages, logits }
    }

    /// Feeds the next `count` tokens alone.
    pub(crate) fn feed(
        &mut self,
        model: &mut Model,
        count: usize,
        logits: Wanted,
    ) -> Vec<Vec<f32>> {
        let mut out = forward(model, &[self.next(count, logits)]);
        self.done += count;
        out.pop().unwrap()
    }

    /// Feeds all that is left alone, wanting every row.
    pub(crate) fn feed_rest(&mut self, model: &mut Model) -> Vec<Vec<f32>> {
        self.feed(model, self.tokens.len() - self.done, Wanted::All)
    }
}

/// The rows of logits of every sequence of a batch.
pub(crate) fn forward(model: &mut Model, batch: &[BatchSequence]) -> Vec<Vec<Vec<f32>>> {
    let mut out = StepOutput::default();
    model.forward(batch, &mut out).unwrap();
    let row = |row: RowOutput| match row {
        RowOutput::Whole(logits) => logits.to_vec(),
        RowOutput::Top(_) => panic!("whole rows were wanted"),
    };
    (0..batch.len()).map(|index| out.sequence(index).map(row).collect()).collect()
}

/// Largest difference of two equally long lists of rows.
pub(crate) fn difference(a: &[Vec<f32>], b: &[Vec<f32>]) -> f32 {
    assert_eq!(a.len(), b.len());
    let rows = a.iter().zip(b);
    rows.flat_map(|(a, b)| {
        assert_eq!(a.len(), b.len());
        a.iter().zip(b).map(|(a, b)| (a - b).abs())
    })
    .fold(0.0, |most, d| if d.is_nan() || d > most { d } else { most })
}

/// Tokens that are anything, the same every time.
pub(crate) fn some_tokens(count: usize, vocab: usize, seed: u64) -> Vec<u32> {
    let mut state = seed;
    let mut next = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 33) % vocab as u64) as u32
    };
    (0..count).map(|_| next()).collect()
}
