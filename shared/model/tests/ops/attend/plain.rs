//! Attention written out, token by token, in double precision.

use super::case::{Case, Place, Run, Sequence};
use crate::oracle::{Wanted, double, norm};
use crate::target::Target;
use half::f16;
use model::ops::{KvShape, ServeOps};

const EPS: f32 = 1e-6;

/// Norms (where the case has norms) and rotates one head of a row.
fn turned(case: &Case, head: &[f32], weight: Option<&Vec<f32>>, position: usize) -> Vec<f64> {
    let mut head = double(head);
    if let Some(weight) = weight {
        head = norm(&head, weight, EPS);
    }
    let half = head.len() / 2;
    for (pair, frequency) in case.frequencies.iter().enumerate() {
        let (sin, cos) = (position as f64 * frequency).sin_cos();
        let (a, b) = (head[pair], head[pair + half]);
        head[pair] = a * cos - b * sin;
        head[pair + half] = b * cos + a * sin;
    }
    head
}

/// Checks every number in all pages: the new keys and values to a rounding, all others to the bit.
pub(super) fn check_stored<O: ServeOps>(run: &mut Run<O>, target: &mut Target<O>, case: &Case) {
    run.export_all(target);
    let KvShape { kv_heads, head_dim, .. } = case.shape;
    let mut is_new: Vec<Vec<bool>> = run.pages.iter().map(|page| vec![false; page.len()]).collect();
    for (index, sequence) in case.sequences.iter().enumerate() {
        for row in 0..sequence.rows {
            for kv_head in 0..kv_heads {
                let token = sequence.position + row;
                let key = head(case, sequence, row, case.heads + kv_head);
                let norms = case.norms.as_ref();
                let key = turned(case, key, norms.map(|norms| &norms[1]), token);
                let value = head(case, sequence, row, case.heads + kv_heads + kv_head);
                for (is_value, wanted) in [(false, key), (true, double(value))] {
                    for (element, &wanted) in wanted.iter().enumerate().take(head_dim) {
                        let place = Place { sequence: index, token, kv_head, element, is_value };
                        let (page, at) = place.index(case);
                        is_new[page][2 * at..2 * at + 2].fill(true);
                        let got = run.stored(case, place);
                        // Half a step of the format, and what the sum before it was off by; the
                        // smallest numbers have steps of 2^-24.
                        let step = wanted.abs().max(6.2e-5) * 2f64.powi(-10);
                        let most = 0.51 * step + 2e-7;
                        assert!(
                            (got - wanted).abs() <= most && f16::from_f64(got).to_f64() == got,
                            "{} {case}: stored {got}, not {wanted}",
                            target.name
                        );
                    }
                }
            }
        }
    }
    for (page, is_new) in is_new.iter().enumerate() {
        for (at, _) in is_new.iter().enumerate().filter(|(_, is_new)| !**is_new) {
            let (got, before) = (run.pages[page][at], run.before[page][at]);
            assert_eq!(got, before, "{} {case}: page {page} byte {at} changed", target.name);
        }
    }
}

/// One head's part of a row of queries, keys and values.
fn head<'a>(case: &Case, sequence: &'a Sequence, row: usize, head: usize) -> &'a [f32] {
    let head_dim = case.shape.head_dim;
    &sequence.qkv[row * case.width() + head * head_dim..][..head_dim]
}

/// The outputs of every sequence, over the keys and values that the implementation stored.
pub(super) fn attend<O: ServeOps>(run: &Run<O>, case: &Case) -> Vec<Vec<Wanted>> {
    case.sequences
        .iter()
        .enumerate()
        .map(|(index, sequence)| {
            let rows = (0..sequence.rows).flat_map(|row| {
                (0..case.heads).flat_map(move |query| attend_head(run, case, index, row, query))
            });
            rows.collect()
        })
        .collect()
}

fn attend_head<O: ServeOps>(
    run: &Run<O>,
    case: &Case,
    index: usize,
    row: usize,
    query_head: usize,
) -> Vec<Wanted> {
    let sequence = &case.sequences[index];
    let KvShape { kv_heads, head_dim, .. } = case.shape;
    let kv_head = query_head / (case.heads / kv_heads);
    let end = sequence.position + row + 1;
    let first = end - case.window.unwrap_or(end).min(end);
    let norms = case.norms.as_ref();
    let query =
        turned(case, head(case, sequence, row, query_head), norms.map(|norms| &norms[0]), end - 1);
    let stored = |token: usize, element: usize, is_value: bool| {
        run.stored(case, Place { sequence: index, token, kv_head, element, is_value })
    };
    // Score, and the sum of the magnitudes that it was added up from.
    let scores: Vec<(f64, f64)> = (first..end)
        .map(|token| {
            let terms =
                query.iter().enumerate().map(|(element, q)| q * stored(token, element, false));
            let (sum, size) = terms.fold((0.0, 0.0), |(sum, size), t| (sum + t, size + t.abs()));
            (sum * f64::from(case.scale), size * f64::from(case.scale))
        })
        .collect();
    let most = scores.iter().fold(f64::NEG_INFINITY, |most, score| most.max(score.0));
    let weights: Vec<f64> = scores.iter().map(|score| (score.0 - most).exp()).collect();
    let total: f64 = weights.iter().sum();
    // A score that is off by so much changes a weight by as much, relative to it.
    let off = scores.iter().zip(&weights).map(|(score, w)| 1e-6 * score.1 * w / total).sum::<f64>();
    (0..head_dim)
        .map(|element| {
            let terms = (first..end)
                .zip(&weights)
                .map(|(token, weight)| weight / total * stored(token, element, true));
            let (value, size) =
                terms.fold((0.0, 0.0f64), |(sum, size), t| (sum + t, size + t.abs()));
            Wanted { value, slack: 1e-5 * size + 4.0 * off }
        })
        .collect()
}
