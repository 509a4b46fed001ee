//! Prints how fast a model computes: `speed MODEL [device] [threads] [isa] [precision]`.
#![allow(clippy::print_stdout, reason = "an example that reports to its user")]

use model::{
    ActivationsChoice, BatchSequence, DeviceChoice, IsaChoice, Model, ModelLimits, StepOutput,
    Wanted,
};
use modelfile::ModelFile;
use std::error::Error;
use std::path::Path;
use std::time::{Duration, Instant};

const CONTEXT: usize = 256;
const STEPS: usize = 16;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().ok_or("usage: speed MODEL [device] [threads] [isa] [precision]")?;
    let device: DeviceChoice = arguments.next().unwrap_or_else(|| "auto".into()).parse()?;
    let threads = arguments.next().map_or(Ok(2), |threads| threads.parse())?;
    let isa: IsaChoice = arguments.next().unwrap_or_else(|| "auto".into()).parse()?;
    let activations: ActivationsChoice =
        arguments.next().unwrap_or_else(|| "auto".into()).parse()?;
    let file = ModelFile::open(Path::new(&path))?;
    let started = Instant::now();
    let limits = ModelLimits { kv_pages: 16 * (CONTEXT / 16 + 2), threads, isa, activations };
    let mut model = Model::load(&file, &device, &limits, &mut |_| {})?;
    let name = &model.device().name;
    println!("{} on {name}, {threads} threads, loaded in {:.1?}", file.name(), started.elapsed());
    for length in [128, 512] {
        if length / 16 <= limits.kv_pages {
            prefill(&mut model, length)?;
            println!(
                "prefill {length:>4}  {:>8.1} tok/s",
                rate(length, prefill(&mut model, length)?)
            );
        }
    }
    for batch in [1, 8, 16] {
        decode(&mut model, batch, 2)?;
        let took = decode(&mut model, batch, STEPS)?;
        println!("decode  {batch:>4}  {:>8.1} tok/s", rate(batch * STEPS, took));
    }
    Ok(())
}

fn rate(tokens: usize, took: Duration) -> f64 {
    tokens as f64 / took.as_secs_f64()
}

fn prefill(model: &mut Model, length: usize) -> Result<Duration, Box<dyn Error>> {
    let tokens: Vec<u32> = (0..length as u32).map(|token| token * 7 % 1000).collect();
    let pages: Vec<u32> = (0..length.div_ceil(16) as u32).collect();
    let started = Instant::now();
    let sequence =
        BatchSequence { tokens: &tokens, position: 0, pages: &pages, logits: Wanted::Last };
    model.forward(&[sequence], &mut StepOutput::default())?;
    Ok(started.elapsed())
}

/// Steps of `batch` sequences at a context of about 256; what is in their pages does not matter.
fn decode(model: &mut Model, batch: usize, steps: usize) -> Result<Duration, Box<dyn Error>> {
    let pages_each = (CONTEXT / 16 + 1) as u32;
    let tables: Vec<Vec<u32>> = (0..batch as u32)
        .map(|index| (index * pages_each..(index + 1) * pages_each).collect())
        .collect();
    let started = Instant::now();
    for step in 0..steps {
        let sequences: Vec<BatchSequence> = tables
            .iter()
            .map(|pages| BatchSequence {
                tokens: &[11],
                position: CONTEXT - steps + step,
                pages,
                logits: Wanted::Last,
            })
            .collect();
        model.forward(&sequences, &mut StepOutput::default())?;
    }
    Ok(started.elapsed())
}
