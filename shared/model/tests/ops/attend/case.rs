//! Sequences that attend, and runs of an implementation over them.

use crate::random::Random;
use crate::target::Target;
use half::f16;
use model::ops::{Attention, KvShape, ServeOps, Span, Step};
use std::fmt;
use std::ops::Range;

const EPS: f32 = 1e-6;

/// The sizes of a case.
pub(crate) struct Options {
    pub(crate) head_dim: usize,
    pub(crate) sequences: usize,
    /// Longest context before the rows of a step.
    pub(crate) context: usize,
}

/// One layer's attention over some sequences.
pub(crate) struct Case {
    pub(crate) shape: KvShape,
    pub(crate) heads: usize,
    pub(crate) layer: usize,
    pub(crate) scale: f32,
    pub(crate) window: Option<usize>,
    pub(crate) norms: Option<[Vec<f32>; 2]>,
    pub(crate) frequencies: Vec<f64>,
    pub(crate) sequences: Vec<Sequence>,
    /// Chooses what is in the pages before.
    seed: u64,
}

pub(crate) struct Sequence {
    pub(crate) position: usize,
    pub(crate) rows: usize,
    pub(crate) table: Vec<u32>,
    /// `[rows, (heads + 2 kv_heads) head_dim]`
    pub(crate) qkv: Vec<f32>,
}

/// Some rows of a sequence.
#[derive(Clone)]
pub(crate) struct Piece {
    pub(crate) sequence: usize,
    pub(crate) rows: Range<usize>,
}

impl fmt::Display for Case {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let KvShape { kv_heads, head_dim, .. } = self.shape;
        let sequences: Vec<_> = self.sequences.iter().map(|s| (s.position, s.rows)).collect();
        write!(
            formatter,
            "{} heads of {head_dim} over {kv_heads}, window {:?}, norms {}, (position, rows) \
             {sequences:?}",
            self.heads,
            self.window,
            self.norms.is_some(),
        )
    }
}

impl Case {
    pub(crate) fn any(random: &mut Random, options: Options) -> Self {
        let Options { head_dim, sequences, context } = options;
        let kv_heads = random.between(1, 3);
        let shape = KvShape { layers: 2, kv_heads, head_dim, pages: 0 };
        let frequencies = (0..head_dim / 2)
            .map(|pair| 10_000f64.powf(-2.0 * pair as f64 / head_dim as f64))
            .collect();
        let weights = |random: &mut Random| {
            random.values(head_dim).into_iter().map(|value| 1.0 + value / 2.0).collect()
        };
        let mut case = Self {
            shape,
            heads: kv_heads * random.between(1, 4),
            layer: random.below(2),
            scale: 1.0 / (head_dim as f32).sqrt(),
            window: random.coin().then(|| [1, 16, random.between(2, 90)][random.below(3)]),
            norms: random.coin().then(|| [weights(random), weights(random)]),
            frequencies,
            sequences: Vec::new(),
            seed: random.below(1 << 30) as u64,
        };
        for _ in 0..sequences {
            let position = if random.coin() { random.below(context) } else { 0 };
            let rows = if random.coin() { 1 } else { random.between(1, 70) };
            case.add_sequence(random, position, rows);
        }
        case
    }

    /// Adds a sequence whose pages lie anywhere among all pages.
    pub(crate) fn add_sequence(&mut self, random: &mut Random, position: usize, rows: usize) {
        let first = self.shape.pages as u32;
        let count = (position + rows).div_ceil(16);
        self.shape.pages += count;
        let mut table: Vec<u32> = (first..first + count as u32).collect();
        for index in 0..count {
            table.swap(index, random.below(count));
        }
        // Swap a page with another sequence, so that no sequence's are a run.
        if let Some(other) = self.sequences.last_mut() {
            let (mine, theirs) = (random.below(count), random.below(other.table.len()));
            std::mem::swap(&mut table[mine], &mut other.table[theirs]);
        }
        let qkv = random.rows(rows, self.width());
        self.sequences.push(Sequence { position, rows, table, qkv });
    }

    /// Of queries, keys and values.
    pub(crate) fn width(&self) -> usize {
        (self.heads + 2 * self.shape.kv_heads) * self.shape.head_dim
    }

    /// All rows in one step.
    pub(crate) fn whole(&self) -> Vec<Piece> {
        self.sequences
            .iter()
            .enumerate()
            .map(|(sequence, of)| Piece { sequence, rows: 0..of.rows })
            .collect()
    }

    /// One step for every sequence.
    pub(crate) fn alone(&self, _: &mut Random) -> Vec<Vec<Piece>> {
        self.whole().into_iter().map(|piece| vec![piece]).collect()
    }

    /// One step for every row.
    pub(crate) fn one_by_one(&self, _: &mut Random) -> Vec<Vec<Piece>> {
        let rows = |piece: Piece| {
            piece.rows.map(move |row| vec![Piece { sequence: piece.sequence, rows: row..row + 1 }])
        };
        self.whole().into_iter().flat_map(rows).collect()
    }

    /// Chunks of any size, in any company.
    pub(crate) fn any_schedule(&self, random: &mut Random) -> Vec<Vec<Piece>> {
        let mut done = vec![0; self.sequences.len()];
        let mut steps = Vec::new();
        while self.sequences.iter().zip(&done).any(|(sequence, &done)| done < sequence.rows) {
            let mut step = Vec::new();
            for (index, sequence) in self.sequences.iter().enumerate() {
                let left = sequence.rows - done[index];
                if left > 0 && random.coin() {
                    let count = random.between(1, left);
                    step.push(Piece { sequence: index, rows: done[index]..done[index] + count });
                    done[index] += count;
                }
            }
            if !step.is_empty() {
                steps.push(step);
            }
        }
        steps
    }

    /// Returns the content of a page before the first step.
    fn page(&self, page: usize) -> Vec<u8> {
        let mut random = Random(self.seed ^ (page as u64) << 32);
        let values = random.values(self.shape.block_bytes() / 2);
        values.iter().flat_map(|&value| f16::from_f32(value).to_le_bytes()).collect()
    }
}

/// An implementation's KV as it goes through the steps of a case.
pub(crate) struct Run<O: ServeOps> {
    kv: O::Kv,
    norms: Option<[model::ops::Norm<O::Vector>; 2]>,
    /// All pages as they are, once exported.
    pub(crate) pages: Vec<Vec<u8>>,
    pub(crate) before: Vec<Vec<u8>>,
}

impl<O: ServeOps> Run<O> {
    pub(crate) fn new(target: &mut Target<O>, case: &Case) -> Self {
        let mut kv = target.ops.kv(case.shape).unwrap();
        let before: Vec<Vec<u8>> = (0..case.shape.pages).map(|page| case.page(page)).collect();
        for (page, bytes) in (0..).zip(&before) {
            target.ops.import(&mut kv, page, bytes).unwrap();
        }
        let norms = case.norms.as_ref();
        let norms = norms.map(|norms| norms.each_ref().map(|norm| target.norm(norm, EPS)));
        Self { kv, norms, pages: before.clone(), before }
    }

    /// Attends; returns the outputs of each piece.
    pub(crate) fn step(
        &mut self,
        target: &mut Target<O>,
        case: &Case,
        pieces: &[Piece],
    ) -> Vec<Vec<f32>> {
        let (mut step, mut qkv) = (Step::default(), Vec::new());
        for piece in pieces {
            let sequence = &case.sequences[piece.sequence];
            let (row, page) = (step.tokens.len(), step.pages.len());
            let position = sequence.position + piece.rows.start;
            let end = sequence.position + piece.rows.end;
            step.tokens.extend(piece.rows.clone().map(|_| 0));
            step.positions.extend(position as u32..end as u32);
            step.pages.extend(&sequence.table[..end.div_ceil(16)]);
            let (rows, pages) = (row..step.tokens.len(), page..step.pages.len());
            step.spans.push(Span { rows, position, pages });
            let width = case.width();
            qkv.extend(&sequence.qkv[piece.rows.start * width..piece.rows.end * width]);
        }
        target.ops.begin(&step, &case.frequencies).unwrap();
        let buffer = target.filled(case.width(), &qkv);
        let mut out = target.ops.buffer();
        let attention = Attention {
            layer: case.layer,
            heads: case.heads,
            kv_heads: case.shape.kv_heads,
            head_dim: case.shape.head_dim,
            scale: case.scale,
            frequencies: &case.frequencies,
            head_norms: self.norms.as_ref(),
            window: case.window,
        };
        target.ops.attend(&step, &buffer, &attention, &mut self.kv, &mut out);
        let mut values = target.ops.read(&out);
        let width = case.heads * case.shape.head_dim;
        assert_eq!(values.len(), step.rows() * width);
        pieces
            .iter()
            .map(|piece| {
                let rest = values.split_off(piece.rows.len() * width);
                std::mem::replace(&mut values, rest)
            })
            .collect()
    }

    pub(crate) fn export_all(&mut self, target: &mut Target<O>) -> &[Vec<u8>] {
        for (page, bytes) in (0..).zip(&mut self.pages) {
            target.ops.export(&self.kv, page, bytes).unwrap();
        }
        &self.pages
    }

    /// A stored key or value: `[token][element]` of a sequence and key head, as numbers.
    pub(crate) fn stored(&self, case: &Case, place: Place) -> f64 {
        value_at(&self.pages, case, place)
    }
}

/// The place of a number of the KV.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    pub(crate) sequence: usize,
    pub(crate) token: usize,
    pub(crate) kv_head: usize,
    pub(crate) element: usize,
    pub(crate) is_value: bool,
}

impl Place {
    /// The page, and which of its numbers.
    pub(crate) fn index(&self, case: &Case) -> (usize, usize) {
        let KvShape { head_dim, .. } = case.shape;
        let page = case.sequences[self.sequence].table[self.token / 16] as usize;
        let token = self.token % 16;
        let half = case.shape.half_values();
        let layer = case.layer * 2 * half;
        let within = if self.is_value {
            half + (self.kv_head * 16 + token) * head_dim + self.element
        } else {
            (self.kv_head * head_dim + self.element) * 16 + token
        };
        (page, layer + within)
    }
}

fn value_at(pages: &[Vec<u8>], case: &Case, place: Place) -> f64 {
    let (page, index) = place.index(case);
    let bytes = &pages[page][2 * index..];
    f16::from_le_bytes([bytes[0], bytes[1]]).to_f64()
}
