//! Every instruction set, any number of threads and any company give the same bits; and the numbers
//! are those of plain loops in double precision.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "what helps a test may fail like a test"
)]
#![allow(
    clippy::too_many_lines,
    clippy::needless_range_loop,
    reason = "a case is made, run on every instruction set and compared in one place"
)]

use half::f16;
use kernels::{
    Attention, Cpu, Format, HeadOutput, HeadRow, Isa, Kv, KvShape, Linear, Matrix, Part, Precision,
    RmsNorm, Span, Vector,
};

const FORMATS: [Format; 8] = [
    Format::F32,
    Format::F16,
    Format::BF16,
    Format::Q4_0,
    Format::Q4_1,
    Format::Q8_0,
    Format::Q4_K,
    Format::Q6_K,
];

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    /// Within -1..1.
    fn value(&mut self) -> f32 {
        (self.next() as f64 / (1u64 << 30) as f64 - 1.0) as f32
    }

    fn values(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.value()).collect()
    }

    /// Rows of a format with sensible scales and any quants.
    fn weights(&mut self, format: Format, values: usize) -> Vec<u8> {
        let mut out = Vec::new();
        for _ in 0..values / format.block_values() {
            let scale = f16::from_f32(self.value() / 16.0).to_le_bytes();
            let minimum = f16::from_f32(self.value() / 4.0).to_le_bytes();
            let start = out.len();
            out.extend((0..format.block_bytes()).map(|_| self.next() as u8));
            let block = &mut out[start..];
            match format {
                Format::F32 => block.copy_from_slice(&self.value().to_le_bytes()),
                Format::F16 => block.copy_from_slice(&minimum),
                Format::BF16 => block.copy_from_slice(&self.value().to_le_bytes()[2..]),
                Format::Q4_0 | Format::Q8_0 => block[..2].copy_from_slice(&scale),
                Format::Q4_1 | Format::Q4_K => {
                    block[..2].copy_from_slice(&scale);
                    block[2..4].copy_from_slice(&minimum);
                }
                Format::Q6_K => block[208..].copy_from_slice(&scale),
            }
        }
        out
    }
}

fn isas() -> Vec<Isa> {
    let found: Vec<Isa> = Isa::ALL.into_iter().filter(|isa| isa.is_available()).collect();
    println!("instruction sets: {found:?}");
    found
}

fn matrix(width: usize, values: &[f32]) -> Matrix {
    let mut out = Matrix::new();
    out.write(width, values);
    out
}

/// A row as a precision rounds it.
fn quantized(row: &[f32], precision: Precision) -> Vec<f64> {
    let largest = match precision {
        Precision::Int8 => 127.0,
        Precision::Int16 => 32_767.0,
    };
    row.chunks(32)
        .flat_map(|block| {
            let most = block.iter().fold(0f32, |most, x| most.max(x.abs()));
            let inverse = if most > 0.0 { largest / most } else { 0.0 };
            block.iter().map(move |x| {
                f64::from((x * inverse).round_ties_even()) * f64::from(most / largest)
            })
        })
        .collect()
}

fn row_of(linear: &Linear, cpu: &mut Cpu, row: usize) -> Vec<f32> {
    let mut out = Matrix::new();
    cpu.embed(&[row as u32], linear, &mut out);
    out.to_vec()
}

fn normed(row: &[f32], weight: &[f32], eps: f32) -> Vec<f32> {
    let mean: f64 =
        row.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>() / row.len() as f64;
    let factor = 1.0 / (mean + f64::from(eps)).sqrt();
    row.iter().zip(weight).map(|(&x, &w)| (f64::from(x) * factor * f64::from(w)) as f32).collect()
}

#[test]
fn linear_layers_are_exact_in_any_company() {
    let mut random = Random(1);
    for format in FORMATS {
        for case in 0..8 {
            let precision = Precision::ALL[case / 4];
            let block = format.block_values().max(32);
            let is_float = format.block_values() == 1;
            let inputs =
                if is_float { 1 + random.below(150) } else { block * (1 + random.below(3)) };
            let (first, second) = (1 + random.below(70), 1 + random.below(40));
            let bytes =
                [random.weights(format, first * inputs), random.weights(format, second * inputs)];
            // Unaligned on purpose.
            let unaligned: Vec<Vec<u8>> =
                bytes.iter().map(|bytes| [&[0u8][..], bytes].concat()).collect();
            let bias = random.values(first + second);
            let parts = [
                Part { format, outputs: first, inputs, bytes: &unaligned[0][1..] },
                Part { format, outputs: second, inputs, bytes: &unaligned[1][1..] },
            ];
            let bias = (case % 2 == 0).then_some(&bias[..]);
            let linear = Linear::pack(&parts, bias).unwrap();
            let rows = [1, 2, 7, 70, 200][random.below(5)];
            let x = random.values(rows * inputs);
            let weights = random.values(inputs);
            let vector = Vector::new(&weights);
            let norm = Some(RmsNorm { weight: &vector, eps: 1e-5 });

            let mut results = Vec::new();
            for isa in isas() {
                for threads in 1..3 {
                    let mut cpu = Cpu::new(threads, isa, precision).unwrap();
                    let mut out = Matrix::new();
                    cpu.norm_linear(&matrix(inputs, &x), norm, &linear, &mut out);
                    let mut residual = matrix(first + second, &vec![1.0; rows * (first + second)]);
                    cpu.linear_residual(&matrix(inputs, &x), &linear, &mut residual);
                    let one = rows / 2;
                    let mut alone = Matrix::new();
                    cpu.norm_linear(
                        &matrix(inputs, &x[one * inputs..][..inputs]),
                        norm,
                        &linear,
                        &mut alone,
                    );
                    assert_eq!(alone.row(0), out.row(one), "{format:?} {isa}");
                    results.push((isa, out.to_vec(), residual.to_vec()));
                }
            }
            for (isa, normed, residual) in &results[1..] {
                assert_eq!(normed, &results[0].1, "{format:?} {isa} {precision}");
                assert_eq!(residual, &results[0].2, "{format:?} {isa} {precision}");
            }

            let mut cpu = Cpu::new(1, Isa::Portable, Precision::Int8).unwrap();
            let matrix: Vec<Vec<f32>> =
                (0..first + second).map(|row| row_of(&linear, &mut cpu, row)).collect();
            for row in [0, rows - 1] {
                let x = normed(&x[row * inputs..][..inputs], &weights, 1e-5);
                let x: Vec<f64> = if is_float {
                    x.iter().map(|&x| f64::from(x)).collect()
                } else {
                    quantized(&x, precision)
                };
                for (output, weight) in matrix.iter().enumerate() {
                    let products = weight.iter().zip(&x).map(|(&w, &x)| f64::from(w) * x);
                    let size: f64 = products.clone().map(f64::abs).sum();
                    let wanted = products.sum::<f64>() + f64::from(bias.map_or(0.0, |b| b[output]));
                    let got = f64::from(results[0].1[row * (first + second) + output]);
                    // A quant on the border may fall either way.
                    let tolerance = match precision {
                        Precision::Int8 if !is_float => 2e-3,
                        Precision::Int16 if !is_float => 4e-5,
                        _ => 1e-5,
                    };
                    assert!(
                        (got - wanted).abs() <= tolerance * (size + 1.0),
                        "{format:?} {precision}: {got}, not {wanted}"
                    );
                }
            }
        }
    }
}

#[test]
fn gate_and_up_are_exact_whatever_their_formats() {
    let mut random = Random(2);
    for ((gate, up), precision) in [
        ((Format::Q4_1, Format::Q4_1), Precision::Int8),
        ((Format::Q4_K, Format::Q6_K), Precision::Int8),
        ((Format::F32, Format::Q8_0), Precision::Int8),
        ((Format::Q4_1, Format::Q4_1), Precision::Int16),
        ((Format::Q8_0, Format::BF16), Precision::Int16),
    ] {
        let (inputs, outputs) = (256, 45);
        let bytes = [random.weights(gate, outputs * inputs), random.weights(up, outputs * inputs)];
        let parts = [
            Part { format: gate, outputs, inputs, bytes: &bytes[0] },
            Part { format: up, outputs, inputs, bytes: &bytes[1] },
        ];
        let both = Linear::pack(&parts, None).unwrap();
        let x = random.values(9 * inputs);
        let mut results = Vec::new();
        for isa in isas() {
            let mut cpu = Cpu::new(2, isa, precision).unwrap();
            let mut out = Matrix::new();
            cpu.norm_gate_up(&matrix(inputs, &x), None, &both, &mut out);
            let mut apart = Matrix::new();
            cpu.norm_linear(&matrix(inputs, &x), None, &both, &mut apart);
            for row in 0..9 {
                let (gate, up) = apart.row(row).split_at(outputs);
                for ((got, gate), up) in out.row(row).iter().zip(gate).zip(up) {
                    let gate = f64::from(*gate);
                    let wanted = gate / (1.0 + (-gate).exp()) * f64::from(*up);
                    assert!((f64::from(*got) - wanted).abs() <= 1e-5 * (wanted.abs() + 1e-3));
                }
            }
            results.push(out.to_vec());
        }
        assert!(results.iter().all(|result| result == &results[0]));
    }
}

#[test]
fn the_head_finds_the_most_likely() {
    let mut random = Random(3);
    let (inputs, vocab) = (64, 1003);
    let mut bytes = random.weights(Format::Q8_0, vocab * inputs);
    // Ties: three tokens with the weights of a fourth.
    let row_bytes = inputs / 32 * 34;
    for token in [17, 500, 1002] {
        bytes.copy_within(300 * row_bytes..301 * row_bytes, token * row_bytes);
    }
    let part = Part { format: Format::Q8_0, outputs: vocab, inputs, bytes: &bytes };
    let head = Linear::pack(&[part], None).unwrap();
    let x = matrix(inputs, &random.values(12 * inputs));
    let wanted = [(1, 0), (2, 1), (5, 40), (7, 0), (11, 7), (0, 2000)];
    let wanted = wanted.map(|(row, top)| HeadRow { row, top });
    for isa in isas() {
        for threads in 1..4 {
            let precision = Precision::ALL[threads % 2];
            let mut cpu = Cpu::new(threads, isa, precision).unwrap();
            let mut all = HeadOutput::default();
            let whole: Vec<HeadRow> = (0..12).map(|row| HeadRow { row, top: 0 }).collect();
            cpu.head(&x, None, &head, &whole, &mut all);
            let mut some = HeadOutput::default();
            cpu.head(&x, None, &head, &wanted, &mut some);
            assert_eq!(some.logits[..vocab], all.logits[vocab..2 * vocab]);
            assert_eq!(some.logits[vocab..], all.logits[7 * vocab..8 * vocab]);
            let mut candidates = &some.candidates[..];
            for wanted in wanted.iter().filter(|wanted| wanted.top > 0) {
                let row = &all.logits[wanted.row * vocab..][..vocab];
                let mut ranked: Vec<(u32, f32)> = (0..).zip(row.iter().copied()).collect();
                ranked.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
                let top = wanted.top.min(vocab);
                let (row, rest) = candidates.split_at(top);
                assert_eq!(row, &ranked[..top], "{isa} {threads}");
                candidates = rest;
            }
            assert!(candidates.is_empty());
        }
    }
}

struct Case {
    heads: usize,
    shape: KvShape,
    window: Option<usize>,
    norms: Option<[Vec<f32>; 2]>,
}

/// The attention of one sequence in double precision over f16 keys and values.
fn reference(case: &Case, qkv: &[f32], frequencies: &[f64]) -> Vec<f64> {
    let KvShape { kv_heads, head_dim, .. } = case.shape;
    let width = (case.heads + 2 * kv_heads) * head_dim;
    let rotate = |head: &[f32], position: usize, norm: usize| -> Vec<f64> {
        let head = match &case.norms {
            Some(norms) => normed(head, &norms[norm], 1e-6),
            None => head.to_vec(),
        };
        let half = head_dim / 2;
        (0..head_dim)
            .map(|element| {
                let angle = position as f64 * frequencies[element % half];
                let (a, b) =
                    (f64::from(head[element % half]), f64::from(head[element % half + half]));
                if element < half {
                    a * angle.cos() - b * angle.sin()
                } else {
                    b * angle.cos() + a * angle.sin()
                }
            })
            .collect()
    };
    let stored = |value: f64| f16::from_f32(value as f32).to_f64();
    let (mut keys, mut values, mut out) = (Vec::new(), Vec::new(), Vec::new());
    for (position, row) in qkv.chunks(width).enumerate() {
        let heads: Vec<&[f32]> = row.chunks(head_dim).collect();
        let (key_heads, value_heads) = heads[case.heads..].split_at(kv_heads);
        keys.push(
            key_heads
                .iter()
                .map(|head| rotate(head, position, 1).into_iter().map(stored).collect::<Vec<_>>())
                .collect::<Vec<_>>(),
        );
        values.push(
            value_heads
                .iter()
                .map(|head| head.iter().map(|&v| stored(f64::from(v))).collect::<Vec<_>>())
                .collect::<Vec<_>>(),
        );
        let from = case.window.map_or(0, |window| (position + 1).saturating_sub(window));
        for head in 0..case.heads {
            let shared = head * kv_heads / case.heads;
            let query = rotate(heads[head], position, 0);
            let weights: Vec<f64> = (from..=position)
                .map(|token| {
                    let dot: f64 = query.iter().zip(&keys[token][shared]).map(|(q, k)| q * k).sum();
                    (dot / (head_dim as f64).sqrt()).exp()
                })
                .collect();
            let total: f64 = weights.iter().sum();
            out.extend((0..head_dim).map(|element| {
                (from..)
                    .zip(&weights)
                    .map(|(token, w)| w / total * values[token][shared][element])
                    .sum::<f64>()
            }));
        }
    }
    out
}

#[test]
fn attention_is_exact_in_chunks_and_company() {
    let mut random = Random(4);
    let cases = [
        (9, 3, 64, 150, None),
        (4, 4, 8, 70, None),
        (4, 1, 80, 200, Some(37)),
        (2, 1, 128, 90, Some(64)),
        (6, 2, 34, 40, None),
    ];
    for (index, (heads, kv_heads, head_dim, tokens, window)) in cases.into_iter().enumerate() {
        let shape = KvShape { layers: 2, kv_heads, head_dim, pages: 40 };
        let norms = (index % 2 == 1).then(|| [random.values(head_dim), random.values(head_dim)]);
        let case = Case { heads, shape, window, norms };
        let width = (heads + 2 * kv_heads) * head_dim;
        let qkv: Vec<f32> = random.values(tokens * width).iter().map(|x| 2.0 * x).collect();
        let frequencies: Vec<f64> = (0..head_dim / 2)
            .map(|pair| 10_000f64.powf(-2.0 * pair as f64 / head_dim as f64))
            .collect();
        let vectors =
            case.norms.as_ref().map(|norms| norms.each_ref().map(|norm| Vector::new(norm)));
        let head_norms = vectors
            .as_ref()
            .map(|vectors| vectors.each_ref().map(|weight| RmsNorm { weight, eps: 1e-6 }));
        let scale = 1.0 / (head_dim as f32).sqrt();
        let attention = Attention { layer: 1, heads, scale, head_norms, window };
        let pages: Vec<u32> = (0..tokens.div_ceil(16) as u32).map(|page| 39 - 2 * page).collect();

        let mut results: Vec<(Isa, Vec<f32>, Vec<u8>)> = Vec::new();
        for isa in isas() {
            for threads in [1, 2] {
                let mut cpu = Cpu::new(threads, isa, Precision::Int8).unwrap();
                let mut kv = Kv::new(shape);
                let mut out = Vec::new();
                let mut done = 0;
                let mut chunks = Random(results.len() as u64);
                while done < tokens {
                    // Whole at first, then in chunks beside a stranger.
                    let count = if results.is_empty() {
                        tokens
                    } else {
                        (1 + chunks.below(50)).min(tokens - done)
                    };
                    let strangers = if results.is_empty() { 0 } else { chunks.below(4) };
                    let mut rows = qkv[done * width..(done + count) * width].to_vec();
                    rows.extend(qkv[..strangers * width].iter().map(|x| x * 0.7));
                    let mut positions: Vec<u32> = (done as u32..(done + count) as u32).collect();
                    positions.extend(0..strangers as u32);
                    let used = (done + count).div_ceil(16);
                    let mut all_pages = pages[..used].to_vec();
                    all_pages.push(0);
                    let mut spans =
                        vec![Span { first_row: 0, rows: count, position: done, first_page: 0 }];
                    if strangers > 0 {
                        let stranger = Span {
                            first_row: count,
                            rows: strangers,
                            position: 0,
                            first_page: used,
                        };
                        spans.push(stranger);
                    }
                    cpu.begin(&positions, &frequencies, spans, &all_pages);
                    let mut step = Matrix::new();
                    cpu.attend(&matrix(width, &rows), &attention, &mut kv, &mut step);
                    out.extend((0..count).flat_map(|row| step.row(row).to_vec()));
                    done += count;
                }
                let mut block = vec![0; shape.block_bytes()];
                kv.export(pages[0] as usize, &mut block);
                let mut copy = Kv::new(shape);
                copy.import(7, &block);
                let mut again = vec![0; shape.block_bytes()];
                copy.export(7, &mut again);
                assert_eq!(again, block);
                results.push((isa, out, block));
            }
        }
        for (isa, out, block) in &results[1..] {
            assert_eq!(out, &results[0].1, "{isa} case {index}");
            assert_eq!(block, &results[0].2, "{isa} case {index}");
        }
        let wanted = reference(&case, &qkv, &frequencies);
        for (got, wanted) in results[0].1.iter().zip(&wanted) {
            assert!((f64::from(*got) - wanted).abs() < 2e-3, "case {index}: {got}, not {wanted}");
        }
    }
}

#[test]
#[should_panic(expected = "every written page belongs to one sequence")]
fn two_sequences_cannot_write_one_page() {
    let mut cpu = Cpu::new(1, Isa::Portable, Precision::Int8).unwrap();
    let span = |first_row, position| Span { first_row, rows: 1, position, first_page: first_row };
    cpu.begin(&[3, 5], &[1.0], [span(0, 3), span(1, 5)], &[4, 4]);
}
