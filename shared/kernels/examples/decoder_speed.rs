//! Prints the speed of the kernels for a decoder of SmolLM2-135M's shape, with random weights:
//! `decoder_speed [threads] [isa] [format]`. The precisions take turns, and their ratio is the median
//! of the ratios within a turn, so that a busy machine slows both sides down. One thread is timed by
//! the processor time that it got.
#![allow(clippy::print_stdout, reason = "an example that reports to its user")]

use kernels::{
    Attention, Cpu, Format, HeadOutput, HeadRow, Isa, Kv, KvShape, Linear, Matrix, Part, Precision,
    RmsNorm, Span, Vector,
};
use std::error::Error;
use std::time::Instant;

const LAYERS: usize = 30;
const HIDDEN: usize = 576;
const HEADS: usize = 9;
const KV_HEADS: usize = 3;
const HEAD_DIM: usize = 64;
const FFN: usize = 1536;
const VOCAB: usize = 49152;
const CONTEXT: usize = 256;
/// Steps of a turn.
const STEPS: usize = 8;
/// Turns of each precision.
const TURNS: usize = 5;

struct Layer {
    qkv: Linear,
    output: Linear,
    gate_up: Linear,
    down: Linear,
}

struct Decoder {
    cpu: Cpu,
    norm: Vector,
    layers: Vec<Layer>,
    head: Linear,
    kv: Kv,
    frequencies: Vec<f64>,
    x: Matrix,
    qkv: Matrix,
    attended: Matrix,
    gated: Matrix,
    out: HeadOutput,
}

fn weight(format: Format, outputs: &[usize], inputs: usize) -> Result<Linear, Box<dyn Error>> {
    let mut state = 1u32;
    let matrices: Vec<Vec<u8>> = outputs
        .iter()
        .map(|outputs| {
            let blocks = outputs * inputs / format.block_values();
            let mut bytes = Vec::with_capacity(blocks * format.block_bytes());
            for _ in 0..blocks {
                let start = bytes.len();
                bytes.extend((0..format.block_bytes()).map(|_| {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    (state >> 24) as u8
                }));
                // Small scales wherever the format has them.
                let ends = [start, start + 2, start + format.block_bytes().saturating_sub(2)];
                for end in ends {
                    if let Some(scale) = bytes.get_mut(end..end + 2) {
                        scale.copy_from_slice(&[0x11, 0x11]);
                    }
                }
            }
            bytes
        })
        .collect();
    let parts: Vec<Part> = outputs
        .iter()
        .zip(&matrices)
        .map(|(&outputs, bytes)| Part { format, outputs, inputs, bytes })
        .collect();
    Ok(Linear::pack(&parts, None)?)
}

impl Layer {
    fn new(format: Format) -> Result<Self, Box<dyn Error>> {
        Ok(Self {
            qkv: weight(format, &[HIDDEN, KV_HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM], HIDDEN)?,
            output: weight(format, &[HIDDEN], HIDDEN)?,
            gate_up: weight(format, &[FFN, FFN], HIDDEN)?,
            down: weight(format, &[HIDDEN], FFN)?,
        })
    }
}

impl Decoder {
    fn new(cpu: Cpu, format: Format) -> Result<Self, Box<dyn Error>> {
        let shape =
            KvShape { layers: LAYERS, kv_heads: KV_HEADS, head_dim: HEAD_DIM, pages: 32 * 20 };
        Ok(Self {
            cpu,
            norm: Vector::new(&[1.0; HIDDEN]),
            layers: (0..LAYERS).map(|_| Layer::new(format)).collect::<Result<_, _>>()?,
            head: weight(Format::Q8_0, &[VOCAB], HIDDEN)?,
            kv: Kv::new(shape),
            frequencies: (0..HEAD_DIM / 2).map(|pair| 0.75f64.powi(pair as i32)).collect(),
            x: Matrix::new(),
            qkv: Matrix::new(),
            attended: Matrix::new(),
            gated: Matrix::new(),
            out: HeadOutput::default(),
        })
    }

    fn step(
        &mut self,
        tokens: &[u32],
        positions: &[u32],
        spans: &[Span],
        pages: &[u32],
        wanted: &[HeadRow],
    ) {
        let norm = Some(RmsNorm { weight: &self.norm, eps: 1e-5 });
        self.cpu.begin(positions, &self.frequencies, spans.iter().copied(), pages);
        self.cpu.embed(tokens, &self.head, &mut self.x);
        for (index, layer) in self.layers.iter().enumerate() {
            let attention = Attention {
                layer: index,
                heads: HEADS,
                scale: 0.125,
                head_norms: None,
                window: None,
            };
            self.cpu.norm_linear(&self.x, norm, &layer.qkv, &mut self.qkv);
            self.cpu.attend(&self.qkv, &attention, &mut self.kv, &mut self.attended);
            self.cpu.linear_residual(&self.attended, &layer.output, &mut self.x);
            self.cpu.norm_gate_up(&self.x, norm, &layer.gate_up, &mut self.gated);
            self.cpu.linear_residual(&self.gated, &layer.down, &mut self.x);
        }
        self.cpu.head(&self.x, norm, &self.head, wanted, &mut self.out);
    }

    /// Computes a prompt in chunks of 512.
    fn prefill(&mut self, length: usize) {
        let pages: Vec<u32> = (0..length.div_ceil(16) as u32).collect();
        for position in (0..length).step_by(512) {
            let rows = 512.min(length - position);
            let positions: Vec<u32> = (position as u32..(position + rows) as u32).collect();
            let span = Span { first_row: 0, rows, position, first_page: 0 };
            let pages = &pages[..(position + rows).div_ceil(16)];
            let wanted = [HeadRow { row: positions.len() - 1, top: 1 }];
            self.step(&vec![7; positions.len()], &positions, &[span], pages, &wanted);
        }
    }

    /// Makes [`STEPS`] steps of a batch at a context of 256.
    fn decode(&mut self, batch: usize) {
        let pages: Vec<u32> = (0..batch as u32 * 18).collect();
        let wanted: Vec<HeadRow> = (0..batch).map(|row| HeadRow { row, top: 1 }).collect();
        for step in 0..STEPS {
            let position = CONTEXT + step;
            let spans: Vec<Span> = (0..batch)
                .map(|row| Span { first_row: row, rows: 1, position, first_page: row * 18 })
                .collect();
            self.step(&vec![7; batch], &vec![position as u32; batch], &spans, &pages, &wanted);
        }
    }

    /// Returns the tokens per second of a case.
    fn measure(&mut self, case: Case) -> Result<f64, Box<dyn Error>> {
        let clock = Clock::start(self.cpu.threads())?;
        let tokens = match case {
            Case::Prefill(length) => {
                self.prefill(length);
                length
            }
            Case::Decode(batch) => {
                self.decode(batch);
                batch * STEPS
            }
        };
        Ok(tokens as f64 / clock.seconds()?)
    }
}

#[derive(Clone, Copy, Debug)]
enum Case {
    Prefill(usize),
    Decode(usize),
}

const CASES: [Case; 8] = [
    Case::Prefill(128),
    Case::Prefill(512),
    Case::Prefill(2048),
    Case::Decode(1),
    Case::Decode(4),
    Case::Decode(8),
    Case::Decode(16),
    Case::Decode(32),
];

/// Processor time of the main thread where it computes alone, else the time of day.
enum Clock {
    Processor(u64),
    Wall(Instant),
}

impl Clock {
    fn start(threads: usize) -> Result<Self, Box<dyn Error>> {
        if threads == 1 {
            Ok(Self::Processor(processor_ns()?))
        } else {
            Ok(Self::Wall(Instant::now()))
        }
    }

    fn seconds(self) -> Result<f64, Box<dyn Error>> {
        match self {
            Self::Processor(started) => Ok((processor_ns()? - started) as f64 / 1e9),
            Self::Wall(started) => Ok(started.elapsed().as_secs_f64()),
        }
    }
}

fn processor_ns() -> Result<u64, Box<dyn Error>> {
    let statistics = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    let running = statistics.split_whitespace().next().ok_or("schedstat is empty")?;
    Ok(running.parse()?)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let threads = arguments.next().map_or(Ok(1), |text| text.parse())?;
    let isa = arguments.next().map_or(Ok(Isa::best()), |text| text.parse())?;
    let format = match arguments.next().as_deref() {
        None | Some("q4_1") => Format::Q4_1,
        Some("q4_0") => Format::Q4_0,
        Some("q8_0") => Format::Q8_0,
        Some("q4_k") => Format::Q4_K,
        Some(other) => return Err(format!("format {other} is not q4_0, q4_1, q8_0 or q4_k").into()),
    };
    let mut int8 = Decoder::new(Cpu::new(threads, isa, Precision::Int8)?, format)?;
    let mut int16 = Decoder::new(Cpu::new(threads, isa, Precision::Int16)?, format)?;
    println!("{isa}, {threads} threads, {format:?}: tokens/s in int8 and int16, and their ratio");
    for case in CASES {
        let mut turns = Vec::with_capacity(TURNS);
        for _ in 0..TURNS {
            turns.push([int8.measure(case)?, int16.measure(case)?]);
        }
        let of = |figure: fn(&[f64; 2]) -> f64| median(turns.iter().map(figure).collect());
        let (int8, int16) = (of(|turn| turn[0]), of(|turn| turn[1]));
        println!("{case:?}: {int8:.0} {int16:.0} {:.2}", of(|turn| turn[1] / turn[0]));
    }
    Ok(())
}
