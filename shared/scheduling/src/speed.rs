//! How long a worker's steps take: fitted online to its own steps.
//!
//! Recursive least squares with forgetting on `step = a + b·prefill tokens + c·decode rows`.

use protocol::Speed;

const FORGETTING: f64 = 0.98;
const DIMENSIONS: usize = 3;

/// A running fit.
#[derive(Clone, Debug)]
pub struct SpeedFit {
    weights: [f64; DIMENSIONS],
    covariance: [[f64; DIMENSIONS]; DIMENSIONS],
    steps: u64,
}

impl Default for SpeedFit {
    fn default() -> Self {
        let mut covariance = [[0.0; DIMENSIONS]; DIMENSIONS];
        for (index, row) in covariance.iter_mut().enumerate() {
            row[index] = 1e6;
        }
        Self { weights: [0.0; DIMENSIONS], covariance, steps: 0 }
    }
}

impl SpeedFit {
    /// Learns from one step.
    pub fn observe(&mut self, prefill_tokens: u32, decode_rows: u32, step_us: f64) {
        let x = [1.0, f64::from(prefill_tokens), f64::from(decode_rows)];
        let px: [f64; DIMENSIONS] = std::array::from_fn(|row| dot(&self.covariance[row], &x));
        let gain_scale = FORGETTING + dot(&x, &px);
        let error = step_us - dot(&self.weights, &x);
        for (weight, px) in self.weights.iter_mut().zip(px) {
            *weight += px / gain_scale * error;
        }
        for (row, px_row) in self.covariance.iter_mut().zip(px) {
            for (entry, px_column) in row.iter_mut().zip(px) {
                let reduced = *entry - px_row * px_column / gain_scale;
                *entry = (reduced / FORGETTING).clamp(-1e9, 1e9);
            }
        }
        self.steps += 1;
    }

    /// The present estimate; zeros before the first steps. Never negative.
    pub fn speed(&self) -> Speed {
        if self.steps < 3 {
            return Speed::default();
        }
        let [step, prefill, decode] = self.weights.map(|weight| weight.max(0.0) as f32);
        Speed { step_us: step, prefill_token_us: prefill, decode_sequence_us: decode }
    }
}

fn dot(a: &[f64; DIMENSIONS], b: &[f64; DIMENSIONS]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_linear_machine_is_learned() {
        let mut fit = SpeedFit::default();
        for step in 0u32..200 {
            let (prefill, decode) = (step * 7 % 256, step * 3 % 16);
            fit.observe(
                prefill,
                decode,
                500.0 + 30.0 * f64::from(prefill) + 90.0 * f64::from(decode),
            );
        }
        let speed = fit.speed();
        assert!((speed.step_us - 500.0).abs() < 1.0, "{speed:?}");
        assert!((speed.prefill_token_us - 30.0).abs() < 0.1, "{speed:?}");
        assert!((speed.decode_sequence_us - 90.0).abs() < 0.1, "{speed:?}");
    }

    #[test]
    fn a_slower_machine_is_noticed() {
        let mut fit = SpeedFit::default();
        for step in 0u32..400 {
            let token_us = if step < 200 { 10.0 } else { 40.0 };
            fit.observe(1 + step % 64, 1, 100.0 + token_us * f64::from(1 + step % 64));
        }
        assert!((fit.speed().prefill_token_us - 40.0).abs() < 2.0, "{:?}", fit.speed());
    }
}
