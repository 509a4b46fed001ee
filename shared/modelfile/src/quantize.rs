//! Rounds single precision into ggml's block formats: what tests and tools need to write them.

use std::ops::RangeInclusive;

use crate::dtype::DType;
use half::{bf16, f16};

/// Encodes `values`, whole blocks of `dtype`, in that format. The nearest levels between the extremes of
/// each block: sound, without the searches by which ggml's own tool does a little better.
pub(crate) fn quantize(dtype: DType, values: &[f32]) -> Vec<u8> {
    let encode: fn(&[f32], &mut Vec<u8>) = match dtype {
        DType::F32 => |v, out| out.extend(v[0].to_le_bytes()),
        DType::F16 => |v, out| out.extend(f16::from_f32(v[0]).to_le_bytes()),
        DType::BF16 => |v, out| out.extend(bf16::from_f32(v[0]).to_le_bytes()),
        DType::Q8_0 => q8_0,
        DType::Q4_0 => q4_0,
        DType::Q4_1 => q4_1,
        DType::Q4_K => q4_k,
        DType::Q6_K => q6_k,
    };
    let mut out = Vec::with_capacity(values.len() / dtype.block_values() * dtype.block_bytes());
    for block in values.chunks_exact(dtype.block_values()) {
        encode(block, &mut out);
    }
    out
}

/// Puts `scale` as a half and gives the value that a reader will see.
fn put_half(out: &mut Vec<u8>, scale: f32) -> f32 {
    let half = f16::from_f32(scale);
    out.extend(half.to_le_bytes());
    half.to_f32()
}

/// Returns the step closest to `value / scale` within `range`; where there is no scale, the step of zero.
fn step(value: f32, scale: f32, range: RangeInclusive<i32>) -> i32 {
    let steps = if scale == 0.0 { 0.0 } else { value / scale };
    (steps.round() as i32).clamp(*range.start(), *range.end())
}

/// Returns the value farthest from zero, with its sign.
fn farthest(values: &[f32]) -> f32 {
    values.iter().fold(0.0f32, |most, &v| if v.abs() > most.abs() { v } else { most })
}

/// Returns the smallest value, at most zero, and the largest.
fn extremes(values: &[f32]) -> (f32, f32) {
    values.iter().fold((0.0, f32::MIN), |(low, high), &v| (v.min(low), v.max(high)))
}

fn q8_0(values: &[f32], out: &mut Vec<u8>) {
    let scale = put_half(out, farthest(values).abs() / 127.0);
    out.extend(values.iter().map(|&v| step(v, scale, -128..=127) as i8 as u8));
}

fn q4_0(values: &[f32], out: &mut Vec<u8>) {
    // The sixteen levels run from -8 to 7: the value farthest from zero gets the odd one out.
    let scale = put_half(out, farthest(values) / -8.0);
    let level = |v: f32| (step(v, scale, -8..=7) + 8) as u8;
    out.extend((0..16).map(|i| level(values[i]) | level(values[i + 16]) << 4));
}

fn q4_1(values: &[f32], out: &mut Vec<u8>) {
    let low = values.iter().copied().fold(f32::MAX, f32::min);
    let high = values.iter().copied().fold(f32::MIN, f32::max);
    let scale = put_half(out, (high - low) / 15.0);
    let minimum = put_half(out, low);
    let level = |v: f32| step(v - minimum, scale, 0..=15) as u8;
    out.extend((0..16).map(|i| level(values[i]) | level(values[i + 16]) << 4));
}

fn q4_k(values: &[f32], out: &mut Vec<u8>) {
    let ranges: Vec<(f32, f32)> = values.chunks_exact(32).map(extremes).collect();
    let widest = ranges.iter().map(|(low, high)| (high - low) / 15.0).fold(0.0, f32::max);
    let deepest = ranges.iter().map(|(low, _)| -low).fold(0.0, f32::max);
    let d = put_half(out, widest / 63.0);
    let d_minimum = put_half(out, deepest / 63.0);
    let six_bits: Vec<(u8, u8)> = ranges
        .iter()
        .map(|(low, high)| {
            let scale = step((high - low) / 15.0, d, 0..=63);
            (scale as u8, step(-low, d_minimum, 0..=63) as u8)
        })
        .collect();
    let mut packed = [0u8; 12];
    for (index, &(scale, minimum)) in six_bits.iter().enumerate() {
        if index < 4 {
            packed[index] |= scale;
            packed[index + 4] |= minimum;
        } else {
            packed[index + 4] = (scale & 15) | (minimum & 15) << 4;
            packed[index - 4] |= scale >> 4 << 6;
            packed[index] |= minimum >> 4 << 6;
        }
    }
    out.extend(packed);
    let level = |sub: usize, lane: usize| {
        let (scale, minimum) = six_bits[sub];
        let shifted = values[sub * 32 + lane] + d_minimum * f32::from(minimum);
        step(shifted, d * f32::from(scale), 0..=15) as u8
    };
    for pair in 0..4 {
        out.extend((0..32).map(|lane| level(2 * pair, lane) | level(2 * pair + 1, lane) << 4));
    }
}

fn q6_k(values: &[f32], out: &mut Vec<u8>) {
    let wanted: Vec<f32> = values.chunks_exact(16).map(|v| farthest(v) / -32.0).collect();
    let d = f16::from_f32(farthest(&wanted) / -128.0);
    let scales: Vec<i8> =
        wanted.iter().map(|&scale| step(scale, d.to_f32(), -128..=127) as i8).collect();
    let level = |index: usize| {
        let scale = d.to_f32() * f32::from(scales[index / 16]);
        (step(values[index], scale, -32..=31) + 32) as u8
    };
    let (mut low, mut high) = ([0u8; 128], [0u8; 64]);
    for index in 0..256 {
        let (half, within) = (index / 128, index % 128);
        let (quarter, lane) = (within / 32, within % 32);
        let level = level(index);
        low[half * 64 + (quarter % 2) * 32 + lane] |= (level & 15) << (4 * (quarter / 2));
        high[half * 32 + lane] |= (level >> 4) << (2 * quarter);
    }
    out.extend(low);
    out.extend(high);
    out.extend(scales.iter().map(|&scale| scale as u8));
    out.extend(d.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::to_f32;

    /// Draws values within `-1..1`, the same every time.
    fn some_values(count: usize) -> Vec<f32> {
        let mut state = 7u32;
        (0..count)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 8) as f32 / (1 << 23) as f32 - 1.0
            })
            .collect()
    }

    #[test]
    fn what_was_rounded_is_read_back_within_half_a_step() {
        let values = some_values(1024);
        // Half a step of a range of 2, and what rounding the scales to 6 or 8 bits adds.
        let formats = [
            (DType::F32, 0.0),
            (DType::F16, 5e-4),
            (DType::BF16, 4e-3),
            (DType::Q8_0, 4.5e-3),
            (DType::Q4_0, 0.13),
            (DType::Q4_1, 0.07),
            (DType::Q4_K, 0.09),
            (DType::Q6_K, 0.035),
        ];
        for (dtype, tolerance) in formats {
            let bytes = quantize(dtype, &values);
            assert_eq!(Some(bytes.len() as u64), dtype.tensor_bytes(&[4, 256]), "{dtype:?}");
            let back = to_f32(dtype, &bytes);
            let off = values.iter().zip(&back).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(off <= tolerance, "{dtype:?}: off by {off}");
            // A value that is on a level stays there, up to the rounding of the scales.
            let again = to_f32(dtype, &quantize(dtype, &back));
            let moved = again.iter().zip(&back).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(moved <= tolerance, "{dtype:?}: moved by {moved}");
        }
    }

    #[test]
    fn zeros_stay_zeros() {
        for dtype in [DType::Q8_0, DType::Q4_0, DType::Q4_1, DType::Q4_K, DType::Q6_K] {
            let values = to_f32(dtype, &quantize(dtype, &[0.0; 256]));
            assert!(values.iter().all(|&value| value == 0.0), "{dtype:?}");
        }
    }
}
