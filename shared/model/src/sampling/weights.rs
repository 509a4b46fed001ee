//! Passes over a whole row of logits, in lanes that every machine computes alike.

use std::f32::consts::{LN_2, LOG2_E};

/// Values that one lane pass handles.
const LANES: usize = 16;
/// Tokens whose weights are summed together first.
const RUN: usize = 256;

/// The weights of a row: `exp((logit - top) / temperature)`, 0 where that is below `floor`.
#[derive(Clone, Debug, Default)]
pub(super) struct Weights {
    weights: Vec<f32>,
    /// Sums of [`RUN`] weights each.
    runs: Vec<f64>,
}

/// The function from a logit to a weight.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scale {
    pub(super) top: f32,
    pub(super) per_temperature: f32,
    pub(super) floor: f32,
}

impl Scale {
    /// Returns the weight of a logit; 0 for a NaN.
    #[inline]
    pub(super) fn weight(&self, logit: f32) -> f32 {
        let weight = exp((logit - self.top) * self.per_temperature);
        if weight >= self.floor { weight } else { 0.0 }
    }
}

impl Weights {
    /// Weighs a row.
    pub(super) fn weigh(&mut self, logits: &[f32], scale: Scale) {
        self.weights.clear();
        self.weights.extend(logits.iter().map(|&logit| scale.weight(logit)));
        self.runs.clear();
        self.runs.extend(self.weights.chunks(RUN).map(|run| {
            let mut lanes = [0f32; LANES];
            for part in run.chunks(LANES) {
                lanes.iter_mut().zip(part).for_each(|(lane, weight)| *lane += weight);
            }
            lanes.iter().map(|&lane| f64::from(lane)).sum::<f64>()
        }));
    }

    /// Returns the sum of all weights.
    pub(super) fn total(&self) -> f64 {
        self.runs.iter().sum()
    }

    /// Tokens that weigh something and at least `least`, with their weights.
    pub(super) fn at_least(&self, least: f64) -> impl Iterator<Item = (u32, f32)> {
        let least = least as f32;
        let all = (0u32..).zip(self.weights.iter().copied());
        all.filter(move |&(_, weight)| weight > 0.0 && weight >= least)
    }

    /// Returns the token at the share `at` of the total weight; `None` if all weights are zero.
    pub(super) fn draw(&self, at: f64) -> Option<u32> {
        let mut left = at * self.total();
        // The last run that weighs anything takes what rounding leaves over.
        let last = self.runs.iter().rposition(|run| *run > 0.0)?;
        let run = self.runs[..last].iter().position(|sum| {
            let here = left < *sum;
            left -= if here { 0.0 } else { *sum };
            here
        });
        let first = run.unwrap_or(last) * RUN;
        let mut chosen = None;
        for (id, &weight) in (first as u32..).zip(self.weights[first..].iter().take(RUN)) {
            if weight > 0.0 {
                chosen = Some(id);
                left -= f64::from(weight);
                if left < 0.0 {
                    break;
                }
            }
        }
        chosen
    }
}

/// Returns the index of the largest value, the lowest of equals; NaN counts as least.
pub fn argmax(logits: &[f32]) -> u32 {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let mut lanes = [f32::NEG_INFINITY; LANES];
    for part in logits.chunks(LANES) {
        lanes.iter_mut().zip(part).for_each(|(lane, &logit)| *lane = larger(*lane, logit));
    }
    let most = lanes.into_iter().fold(f32::NEG_INFINITY, larger);
    if most == f32::NEG_INFINITY {
        return 0;
    }
    logits.iter().position(|&logit| logit == most).map_or(0, |id| id as u32)
}

/// Computes `e` to the power of `x`, for `x` up to 80: within 2 in the last places near 0, 0 below
/// the smallest normal numbers and for what is no number. Only additions, multiplications and
/// comparisons of single numbers, so it is the same in any lane of any machine.
#[inline]
fn exp(x: f32) -> f32 {
    /// Adding it rounds to a whole number, which then is in the lowest bits.
    const ROUND: f32 = 12_582_912.0;
    let scaled = x * LOG2_E;
    let rounded = scaled + ROUND;
    let rest = scaled - (rounded - ROUND);
    // Taylor's series of 2^rest for rest within a half.
    let mut power = 1.540_353e-4;
    for term in [1.333_355_8e-3, 9.618_129e-3, 5.550_411e-2, 0.240_226_5, LN_2, 1.0] {
        power = power * rest + term;
    }
    let power = f32::from_bits(power.to_bits().wrapping_add(rounded.to_bits() << 23));
    if scaled >= -125.0 { power } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_close_and_ends_in_zero() {
        for step in 0..80_000 {
            let x = -(step as f32) / 1000.0;
            let (ours, true_) = (f64::from(exp(x)), f64::from(x).exp());
            assert!(
                (ours / true_ - 1.0).abs() < 2e-7 + 1e-7 * f64::from(-x),
                "{x}: {ours} {true_}"
            );
        }
        assert_eq!(exp(0.0), 1.0);
        for x in [-100.0, -1e30, f32::NEG_INFINITY, f32::NAN] {
            assert_eq!(exp(x), 0.0, "{x}");
        }
    }

    #[test]
    fn drawing_from_runs_is_drawing_from_the_list() {
        let logits: Vec<f32> = (0..1000).map(|id| ((id * 37) % 101) as f32 / 10.0).collect();
        let scale = Scale { top: 10.0, per_temperature: 1.0, floor: 0.01 };
        let mut weights = Weights::default();
        weights.weigh(&logits, scale);
        for draw in 0..1000 {
            let at = (f64::from(draw) + 0.5) / 1000.0;
            let mut left = at * weights.total();
            let listed = weights.at_least(0.0).find(|(_, weight)| {
                left -= f64::from(*weight);
                left < 0.0
            });
            assert_eq!(weights.draw(at), listed.map(|(id, _)| id));
        }
        weights.weigh(&[f32::NAN; 300], scale);
        assert_eq!(weights.draw(0.5), None);
    }

    #[test]
    fn the_first_of_the_largest_is_found() {
        assert_eq!(argmax(&[]), 0);
        assert_eq!(argmax(&[f32::NAN, f32::NEG_INFINITY]), 0);
        assert_eq!(argmax(&[f32::NAN, -0.0, 0.0, -1.0]), 1);
        let mut row = vec![1.0; 100];
        (row[70], row[33]) = (2.0, 2.0);
        assert_eq!(argmax(&row), 33);
    }
}
