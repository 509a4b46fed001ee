//! The head: logits of the wanted rows, of which each thread keeps the best that it computes.

use super::Cpu;
use crate::activation::RmsNorm;
use crate::linear::{Linear, Sink};
use crate::matrix::Matrix;
use crate::memory::Shared;
use std::cmp::Ordering;

/// A token and its logit.
pub type Candidate = (u32, f32);

/// The results wanted of one row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadRow {
    /// The row.
    pub row: usize,
    /// Number of most likely tokens; 0 means the whole row of logits.
    pub top: usize,
}

/// The results of the head; kept and filled again.
#[derive(Clone, Debug, Default)]
pub struct HeadOutput {
    /// The candidates of all rows that want some, row after row: falling, ties by token.
    pub candidates: Vec<Candidate>,
    /// The logits of all rows that want them, row after row.
    pub logits: Vec<f32>,
}

/// The memory of the head between steps.
#[derive(Default)]
pub(super) struct TopMemory {
    selected: Vec<usize>,
    places: Vec<Place>,
    /// Per thread, the candidates of all rows.
    best: Vec<Candidate>,
    /// Per thread and row, how many there are.
    counts: Vec<usize>,
    merged: Vec<Candidate>,
}

/// The place of a row's results.
#[derive(Clone, Copy)]
struct Place {
    top: usize,
    /// Start of its candidates among those of a thread, or of its logits.
    start: usize,
}

/// Most likely first, ties by token.
fn by_likelihood(a: &Candidate, b: &Candidate) -> Ordering {
    b.1.total_cmp(&a.1).then(a.0.cmp(&b.0))
}

struct TopSink<'a> {
    places: &'a [Place],
    best: Shared<'a, Candidate>,
    counts: Shared<'a, usize>,
    tops: usize,
    logits: Shared<'a, f32>,
}

impl Sink for TopSink<'_> {
    #[inline(always)]
    unsafe fn put(&self, thread: usize, row: usize, column: usize, values: &[f32]) {
        let Place { top, start } = self.places[row];
        // SAFETY: logits of these columns belong to the caller, and so do the candidates of its
        // thread.
        unsafe {
            if top == 0 {
                self.logits.part(start + column, values.len()).copy_from_slice(values);
                return;
            }
            let count = &mut self.counts.part(thread * self.places.len() + row, 1)[0];
            let best = self.best.part(thread * self.tops + start, top);
            if *count == top {
                let most = values.iter().fold(f32::NEG_INFINITY, |most, &value| most.max(value));
                // A thread comes upon tokens in any order: an equal logit may still win.
                if most < best[top - 1].1 {
                    return;
                }
            }
            for (token, &value) in (column as u32..).zip(values) {
                // A logit that is no number is the least likely. Adding zero makes both zeros one.
                let logit = if value.is_nan() { f32::NEG_INFINITY } else { value + 0.0 };
                insert(best, count, (token, logit));
            }
        }
    }
}

/// Puts a candidate into its place among the best, if it is one of them.
fn insert(best: &mut [Candidate], count: &mut usize, candidate: Candidate) {
    let kept = &best[..*count];
    if kept.len() == best.len()
        && kept.last().is_some_and(|worst| by_likelihood(worst, &candidate).is_lt())
    {
        return;
    }
    let place = kept.partition_point(|other| by_likelihood(other, &candidate).is_lt());
    *count = (*count + 1).min(best.len());
    best[..*count].copy_within(place..*count - 1, place + 1);
    best[place] = candidate;
}

impl Cpu {
    /// `weight · norm(x)` of the wanted rows; `out` gets what each of them wants.
    ///
    /// # Panics
    /// Panics if the widths do not fit, or there is no such row.
    pub fn head(
        &mut self,
        x: &Matrix,
        norm: Option<RmsNorm<'_>>,
        weight: &Linear,
        wanted: &[HeadRow],
        out: &mut HeadOutput,
    ) {
        let vocab = weight.outputs();
        let mut memory = std::mem::take(&mut self.top);
        memory.selected.clear();
        memory.selected.extend(wanted.iter().map(|wanted| wanted.row));
        memory.places.clear();
        let (mut tops, mut logits) = (0, 0);
        for wanted in wanted {
            let top = wanted.top.min(vocab);
            let start = if top == 0 { logits } else { tops };
            memory.places.push(Place { top, start });
            tops += top;
            logits += if top == 0 { vocab } else { 0 };
        }
        let threads = self.pool.threads();
        memory.best.clear();
        memory.best.resize(threads * tops, (0, 0.0));
        memory.counts.clear();
        memory.counts.resize(threads * wanted.len(), 0);
        out.logits.clear();
        out.logits.resize(logits, 0.0);

        self.prepare(x, Some(&memory.selected), norm, weight);
        let sink = TopSink {
            places: &memory.places,
            best: Shared::new(&mut memory.best),
            counts: Shared::new(&mut memory.counts),
            tops,
            logits: Shared::new(&mut out.logits),
        };
        self.multiply(weight, wanted.len(), &sink);
        memory.merge(threads, tops, &mut out.candidates);
        self.top = memory;
    }
}

impl TopMemory {
    /// The best of all threads.
    fn merge(&mut self, threads: usize, tops: usize, out: &mut Vec<Candidate>) {
        out.clear();
        // The number that each thread has found is chance; the largest possible number is not.
        let most = self.places.iter().map(|place| place.top).max().unwrap_or(0);
        self.merged.clear();
        self.merged.reserve(threads * most);
        for (row, place) in self.places.iter().enumerate().filter(|(_, place)| place.top > 0) {
            self.merged.clear();
            for thread in 0..threads {
                let count = self.counts[thread * self.places.len() + row];
                let start = thread * tops + place.start;
                self.merged.extend_from_slice(&self.best[start..start + count]);
            }
            self.merged.sort_unstable_by(by_likelihood);
            out.extend_from_slice(&self.merged[..place.top]);
        }
    }
}
