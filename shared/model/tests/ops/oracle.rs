//! The operations as plain loops in double precision, each result with the error it may have.

use crate::target::Activations;
use modelfile::{DType, TensorData};

/// Rounding of single-precision sums, relative to the sum of the magnitudes added.
const ROUNDING: f64 = 4e-6;

/// A number, and how far an implementation may be from it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    pub(crate) value: f64,
    pub(crate) slack: f64,
}

impl Wanted {
    /// Adds something that the implementation knows exactly.
    pub(crate) fn plus(self, other: f64) -> Self {
        let value = self.value + other;
        Self { value, slack: self.slack + ROUNDING * (value.abs() + other.abs()) }
    }

    pub(crate) fn allows(&self, got: f32) -> bool {
        (f64::from(got) - self.value).abs() <= self.slack + 1e-7
    }
}

/// `x / rms(x) * weight`.
pub(crate) fn norm(x: &[f64], weight: &[f32], eps: f32) -> Vec<f64> {
    let mean = x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
    let factor = 1.0 / (mean + f64::from(eps)).sqrt();
    x.iter().zip(weight).map(|(x, &w)| x * factor * f64::from(w)).collect()
}

pub(crate) fn double(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| f64::from(x)).collect()
}

/// A row in the form in which a weight meets it.
pub(crate) struct Met {
    values: Vec<f64>,
    /// Error that one of the values may have, because it lay between two steps of the form.
    steps: Vec<f64>,
    /// Error that all of them may have together.
    rounding: Vec<f64>,
}

pub(crate) fn meet(x: &[f64], format: DType, activations: Activations) -> Met {
    if activations == Activations::Single || format.block_values() == 1 {
        let none = vec![0.0; x.len()];
        return Met { values: x.to_vec(), steps: none.clone(), rounding: none };
    }
    if activations == Activations::Int16 {
        // The first rounding leaves half a step of 127, the second half a step of a 127th of that.
        let rounding = x
            .chunks(32)
            .flat_map(|run| vec![largest(run) / 127.0 / 2.0 / 127.0 / 2.0; run.len()])
            .collect();
        return Met { values: x.to_vec(), steps: vec![0.0; x.len()], rounding };
    }
    let (mut values, mut steps) = (Vec::new(), Vec::new());
    for run in x.chunks(32) {
        let scale = largest(run) / 127.0;
        values.extend(run.iter().map(|x| {
            let quant = if scale == 0.0 { 0.0 } else { (x / scale).round_ties_even() };
            quant * scale
        }));
        steps.extend(run.iter().map(|_| scale));
    }
    Met { rounding: vec![0.0; values.len()], values, steps }
}

fn largest(run: &[f64]) -> f64 {
    run.iter().fold(0.0, |most: f64, x| most.max(x.abs()))
}

/// One row times a matrix.
pub(crate) fn multiply(
    x: &[f64],
    weight: &TensorData,
    bias: Option<&[f32]>,
    activations: Activations,
) -> Vec<Wanted> {
    let met = meet(x, weight.dtype, activations);
    let weights = weight.to_f32();
    let products = weights.chunks_exact(x.len()).enumerate().map(|(output, row)| {
        let terms = row.iter().zip(&met.values).map(|(&w, x)| f64::from(w) * x);
        let magnitude: f64 = terms.clone().map(f64::abs).sum();
        // A value in the middle between two steps may go either way in single precision.
        let flip = row.iter().zip(&met.steps).map(|(&w, step)| f64::from(w.abs()) * step);
        let off = row.iter().zip(&met.rounding).map(|(&w, off)| f64::from(w.abs()) * off);
        let bias = bias.map_or(0.0, |bias| f64::from(bias[output]));
        let value = terms.sum::<f64>() + bias;
        let slack =
            ROUNDING * (magnitude + bias.abs()) + flip.fold(0.0, f64::max) + off.sum::<f64>();
        Wanted { value, slack }
    });
    products.collect()
}

/// Panics with the worst of the numbers that are not those wanted.
pub(crate) fn check(got: &[f32], wanted: &[Wanted], what: &str) {
    assert_eq!(got.len(), wanted.len(), "{what}");
    for (index, (&got, wanted)) in got.iter().zip(wanted).enumerate() {
        assert!(wanted.allows(got), "{what}: value {index} is {got}, wanted {wanted:?}");
    }
}
