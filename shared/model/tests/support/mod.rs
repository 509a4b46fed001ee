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

/// Loads `file` on the device named, such as `wgpu`, `cpu` or `cpu int16`; a machine without it ends the
/// test as ignored.
pub(crate) fn load(file: &ModelFile, device: &str, kv_pages: usize) -> Model {
    load_with(file, device, kv_pages, 2, IsaChoice::Auto)
}

/// As [`load`], with this number of threads and these instructions.
pub(crate) fn load_with(
    file: &ModelFile,
    device: &str,
    kv_pages: usize,
    threads: usize,
    isa: IsaChoice,
) -> Model {
    let (choice, precision) = choice_and_precision(device);
    let activations = ActivationsChoice::Only(precision);
    let limits = ModelLimits { kv_pages, threads, isa, activations };
    let resolved = testbed::require(&format!("device {choice}"), choice.resolve());
    println!("device: {} ({})", resolved.name, resolved.reason);
    Model::load(file, &choice, &limits, &mut |_| {}).unwrap()
}

/// As [`load`], for tests of many devices, which go on without those that this machine lacks.
pub(crate) fn load_available(file: &ModelFile, device: &str, kv_pages: usize) -> Option<Model> {
    let (choice, _) = choice_and_precision(device);
    testbed::available(&format!("device {choice}"), choice.resolve())?;
    Some(load(file, device, kv_pages))
}

fn choice_and_precision(device: &str) -> (DeviceChoice, Precision) {
    match device.strip_suffix(" int16") {
        Some(device) => (device.parse().unwrap(), Precision::Int16),
        None => (device.parse().unwrap(), Precision::Int8),
    }
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
    (0..count)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            ((state >> 33) % vocab as u64) as u32
        })
        .collect()
}
