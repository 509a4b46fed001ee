//! The description of a step for the kernels, put onto the device once.

use burn_cubecl::tensor::CubeTensor;
use protocol::BLOCK_TOKENS;

use super::gpu::Gpu;
use crate::ops::Step;

/// Set where a row writes the word that its key shares with its neighbor's.
pub(super) const SLOT_FIRST: u32 = 1;
/// Set where the next row's key belongs into the same word.
pub(super) const SLOT_NEXT: u32 = 2;
/// Words of a tile: first row, rows, position of the first, start of its block table.
pub(super) const TILE_WORDS: usize = 4;
/// Rows of one sequence that attend together.
pub(super) struct Tiles {
    pub(super) count: usize,
    /// Rows of the largest.
    pub(super) rows: usize,
    pub(super) words: CubeTensor,
}

/// A step on the device.
pub(super) struct Frame {
    pub(super) rows: usize,
    pub(super) tokens: CubeTensor,
    /// Cosines, then sines, of each row: `[rows, head_dim]`.
    pub(super) turns: CubeTensor,
    /// Of each row `page * 16 + place`, and flags.
    pub(super) slots: CubeTensor,
    pub(super) pages: CubeTensor,
    /// Rows that the head looks at.
    pub(super) wanted: CubeTensor,
    /// Single rows apart from runs of a prompt, whose kernels differ.
    pub(super) tiles: Vec<Tiles>,
    /// The most rows of a tile.
    tile_rows: usize,
}

impl Frame {
    pub(super) fn new(gpu: &Gpu, step: &Step, frequencies: &[f64], tile_rows: usize) -> Self {
        let wanted: Vec<u32> = step.wanted.iter().map(|wanted| wanted.row as u32).collect();
        Self {
            rows: step.rows(),
            tokens: gpu.words(&step.tokens),
            turns: gpu.singles(&turns(&step.positions, frequencies)),
            slots: gpu.words(&slots(step)),
            pages: gpu.words(&step.pages),
            wanted: gpu.words(&wanted),
            tiles: cut(gpu, step, tile_rows),
            tile_rows,
        }
    }

    /// Cuts the step again where its tiles are not of at most `rows` rows.
    pub(super) fn cut(&mut self, gpu: &Gpu, step: &Step, rows: usize) {
        if self.tile_rows != rows {
            self.tiles = cut(gpu, step, rows);
            self.tile_rows = rows;
        }
    }
}

fn cut(gpu: &Gpu, step: &Step, rows: usize) -> Vec<Tiles> {
    let parts = [(tiles(step, true, 1), 1), (tiles(step, false, rows), rows)];
    parts
        .into_iter()
        .filter(|(words, _)| !words.is_empty())
        .map(|(words, rows)| Tiles {
            count: words.len() / TILE_WORDS,
            rows,
            words: gpu.words(&words),
        })
        .collect()
}

fn turns(positions: &[u32], frequencies: &[f64]) -> Vec<f32> {
    let mut turns = Vec::with_capacity(positions.len() * frequencies.len() * 2);
    for &position in positions {
        let angles = frequencies.iter().map(|frequency| f64::from(position) * frequency);
        turns.extend(angles.clone().map(|angle| angle.cos() as f32));
        turns.extend(angles.map(|angle| angle.sin() as f32));
    }
    turns
}

fn slots(step: &Step) -> Vec<u32> {
    let mut slots = Vec::with_capacity(2 * step.rows());
    for span in &step.spans {
        for row in span.rows.clone() {
            let (page, place) = step.slot(span, row);
            let even = place % 2 == 0;
            let first = even || row == span.rows.start;
            let next = even && row + 1 < span.rows.end;
            slots.push(page * BLOCK_TOKENS as u32 + place as u32);
            slots.push(u32::from(first) * SLOT_FIRST + u32::from(next) * SLOT_NEXT);
        }
    }
    slots
}

/// Tiles of up to `rows` rows, of the spans of one row or of the longer ones.
fn tiles(step: &Step, single: bool, rows: usize) -> Vec<u32> {
    let mut words = Vec::new();
    for span in step.spans.iter().filter(|span| (span.rows.len() == 1) == single) {
        for first in span.rows.clone().step_by(rows) {
            let count = rows.min(span.rows.end - first);
            let position = span.position + first - span.rows.start;
            words.extend([first, count, position, span.pages.start].map(|word| word as u32));
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::Span;

    fn step() -> Step {
        Step {
            tokens: vec![0; 7],
            positions: vec![15, 16, 17, 18, 19, 3, 8],
            spans: vec![
                Span { rows: 0..5, position: 15, pages: 0..2 },
                Span { rows: 5..6, position: 3, pages: 2..3 },
                Span { rows: 6..7, position: 8, pages: 3..4 },
            ],
            pages: vec![4, 2, 0, 1],
            wanted: vec![],
        }
    }

    #[test]
    fn each_shared_word_has_one_writer() {
        let slots: Vec<(u32, u32)> =
            slots(&step()).chunks_exact(2).map(|pair| (pair[0], pair[1])).collect();
        let (both, first, none) = (SLOT_FIRST | SLOT_NEXT, SLOT_FIRST, 0);
        assert_eq!(
            slots,
            [(79, first), (32, both), (33, none), (34, both), (35, none), (3, first), (24, first)]
        );
    }

    #[test]
    fn single_rows_and_runs_have_tiles_of_their_own() {
        assert_eq!(tiles(&step(), true, 1), [5, 1, 3, 2, 6, 1, 8, 3]);
        assert_eq!(tiles(&step(), false, 4), [0, 4, 15, 0, 4, 1, 19, 0]);
    }
}
