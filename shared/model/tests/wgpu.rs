//! The kernels of the graphics device against plain loops, and their rows against themselves in
//! other company.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::needless_range_loop,
    reason = "what helps a test may fail like a test"
)]

use burn::tensor::{Device, DeviceType};
use model::ops::wgpu::WgpuOps;
use model::ops::{Attention, HeadRow, KvShape, Norm, ServeOps, Span, Step};
use model::{RowOutput, StepOutput};
use modelfile::{DType, TensorData};

testbed::suite!();

const ALL: [DType; 8] = [
    DType::Q4_0,
    DType::Q4_1,
    DType::Q8_0,
    DType::Q4_K,
    DType::Q6_K,
    DType::F16,
    DType::BF16,
    DType::F32,
];

fn ops() -> WgpuOps {
    let device = Device::enumerate(DeviceType::Wgpu).into_iter().next().ok_or("no adapter");
    let device = testbed::require("a graphics adapter", device);
    println!("device: {device:?}");
    WgpuOps::new(&device).unwrap()
}

/// Numbers between -1 and 1 that are anything, the same every time.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.0 >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    fn take(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.next()).collect()
    }
}

fn assert_near(got: &[f32], expected: &[f64], what: &str) {
    assert_eq!(got.len(), expected.len(), "{what}");
    let largest = expected.iter().fold(1e-3f64, |most, value| most.max(value.abs()));
    for (at, (got, expected)) in got.iter().zip(expected).enumerate() {
        let off = (f64::from(*got) - expected).abs();
        assert!(off <= 2e-5 * largest, "{what}: {got} at {at}, not {expected}");
    }
}

fn normed(row: &[f32], gain: &[f32], eps: f64) -> Vec<f64> {
    let square: f64 = row.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / row.len() as f64;
    let inverse = 1.0 / (square + eps).sqrt();
    row.iter().zip(gain).map(|(x, gain)| f64::from(*x) * inverse * f64::from(*gain)).collect()
}

fn times(weight: &[f32], row: &[f64]) -> Vec<f64> {
    weight
        .chunks_exact(row.len())
        .map(|w| w.iter().zip(row).map(|(w, x)| f64::from(*w) * x).sum())
        .collect()
}

#[testbed::test]
fn products_of_every_format_are_right_and_the_same_in_any_company() {
    let mut ops = ops();
    let mut numbers = Numbers(1);
    for (case, dtype) in ALL.into_iter().enumerate() {
        let inputs = if dtype.block_values() == 256 { 512 } else { 96 + 32 * case };
        let inputs = if dtype.block_values() == 1 { inputs - 19 } else { inputs };
        let outputs = [70, 3, 259][case % 3];
        let weight =
            TensorData::rounded(dtype, &[outputs, inputs], &numbers.take(outputs * inputs));
        let (values, bias) = (weight.to_f32(), numbers.take(outputs));
        let linear = ops.linear(&[weight], Some(&bias)).unwrap();
        let gain = numbers.take(inputs);
        let norm = Norm { weight: ops.vector(&gain), eps: 1e-5 };
        let rows = 13;
        let x = numbers.take(rows * inputs);
        let mut product = |x: &[f32]| {
            let (mut from, mut to) = (ops.buffer(), ops.buffer());
            ops.write(&mut from, inputs, x);
            ops.norm_linear(&from, &norm, &linear, &mut to);
            let normed = ops.read(&to);
            ops.linear_residual(&from, &linear, &mut to);
            (normed, ops.read(&to))
        };
        let all = product(&x);
        let mut expected = (Vec::new(), Vec::new());
        for row in x.chunks_exact(inputs) {
            let plain: Vec<f64> = row.iter().map(|x| f64::from(*x)).collect();
            let first = times(&values, &normed(row, &gain, 1e-5));
            let second = times(&values, &plain);
            for (at, (first, second)) in first.iter().zip(&second).enumerate() {
                let first = first + f64::from(bias[at]);
                expected.0.push(first);
                expected.1.push(first + second + f64::from(bias[at]));
            }
        }
        assert_near(&all.0, &expected.0, &format!("{dtype:?} {outputs}x{inputs}, normed"));
        assert_near(&all.1, &expected.1, &format!("{dtype:?} {outputs}x{inputs}, residual"));
        for (first, count) in [(0, 1), (12, 1), (5, 2), (1, 4), (3, 7)] {
            let some = product(&x[first * inputs..(first + count) * inputs]);
            let range = first * outputs..(first + count) * outputs;
            assert_eq!(some.0, all.0[range.clone()], "{dtype:?} rows {first} and {count}");
            assert_eq!(some.1, all.1[range], "{dtype:?} rows {first} and {count}, residual");
        }
    }
}

#[testbed::test]
fn gates_work_in_one_format_and_in_two() {
    let mut ops = ops();
    let mut numbers = Numbers(2);
    let (inputs, width, rows) = (256, 75, 9);
    for formats in [[DType::Q4_1, DType::Q4_1], [DType::Q4_K, DType::Q6_K]] {
        let parts = formats.map(|dtype| {
            TensorData::rounded(dtype, &[width, inputs], &numbers.take(width * inputs))
        });
        let values = [parts[0].to_f32(), parts[1].to_f32()];
        let linear = ops.linear(&parts, None).unwrap();
        let gain = numbers.take(inputs);
        let norm = Norm { weight: ops.vector(&gain), eps: 1e-5 };
        let x = numbers.take(rows * inputs);
        let (mut from, mut to) = (ops.buffer(), ops.buffer());
        ops.write(&mut from, inputs, &x);
        ops.norm_gate_up(&from, &norm, &linear, &mut to);
        let expected: Vec<f64> = x
            .chunks_exact(inputs)
            .flat_map(|row| {
                let row = normed(row, &gain, 1e-5);
                let (gate, up) = (times(&values[0], &row), times(&values[1], &row));
                gate.into_iter().zip(up).map(|(gate, up)| gate / (1.0 + (-gate).exp()) * up)
            })
            .collect();
        assert_near(&ops.read(&to), &expected, &format!("{formats:?}"));
    }
}

/// Sizes of an attention test.
#[derive(Clone, Copy, Debug)]
struct Case {
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    tokens: usize,
    window: Option<usize>,
    head_norms: bool,
}

struct Sequence {
    case: Case,
    qkv: Vec<f32>,
    gains: [Vec<f32>; 2],
    frequencies: Vec<f64>,
}

impl Sequence {
    fn new(case: Case, seed: u64) -> Self {
        let mut numbers = Numbers(seed);
        let width = (case.heads + 2 * case.kv_heads) * case.head_dim;
        Self {
            case,
            qkv: numbers.take(case.tokens * width).iter().map(|x| x * 3.0).collect(),
            gains: [numbers.take(case.head_dim), numbers.take(case.head_dim)],
            frequencies: (0..case.head_dim / 2).map(|pair| 0.9f64.powi(pair as i32)).collect(),
        }
    }

    fn width(&self) -> usize {
        self.qkv.len() / self.case.tokens
    }

    /// A head of a token as attention sees it.
    fn head(&self, token: usize, head: usize) -> Vec<f64> {
        let Case { heads, kv_heads, head_dim, .. } = self.case;
        let from = token * self.width() + head * head_dim;
        let values = &self.qkv[from..from + head_dim];
        let half = |x: f64| f64::from(half::f16::from_f64(x));
        if head >= heads + kv_heads {
            return values.iter().map(|x| half(f64::from(*x))).collect();
        }
        let is_key = head >= heads;
        let values: Vec<f64> = if self.case.head_norms {
            normed(values, &self.gains[usize::from(is_key)], 1e-5)
        } else {
            values.iter().map(|x| f64::from(*x)).collect()
        };
        let pairs = head_dim / 2;
        let turn = |at: usize| {
            let (sin, cos) = (token as f64 * self.frequencies[at % pairs]).sin_cos();
            let (low, high) = (values[at % pairs], values[at % pairs + pairs]);
            if at < pairs { low * cos - high * sin } else { high * cos + low * sin }
        };
        (0..head_dim).map(|at| if is_key { half(turn(at)) } else { turn(at) }).collect()
    }

    fn expected(&self) -> Vec<f64> {
        let Case { heads, kv_heads, head_dim, tokens, window, .. } = self.case;
        let mut out = Vec::new();
        let all: Vec<Vec<Vec<f64>>> = (0..tokens)
            .map(|token| (0..heads + 2 * kv_heads).map(|head| self.head(token, head)).collect())
            .collect();
        for token in 0..tokens {
            let first = window.map_or(0, |window| (token + 1).saturating_sub(window));
            for head in 0..heads {
                let key = heads + head / (heads / kv_heads);
                let scores: Vec<f64> = (first..=token)
                    .map(|other| {
                        let pairs = all[token][head].iter().zip(&all[other][key]);
                        pairs.map(|(q, k)| q * k).sum::<f64>() * 0.125
                    })
                    .collect();
                let best = scores.iter().copied().fold(f64::MIN, f64::max);
                let weights: Vec<f64> = scores.iter().map(|s| (s - best).exp()).collect();
                let total: f64 = weights.iter().sum();
                for at in 0..head_dim {
                    let values = (first..=token).map(|other| all[other][key + kv_heads][at]);
                    let sum: f64 = values.zip(&weights).map(|(v, w)| v * w).sum();
                    out.push(sum / total);
                }
            }
        }
        out
    }

    /// Attends over chunks that end at `ends`, each chunk a step; other sequences may ride along.
    fn attend(&self, ops: &mut WgpuOps, ends: &[usize], company: Option<&Self>) -> Vec<f32> {
        let Case { heads, kv_heads, head_dim, tokens, window, head_norms } = self.case;
        let pages = tokens.div_ceil(16);
        let others = company.map_or(0, |other| other.case.tokens.div_ceil(16));
        let shape = KvShape { layers: 1, kv_heads, head_dim, pages: pages + others };
        let mut kv = ops.kv(shape).unwrap();
        let norms = [0, 1].map(|which| Norm { weight: ops.vector(&self.gains[which]), eps: 1e-5 });
        let attention = Attention {
            layer: 0,
            heads,
            kv_heads,
            head_dim,
            scale: 0.125,
            frequencies: &self.frequencies,
            head_norms: head_norms.then_some(&norms),
            window,
        };
        let mut result = Vec::new();
        let mut start = 0;
        for &end in ends {
            let mut step = Step::default();
            let mut rows = Vec::new();
            // Pages in reverse, the company's behind.
            let own = (others as u32..(others + pages) as u32).rev().collect();
            let mut parts = vec![(self, own, start, end)];
            if let Some(other) = company {
                let count = other.case.tokens.min(end - start + 3);
                parts.insert(0, (other, (0..others as u32).collect::<Vec<u32>>(), 0, count));
            }
            for (sequence, table, start, end) in &parts {
                let first = step.positions.len();
                step.positions.extend((*start as u32)..(*end as u32));
                step.tokens.resize(step.positions.len(), 0);
                let from = step.pages.len();
                step.pages.extend(&table[..end.div_ceil(16)]);
                step.spans.push(Span {
                    rows: first..step.positions.len(),
                    position: *start,
                    pages: from..step.pages.len(),
                });
                let width = sequence.width();
                rows.extend_from_slice(&sequence.qkv[start * width..end * width]);
            }
            let (mut qkv, mut out) = (ops.buffer(), ops.buffer());
            ops.write(&mut qkv, self.width(), &rows);
            ops.begin(&step, &self.frequencies).unwrap();
            ops.attend(&step, &qkv, &attention, &mut kv, &mut out);
            let all = ops.read(&out);
            result.extend_from_slice(&all[all.len() - (end - start) * heads * head_dim..]);
            start = end;
        }
        result
    }
}

#[testbed::test]
fn attention_is_right_and_the_same_in_chunks_and_in_company() {
    let mut ops = ops();
    let plain =
        Case { heads: 6, kv_heads: 2, head_dim: 64, tokens: 150, window: None, head_norms: false };
    let cases = [
        plain,
        Case { window: Some(37), ..plain },
        Case { heads: 4, kv_heads: 4, head_dim: 6, tokens: 33, ..plain },
        Case { heads: 8, kv_heads: 1, head_dim: 80, tokens: 40, head_norms: true, ..plain },
        Case { heads: 9, kv_heads: 1, head_dim: 256, tokens: 20, ..plain },
    ];
    for (seed, case) in cases.into_iter().enumerate() {
        let sequence = Sequence::new(case, seed as u64);
        let whole = sequence.attend(&mut ops, &[case.tokens], None);
        assert_near(&whole, &sequence.expected(), &format!("{case:?}"));
        let tokens = case.tokens;
        let chunks = [1, 6, 7, 8, 18, tokens - 1, tokens];
        assert_eq!(sequence.attend(&mut ops, &chunks, None), whole, "{case:?} in chunks");
        let other = Sequence::new(Case { tokens: 29, ..case }, 99);
        let accompanied = sequence.attend(&mut ops, &chunks, Some(&other));
        assert_eq!(accompanied, whole, "{case:?} in company");
    }
}

#[testbed::test]
fn the_head_finds_tokens_and_copies_rows() {
    let mut ops = ops();
    let mut numbers = Numbers(5);
    let (inputs, vocab) = (64, 5003);
    let mut values = numbers.take(vocab * inputs);
    // Two tokens that are equally likely.
    let (a, b) = values.split_at_mut(4000 * inputs);
    b[..inputs].copy_from_slice(&a[17 * inputs..18 * inputs]);
    let weight = TensorData::rounded(DType::Q8_0, &[vocab, inputs], &values);
    let weights = weight.to_f32();
    let linear = ops.linear(&[weight], None).unwrap();
    let gain = numbers.take(inputs);
    let norm = Norm { weight: ops.vector(&gain), eps: 1e-5 };
    let x: Vec<f32> = numbers.take(5 * inputs);
    let mut buffer = ops.buffer();
    ops.write(&mut buffer, inputs, &x);
    let tops = [(0, 1), (1, 0), (2, 64), (3, 100), (4, 7)];
    let wanted = tops.map(|(row, top)| HeadRow { row, top }).to_vec();
    let step = Step {
        tokens: vec![0; 5],
        positions: vec![0; 5],
        spans: (0..5).map(|row| Span { rows: row..row + 1, position: 0, pages: 0..1 }).collect(),
        pages: vec![0],
        wanted,
    };
    ops.begin(&step, &[]).unwrap();
    let mut out = StepOutput::default();
    out.clear(vocab);
    ops.head(&step, &buffer, &norm, &linear, &mut out).unwrap();
    let rows: Vec<RowOutput> = out.rows().collect();
    for ((row, top), got) in tops.into_iter().zip(rows) {
        let expected = times(&weights, &normed(&x[row * inputs..][..inputs], &gain, 1e-5));
        match got {
            RowOutput::Whole(logits) => assert_near(logits, &expected, "a whole row"),
            RowOutput::Top(found) => {
                assert_eq!(found.len(), top);
                let mut order: Vec<usize> = (0..vocab).collect();
                order.sort_by(|a, b| expected[*b].total_cmp(&expected[*a]));
                let best: Vec<f64> = order[..top].iter().map(|&token| expected[token]).collect();
                let logits: Vec<f32> = found.iter().map(|(_, logit)| *logit).collect();
                assert_near(&logits, &best, "the best logits");
                for pair in found.windows(2) {
                    let ahead = pair[0].1 > pair[1].1;
                    assert!(ahead || (pair[0].1 == pair[1].1 && pair[0].0 < pair[1].0));
                }
                let of: Vec<f64> =
                    found.iter().map(|(token, _)| expected[*token as usize]).collect();
                assert_near(&logits, &of, "the logits of the tokens found");
            }
        }
    }
}

#[testbed::test]
fn embeddings_are_rows_of_the_matrix() {
    let mut ops = ops();
    let mut numbers = Numbers(6);
    for dtype in ALL {
        let inputs = if dtype.block_values() == 1 { 77 } else { 256 };
        let table = TensorData::rounded(dtype, &[40, inputs], &numbers.take(40 * inputs));
        let linear = ops.linear(std::slice::from_ref(&table), None).unwrap();
        let tokens = vec![39, 0, 7, 7];
        let span = Span { rows: 0..4, position: 0, pages: 0..1 };
        let (positions, pages) = (vec![0, 1, 2, 3], vec![0]);
        let step = Step { tokens, positions, spans: vec![span], pages, wanted: vec![] };
        let mut x = ops.buffer();
        ops.begin(&step, &[]).unwrap();
        ops.embed(&step, &linear, &mut x);
        let expected: Vec<f32> = step
            .tokens
            .iter()
            .flat_map(|&token| table.row_to_f32(token as usize).unwrap())
            .collect();
        assert_eq!(ops.read(&x), expected, "{dtype:?}");
    }
}

#[testbed::test]
fn pages_leave_and_enter_as_they_are() {
    let mut ops = ops();
    let shape = KvShape { layers: 3, kv_heads: 2, head_dim: 6, pages: 5 };
    let mut kv = ops.kv(shape).unwrap();
    let mut page = vec![1; shape.block_bytes()];
    ops.export(&kv, 4, &mut page).unwrap();
    assert!(page.iter().all(|byte| *byte == 0), "new pages are zero");
    let bytes: Vec<u8> = (0..shape.block_bytes()).map(|at| (at * 7 % 251) as u8).collect();
    ops.import(&mut kv, 2, &bytes).unwrap();
    for (at, expected) in [(1, &page), (2, &bytes), (3, &page)] {
        let mut out = vec![9; shape.block_bytes()];
        ops.export(&kv, at, &mut out).unwrap();
        assert!(out == *expected, "page {at}");
    }
}
