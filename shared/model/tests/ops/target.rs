//! An implementation under test, and what may be expected of it.

use crate::random::Random;
use model::ops::{Norm, ServeOps, Step};

/// The form in which an implementation holds the inputs of a quantized weight.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Activations {
    /// As it is.
    Single,
    /// In runs of 32, as integers up to 127 and a scale.
    Int8,
    /// The same twice: what the first leaves of each value, with a scale of its own.
    Int16,
}

pub(crate) struct Target<O> {
    pub(crate) ops: O,
    pub(crate) name: String,
    pub(crate) activations: Activations,
    /// True if company must not change a single bit.
    pub(crate) is_exact: bool,
}

impl<O: ServeOps> Target<O> {
    /// A buffer with rows of `width`.
    pub(crate) fn filled(&mut self, width: usize, values: &[f32]) -> O::Buffer {
        let mut buffer = self.ops.buffer();
        self.ops.write(&mut buffer, width, values);
        buffer
    }

    /// Begins a step of `rows` rows that belong to no sequence in particular.
    pub(crate) fn begin(&mut self, rows: usize) -> Step {
        let step = plain_step(&vec![0; rows]);
        self.ops.begin(&step, &[1.0]).unwrap();
        step
    }

    pub(crate) fn norm(&mut self, weight: &[f32], eps: f32) -> Norm<O::Vector> {
        Norm { weight: self.ops.vector(weight), eps }
    }

    /// Compares what one row gave alone with what it gave in company.
    pub(crate) fn check_same(&self, alone: &[f32], together: &[f32], what: &str) {
        assert_eq!(alone.len(), together.len(), "{what}");
        let off = alone.iter().zip(together).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        if self.is_exact {
            let same = alone.iter().zip(together).all(|(a, b)| a.to_bits() == b.to_bits());
            assert!(same, "{} {what}: off by {off}", self.name);
        } else {
            let most = alone.iter().fold(1.0f32, |most, value| most.max(value.abs()));
            assert!(off <= 1e-4 * most, "{} {what}: off by {off} of {most}", self.name);
        }
    }
}

/// A step whose rows are sequences of one token each, in the first page.
pub(crate) fn plain_step(tokens: &[u32]) -> Step {
    let mut step = Step::default();
    for (row, &token) in tokens.iter().enumerate() {
        step.tokens.push(token);
        step.positions.push(0);
        step.pages.push(row as u32);
        step.spans.push(model::ops::Span { rows: row..row + 1, position: 0, pages: row..row + 1 });
    }
    step
}

/// Some rows of `0..count`, ascending, never none.
pub(crate) fn some_of(random: &mut Random, count: usize) -> Vec<usize> {
    let one = random.below(count);
    (0..count).filter(|&row| row == one || random.below(4) == 0).collect()
}

pub(crate) fn pick(values: &[f32], width: usize, rows: &[usize]) -> Vec<f32> {
    rows.iter().flat_map(|&row| values[row * width..][..width].iter().copied()).collect()
}
