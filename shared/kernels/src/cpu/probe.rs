//! The limits of the machine, to which measured rates are compared.

use super::Cpu;
use crate::lanes::{Kernel, LANES, Lanes};
use std::hint::black_box;
use std::time::Instant;

/// Steps of the innermost probe loops.
const STEPS: usize = 200_000;
/// Bytes that are read through: far more than caches hold.
const STREAM_BYTES: usize = 256 << 20;
/// Independent sums, enough to hide the latency of any instruction.
const CHAINS: usize = 24;

/// Highest rates that were seen.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Peak {
    /// Multiplications and additions of 8-bit integers, per second.
    pub int8_operations: f64,
    /// Multiplications and additions in single precision, per second.
    pub f32_operations: f64,
    /// Bytes read from memory, per second.
    pub memory_bytes: f64,
}

impl Peak {
    /// The higher of each.
    pub fn max(self, other: Self) -> Self {
        Self {
            int8_operations: self.int8_operations.max(other.int8_operations),
            f32_operations: self.f32_operations.max(other.f32_operations),
            memory_bytes: self.memory_bytes.max(other.memory_bytes),
        }
    }
}

impl Cpu {
    /// Measures this machine with the threads and instructions in use; takes a quarter of a second.
    pub fn probe(&mut self) -> Peak {
        let isa = self.isa;
        let threads = self.threads();
        let operations = (threads * STEPS * CHAINS * LANES * 2) as f64;
        let int8 = self.seconds(&|_, _| isa.run(Int8Loop));
        let f32 = self.seconds(&|_, _| isa.run(F32Loop));
        let memory = vec![1u64; STREAM_BYTES / 8];
        let part = memory.len() / threads;
        let stream = self.seconds(&|chunk, _| {
            let part = &memory[chunk * part..][..part];
            let sums = part.chunks_exact(64).fold([0u64; 64], |mut sums, line| {
                sums.iter_mut().zip(line).for_each(|(sum, value)| *sum = sum.wrapping_add(*value));
                sums
            });
            black_box(sums);
        });
        Peak {
            int8_operations: 4.0 * operations / int8,
            f32_operations: operations / f32,
            memory_bytes: STREAM_BYTES as f64 / stream,
        }
    }

    /// The shortest of a few runs of one chunk per thread.
    fn seconds<T: Fn(usize, usize) + Sync>(&mut self, task: &T) -> f64 {
        let threads = self.threads();
        let mut best = f64::MAX;
        for _ in 0..5 {
            let started = Instant::now();
            self.pool.run(threads, task);
            best = best.min(started.elapsed().as_secs_f64());
        }
        best
    }
}

struct Int8Loop;

impl Kernel for Int8Loop {
    type Output = ();

    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let bytes = [3u8; 64];
        // SAFETY: the instructions are promised by the caller; 64 bytes are there.
        unsafe {
            let bytes = L::load_b(bytes.as_ptr());
            let mut sums = [L::splat_i(0); CHAINS];
            for step in 0..STEPS {
                for sum in &mut sums {
                    *sum = L::dot(*sum, bytes, step as i32);
                }
            }
            black_box(sums.map(|sum| L::sum_i(sum)));
        }
    }
}

struct F32Loop;

impl Kernel for F32Loop {
    type Output = ();

    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        // SAFETY: the instructions are promised by the caller.
        unsafe {
            let factor = L::splat(black_box(0.999));
            let mut sums = [L::splat(1.0); CHAINS];
            for _ in 0..STEPS {
                for sum in &mut sums {
                    *sum = L::fma(*sum, factor, factor);
                }
            }
            let mut total = sums[0];
            for sum in sums {
                total = L::add(total, sum);
            }
            black_box(L::sum(total));
        }
    }
}
