//! ggml's block formats, taken back to single precision.

use crate::dtype::DType;
use half::{bf16, f16};

/// Values of `bytes`, whole blocks of `dtype`.
pub(crate) fn to_f32(dtype: DType, bytes: &[u8]) -> Vec<f32> {
    let mut out = Vec::with_capacity(bytes.len() / dtype.block_bytes() * dtype.block_values());
    let decode: fn(&[u8], &mut Vec<f32>) = match dtype {
        DType::F32 => |b, out| out.push(f32::from_le_bytes([b[0], b[1], b[2], b[3]])),
        DType::F16 => |b, out| out.push(half_at(b, 0)),
        DType::BF16 => |b, out| out.push(bf16::from_le_bytes([b[0], b[1]]).to_f32()),
        DType::Q8_0 => q8_0,
        DType::Q4_0 => q4_0,
        DType::Q4_1 => q4_1,
        DType::Q4_K => q4_k,
        DType::Q6_K => q6_k,
    };
    for block in bytes.chunks_exact(dtype.block_bytes()) {
        decode(block, &mut out);
    }
    out
}

fn half_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

fn q8_0(block: &[u8], out: &mut Vec<f32>) {
    let scale = half_at(block, 0);
    out.extend(block[2..34].iter().map(|&q| scale * f32::from(q as i8)));
}

fn q4_0(block: &[u8], out: &mut Vec<f32>) {
    let scale = half_at(block, 0);
    let value = |nibble: u8| scale * (f32::from(nibble) - 8.0);
    out.extend(block[2..18].iter().map(|&b| value(b & 15)));
    out.extend(block[2..18].iter().map(|&b| value(b >> 4)));
}

fn q4_1(block: &[u8], out: &mut Vec<f32>) {
    let (scale, minimum) = (half_at(block, 0), half_at(block, 2));
    let value = |nibble: u8| scale * f32::from(nibble) + minimum;
    out.extend(block[4..20].iter().map(|&b| value(b & 15)));
    out.extend(block[4..20].iter().map(|&b| value(b >> 4)));
}

/// Returns scale and minimum of sub-block `index` from the 12 packed bytes of a `Q4_K` block: 6 bits each,
/// the upper two bits of the last four sub-blocks kept in the first eight bytes.
fn q4_k_scale(packed: &[u8], index: usize) -> (f32, f32) {
    let (scale, minimum) = if index < 4 {
        (packed[index] & 63, packed[index + 4] & 63)
    } else {
        let low = packed[index + 4];
        ((low & 15) | (packed[index - 4] >> 6 << 4), (low >> 4) | (packed[index] >> 6 << 4))
    };
    (f32::from(scale), f32::from(minimum))
}

fn q4_k(block: &[u8], out: &mut Vec<f32>) {
    let (d, d_minimum) = (half_at(block, 0), half_at(block, 2));
    let (packed, nibbles) = (&block[4..16], &block[16..144]);
    for (pair, quants) in nibbles.chunks_exact(32).enumerate() {
        let (scale, minimum) = q4_k_scale(packed, 2 * pair);
        out.extend(quants.iter().map(|&q| d * scale * f32::from(q & 15) - d_minimum * minimum));
        let (scale, minimum) = q4_k_scale(packed, 2 * pair + 1);
        out.extend(quants.iter().map(|&q| d * scale * f32::from(q >> 4) - d_minimum * minimum));
    }
}

fn q6_k(block: &[u8], out: &mut Vec<f32>) {
    let d = half_at(block, 208);
    for half in 0..2 {
        let low = &block[half * 64..][..64];
        let high = &block[128 + half * 32..][..32];
        let scales = &block[192 + half * 8..][..8];
        for quarter in 0..4 {
            for lane in 0..32 {
                let nibble = low[(quarter % 2) * 32 + lane] >> (4 * (quarter / 2)) & 15;
                let top = high[lane] >> (2 * quarter) & 3;
                let quant = i32::from(nibble | top << 4) - 32;
                let scale = scales[quarter * 2 + lane / 16] as i8;
                out.push(d * f32::from(scale) * quant as f32);
            }
        }
    }
}
