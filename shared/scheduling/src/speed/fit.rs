//! One kind of step: three costs, none negative, fitted to shares of what was measured.
//!
//! Two sets of moments forget at different rates. The slow one learns the *shape*, how the three
//! costs stand to each other whatever the machine's speed; the fast one learns how quick the
//! machine is now, and takes from the shape what its own steps do not tell. The shape takes that
//! from the prior. So steps that are all alike, or all short, leave neither
//! nonsense nor a hole.

use super::solve::{self, Vector};

/// Steps that the fast moments remember, at least even while nothing is as predicted; and the slow
/// ones.
const FAST_STEPS: f64 = 25.0;
const FAST_STEPS_MIN: f64 = 3.0;
const SLOW_STEPS: f64 = 1_000.0;
/// Weight of the shape in the fast moments, in steps that are off by all of it.
const FIRM: f64 = 10.0;
/// Steps that the error is a mean over.
const ERROR_STEPS: f64 = 10.0;
/// Taken for the error before the first steps, and the most that loosens the shape; the least.
const ERROR_AT_FIRST: f64 = 0.5;
const ERROR_MIN: f64 = 0.02;
/// An error that says that the machine's speed changed, rather than that it varies.
const ERROR_HIGH: f64 = 0.3;
/// Multiple of the usual error above which a step counts for less.
const OUTLIER: f64 = 2.5;
/// Least weight of a step, lest a change of speed be taken for a row of outliers.
const WEIGHT_MIN: f64 = 1e-3;
/// A step teaches of the shape at most this many times its level.
const TRUST: f64 = 20.0;
/// The share of the largest cost that every cost has in a shape, at least.
const SHARE_MIN: f64 = 1e-3;
/// The logarithm of what a step took over what was predicted, at most.
const OFF_MAX: f64 = 3.0;

/// Prior of a kind of step, before any was seen. All in units of `scales`.
#[derive(Debug)]
pub(super) struct Known {
    /// Steps, items and pairs that make costs comparable.
    pub(super) scales: Vector,
    /// Index of the cost that the others are expressed in.
    pub(super) main: usize,
    /// The costs over the main one.
    pub(super) ratios: Vector,
    /// Expected deviation of these.
    pub(super) spreads: Vector,
}

/// Weighted sums over steps.
#[derive(Clone, Debug, Default)]
struct Moments {
    squares: [Vector; 3],
    products: Vector,
}

impl Moments {
    /// Adds a step by what it took per unit of its work, `x` being the work's parts in that unit.
    fn add(&mut self, x: &Vector, took: f64, weight: f64, remembers: f64) {
        let keep = 1.0 - 1.0 / remembers;
        for (row, a) in x.iter().enumerate() {
            for (column, b) in x.iter().enumerate() {
                let sum = &mut self.squares[row][column];
                *sum = keep * *sum + weight * a * b;
            }
            self.products[row] = keep * self.products[row] + weight * a * took;
        }
    }

    /// Returns the costs that explain the steps best; where these say little, costs in the proportions of
    /// `shape`, which counts as `firm` steps against being off by `known.spreads`.
    fn costs(&self, known: &Known, shape: &Vector, firm: f64) -> Vector {
        let mut squares = self.squares;
        let main = known.main;
        for other in (0..3).filter(|other| *other != main) {
            let ratio = shape[other] / shape[main];
            let pull = firm / (known.spreads[other] * ratio.max(1.0)).powi(2);
            squares[other][other] += pull;
            squares[other][main] -= pull * ratio;
            squares[main][other] -= pull * ratio;
            squares[main][main] += pull * ratio * ratio;
        }
        solve::non_negative(&squares, &self.products)
    }
}

/// A running fit.
#[derive(Clone, Debug)]
pub(super) struct Fit {
    known: &'static Known,
    fast: Moments,
    slow: Moments,
    /// The costs in proportion, the largest 1.
    shape: Vector,
    /// Microseconds per unit of `known.scales`.
    costs: Vector,
    error: f64,
    steps: u64,
}

impl Fit {
    pub(super) fn new(known: &'static Known) -> Self {
        Self {
            known,
            fast: Moments::default(),
            slow: Moments::default(),
            shape: proportions(&known.ratios),
            costs: [0.0; 3],
            error: ERROR_AT_FIRST,
            steps: 0,
        }
    }

    /// Learns that steps, items and pairs as in `work` took `took_us`.
    pub(super) fn observe(&mut self, work: Vector, took_us: f64) {
        if !took_us.is_finite() || took_us <= 0.0 {
            return;
        }
        let x: Vector = std::array::from_fn(|at| work[at] / self.known.scales[at]);
        let weight = self.compare(solve::dot(&self.costs, &x), took_us);
        let error = self.error.max(ERROR_MIN);
        self.steps += 1;
        // A step counts by its share of what it should take, not by its microseconds.
        let unit = solve::dot(&self.shape, &x);
        let (x, took) = (x.map(|part| part / unit), took_us / unit);
        let remembers = FAST_STEPS / (1.0 + (error / ERROR_HIGH).powi(2));
        self.fast.add(&x, took, weight, remembers.max(FAST_STEPS_MIN));
        let firm = FIRM * error.min(ERROR_AT_FIRST).powi(2);
        self.costs = self.fast.costs(self.known, &self.shape, firm);
        // While the machine's speed changes, steps say little of the shape.
        let level = solve::dot(&self.costs, &self.shape) / solve::dot(&self.shape, &self.shape);
        let weight = weight / error.powi(2);
        self.slow.add(&x, took / level.max(took / TRUST), weight, SLOW_STEPS);
        let first = proportions(&self.known.ratios);
        self.shape = proportions(&self.slow.costs(self.known, &first, 1.0));
    }

    /// Updates the error from a prediction and returns the weight of the step.
    fn compare(&mut self, predicted: f64, took_us: f64) -> f64 {
        if self.steps == 0 {
            return 1.0;
        }
        let ratio = took_us / predicted.max(f64::MIN_POSITIVE);
        let usual = OUTLIER * self.error.max(ERROR_MIN);
        self.error += (ratio.ln().abs().min(OFF_MAX) - self.error) / ERROR_STEPS;
        (usual / (ratio - 1.0).abs().max(usual)).max(WEIGHT_MIN)
    }

    /// Returns the predicted microseconds of such a step.
    pub(super) fn us(&self, work: Vector) -> f64 {
        solve::dot(&self.costs_us(), &work)
    }

    /// Returns the microseconds of a step, per item and per pair; zeros before the first step.
    pub(super) fn costs_us(&self) -> Vector {
        std::array::from_fn(|at| self.costs[at] / self.known.scales[at])
    }

    /// Returns the recent prediction error: the mean of the logarithms' distances, which for small
    /// errors is the share.
    pub(super) fn error(&self) -> f64 {
        self.error
    }

    pub(super) fn steps(&self) -> u64 {
        self.steps
    }
}

/// Returns the costs in proportion, with the largest 1 and none below [`SHARE_MIN`].
fn proportions(costs: &Vector) -> Vector {
    let largest = costs.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
    costs.map(|cost| (cost / largest).max(SHARE_MIN))
}
