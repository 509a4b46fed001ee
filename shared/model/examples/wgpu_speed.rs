//! Compares the graphics kernels with stock operations on one adapter, step by step in turn:
//! `wgpu_speed MODEL [batch,batch…] [rounds] [context]`; and says what a step must move and compute.
#![allow(clippy::print_stdout, reason = "an example that reports to its user")]

use model::ops::wgpu::cost::{self, WeightBytes, Work};
use model::{
    ActivationsChoice, BatchSequence, DeviceChoice, IsaChoice, Model, ModelLimits, StepOutput,
    Wanted,
};
use modelfile::{ModelFile, ModelFileError};
use std::error::Error;
use std::path::Path;
use std::time::{Duration, Instant};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().ok_or("usage: wgpu_speed MODEL [batches] [rounds] [context]")?;
    let batches = arguments.next().unwrap_or_else(|| "1,16".into());
    let batches: Vec<usize> = batches.split(',').map(str::parse).collect::<Result<_, _>>()?;
    let rounds: usize = arguments.next().map_or(Ok(3), |rounds| rounds.parse())?;
    let context: usize = arguments.next().map_or(Ok(256), |context| context.parse())?;
    let file = ModelFile::open(Path::new(&path))?;
    let most = batches.iter().copied().max().unwrap_or(1);
    let limits = ModelLimits {
        kv_pages: most * context.div_ceil(16),
        threads: 2,
        isa: IsaChoice::Auto,
        activations: ActivationsChoice::Auto,
    };
    let load = |device: DeviceChoice| Model::load(&file, &device, &limits, &mut |_| {});
    let mut ours = load(DeviceChoice::Wgpu(None))?;
    let mut stock = load(DeviceChoice::ReferenceWgpu(None))?;
    println!("{} on {}, context {context}", file.name(), ours.device().name);
    let weights = weight_bytes(&file)?;
    for batch in batches {
        // The first steps compile the kernels.
        for model in [&mut ours, &mut stock] {
            decode(model, batch, context)?;
        }
        let mut took = [Vec::new(), Vec::new()];
        for _ in 0..rounds {
            for (model, took) in [&mut ours, &mut stock].into_iter().zip(&mut took) {
                took.push(decode(model, batch, context)?);
            }
        }
        let [ours, stock] = took.map(median);
        println!(
            "decode {batch:>3}: ours {:.1} ms, stock {:.1} ms, {:.2} times as fast",
            ours.as_secs_f64() * 1e3,
            stock.as_secs_f64() * 1e3,
            stock.as_secs_f64() / ours.as_secs_f64()
        );
        let work = Work { rows: batch, sequences: batch, context, head_rows: batch };
        print_cost(&file, work, weights, ours);
    }
    Ok(())
}

/// One greedy step of `batch` sequences; what is in their pages does not matter.
fn decode(model: &mut Model, batch: usize, context: usize) -> Result<Duration, Box<dyn Error>> {
    let each = context.div_ceil(16) as u32;
    let tables: Vec<Vec<u32>> =
        (0..batch as u32).map(|index| (index * each..(index + 1) * each).collect()).collect();
    let sequences: Vec<BatchSequence> = tables
        .iter()
        .map(|pages| BatchSequence {
            tokens: &[11],
            position: context - 1,
            pages,
            logits: Wanted::Top(1),
        })
        .collect();
    let started = Instant::now();
    model.forward(&sequences, &mut StepOutput::default())?;
    Ok(started.elapsed())
}

fn median(mut took: Vec<Duration>) -> Duration {
    took.sort();
    took[took.len() / 2]
}

fn weight_bytes(file: &ModelFile) -> Result<WeightBytes, ModelFileError> {
    let spec = file.spec();
    let each = |name: &str| {
        let (dtype, _) = file.layout(name)?;
        Ok::<f64, ModelFileError>(dtype.block_bytes() as f64 / dtype.block_values() as f64)
    };
    let head = if spec.tied_embeddings { "token_embd.weight" } else { "output.weight" };
    Ok(WeightBytes {
        layers: each("blk.0.ffn_down.weight")?,
        head: each(head)?,
        embedding: each("token_embd.weight")?,
    })
}

fn print_cost(file: &ModelFile, work: Work, weights: WeightBytes, took: Duration) {
    let kernels = cost::step(file.spec(), work, weights);
    for kernel in &kernels {
        println!(
            "  {:<16} {:>4} launches {:>9.3} MB {:>9.3} Mop",
            kernel.kernel,
            kernel.launches,
            kernel.bytes / 1e6,
            kernel.operations / 1e6
        );
    }
    let (bytes, operations) = cost::total(&kernels);
    println!(
        "  all {:.1} MB and {:.1} Mop: {:.2} GB/s and {:.2} Gop/s",
        bytes / 1e6,
        operations / 1e6,
        bytes / 1e9 / took.as_secs_f64(),
        operations / 1e9 / took.as_secs_f64()
    );
}
