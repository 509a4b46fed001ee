//! Prints how fast linear layers multiply: `linear_speed [threads] [isa] [precision]`.
#![allow(clippy::print_stdout, reason = "an example that reports to its user")]

use kernels::{Cpu, Format, Isa, Linear, Matrix, Part, Precision};
use std::error::Error;
use std::time::Instant;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let threads = arguments.next().map_or(Ok(1), |text| text.parse())?;
    let isa = arguments.next().map_or(Ok(Isa::best()), |text| text.parse())?;
    let precision = arguments.next().map_or(Ok(Precision::Int8), |text| text.parse())?;
    let mut cpu = Cpu::new(threads, isa, precision)?;
    println!("{isa}, {precision}, {threads} threads: Gop/s (GB/s of weights)");
    for format in
        [Format::Q4_0, Format::Q4_1, Format::Q8_0, Format::Q4_K, Format::Q6_K, Format::F32]
    {
        // As many matrices as 60 MB hold, so that they come from memory.
        let (outputs, inputs) = (1536, 768);
        let bytes = vec![0x11u8; outputs * inputs / format.block_values() * format.block_bytes()];
        let count = (60_000_000 / bytes.len()).max(1);
        let part = Part { format, outputs, inputs, bytes: &bytes };
        let weights: Vec<Linear> =
            (0..count).map(|_| Linear::pack(&[part], None)).collect::<Result<_, _>>()?;
        print!("{format:?}:");
        for rows in [1, 2, 4, 8, 16, 32, 128, 512] {
            let mut x = Matrix::new();
            x.write(inputs, &vec![0.5; rows * inputs]);
            let mut out = Matrix::new();
            let rounds = if rows < 64 { 2 } else { 1 };
            let started = Instant::now();
            for weight in weights.iter().cycle().take(count * rounds / (1 + rows / 64)) {
                cpu.norm_linear(&x, None, weight, &mut out);
            }
            let seconds =
                started.elapsed().as_secs_f64() / (count * rounds / (1 + rows / 64)) as f64;
            let operations = 2.0 * (rows * outputs * inputs) as f64;
            let read = weights[0].bytes() as f64;
            print!("  {rows}: {:.0} ({:.1})", operations / seconds / 1e9, read / seconds / 1e9);
        }
        println!();
    }
    Ok(())
}
