//! Storage formats of weights, and how sixteen rows of them become a panel.
//!
//! In a panel the sixteen rows are the lanes: a vector holds, for each row, four consecutive bytes
//! (quantized) or one value (float). Scales stand in front of the values that they scale. A panel is as long as
//! the rows were (4-bit K blocks: 2.8 % longer), and the numbers in it are the file's own.

use half::{bf16, f16};

/// Rows in a panel.
pub const PANEL_ROWS: usize = 16;
/// Values that share a scale of the activations.
pub(crate) const BLOCK: usize = 32;

/// The storage of a weight's values; the quantized ones are ggml's blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(non_camel_case_types, reason = "the names by which these formats are known")]
pub enum Format {
    /// Single precision.
    F32,
    /// Half precision.
    F16,
    /// The upper half of a single.
    BF16,
    /// 32 values: half scale, 4-bit integers around 8.
    Q4_0,
    /// 32 values: half scale, half minimum, 4-bit integers.
    Q4_1,
    /// 32 values: half scale, 8-bit integers.
    Q8_0,
    /// 256 values: 8 sub-blocks with 6-bit scales and minima, 4-bit integers.
    Q4_K,
    /// 256 values: 16 sub-blocks with 8-bit scales, 6-bit integers.
    Q6_K,
}

impl Format {
    /// Returns the values in one block of a row.
    pub const fn block_values(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::BF16 => 1,
            Self::Q4_0 | Self::Q4_1 | Self::Q8_0 => 32,
            Self::Q4_K | Self::Q6_K => 256,
        }
    }

    /// Returns the bytes of one block of a row.
    pub const fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::Q4_0 => 18,
            Self::Q4_1 => 20,
            Self::Q8_0 => 34,
            Self::Q4_K => 144,
            Self::Q6_K => 210,
        }
    }

    /// Returns the bytes of sixteen rows of one block in a panel.
    pub(crate) const fn panel_bytes(self) -> usize {
        match self {
            Self::Q4_K => K4_HEAD + 8 * K4_BLOCK,
            other => PANEL_ROWS * other.block_bytes(),
        }
    }

    /// Returns true if it is multiplied with activations as integers.
    pub(crate) const fn is_quantized(self) -> bool {
        !matches!(self, Self::F32 | Self::F16 | Self::BF16)
    }
}

/// Scales and minima in front of a `Q4_K` panel block, and one of its eight parts.
pub(crate) const K4_HEAD: usize = 64;
pub(crate) const K4_BLOCK: usize = 32 + 256;
/// Scales in front of a `Q6_K` panel block, and one of its eight parts.
pub(crate) const K6_HEAD: usize = 32;
pub(crate) const K6_BLOCK: usize = 32 + 256 + 128;

/// Puts one block of one row into its lane of a panel block.
pub(crate) fn pack_block(format: Format, block: &[u8], lane: usize, panel: &mut [u8]) {
    match format {
        Format::F32 => panel[4 * lane..][..4].copy_from_slice(block),
        Format::F16 | Format::BF16 => panel[2 * lane..][..2].copy_from_slice(block),
        Format::Q4_0 => {
            panel[2 * lane..][..2].copy_from_slice(&block[..2]);
            spread(&block[2..18], lane, &mut panel[32..]);
        }
        Format::Q4_1 => {
            panel[2 * lane..][..2].copy_from_slice(&block[..2]);
            panel[32 + 2 * lane..][..2].copy_from_slice(&block[2..4]);
            spread(&block[4..20], lane, &mut panel[64..]);
        }
        Format::Q8_0 => {
            panel[2 * lane..][..2].copy_from_slice(&block[..2]);
            // Unsigned, around 128.
            let unsigned: [u8; 32] = std::array::from_fn(|at| block[2 + at] ^ 0x80);
            spread(&unsigned, lane, &mut panel[32..]);
        }
        Format::Q4_K => pack_q4_k(block, lane, panel),
        Format::Q6_K => pack_q6_k(block, lane, panel),
    }
}

/// Writes every four bytes into the lane of the next vector.
fn spread(bytes: &[u8], lane: usize, vectors: &mut [u8]) {
    for (vector, four) in vectors.chunks_exact_mut(4 * PANEL_ROWS).zip(bytes.chunks_exact(4)) {
        vector[4 * lane..][..4].copy_from_slice(four);
    }
}

/// Returns scale and minimum of sub-block `index` from the 12 packed bytes of a `Q4_K` block: 6 bits each,
/// the upper two bits of the last four sub-blocks kept in the first eight bytes.
fn q4_k_scale(packed: &[u8], index: usize) -> (u8, u8) {
    if index < 4 {
        return (packed[index] & 63, packed[index + 4] & 63);
    }
    let low = packed[index + 4];
    ((low & 15) | (packed[index - 4] >> 6 << 4), (low >> 4) | (packed[index] >> 6 << 4))
}

fn pack_q4_k(block: &[u8], lane: usize, panel: &mut [u8]) {
    panel[2 * lane..][..2].copy_from_slice(&block[..2]);
    panel[32 + 2 * lane..][..2].copy_from_slice(&block[2..4]);
    for part in 0..8 {
        let out = &mut panel[K4_HEAD + part * K4_BLOCK..][..K4_BLOCK];
        (out[lane], out[16 + lane]) = q4_k_scale(&block[4..16], part);
        let quants = &block[16 + part / 2 * 32..][..32];
        let quant = |at: usize| quants[at] >> (4 * (part % 2)) & 15;
        let bytes: [u8; 16] = std::array::from_fn(|at| quant(at) | quant(at + 16) << 4);
        spread(&bytes, lane, &mut out[32..]);
    }
}

fn pack_q6_k(block: &[u8], lane: usize, panel: &mut [u8]) {
    panel[2 * lane..][..2].copy_from_slice(&block[208..210]);
    for part in 0..8 {
        let out = &mut panel[K6_HEAD + part * K6_BLOCK..][..K6_BLOCK];
        (out[lane], out[16 + lane]) = (block[192 + 2 * part], block[193 + 2 * part]);
        let (half, quarter) = (part / 4, part % 4);
        let quant = |at: usize| {
            let low = block[half * 64 + quarter % 2 * 32 + at] >> (4 * (quarter / 2)) & 15;
            let high = block[128 + half * 32 + at] >> (2 * quarter) & 3;
            (low, high)
        };
        let low: [u8; 16] = std::array::from_fn(|at| quant(at).0 | quant(at + 16).0 << 4);
        spread(&low, lane, &mut out[32..288]);
        // Byte `4 v + i` holds values `16 v + 4 f + i` of `v` 0 or 1 in its four fields `f`.
        let high: [u8; 8] = std::array::from_fn(|at| {
            let field = |f: usize| quant(at / 4 * 16 + 4 * f + at % 4).1 << (2 * f);
            field(0) | field(1) | field(2) | field(3)
        });
        spread(&high, lane, &mut out[288..]);
    }
}

/// Writes the values of one lane of a panel block, for the few rows that are looked up rather than
/// multiplied.
pub(crate) fn unpack_block(format: Format, panel: &[u8], lane: usize, out: &mut [f32]) {
    let half = |at: usize| f16::from_le_bytes([panel[at], panel[at + 1]]).to_f32();
    match format {
        Format::F32 => {
            let at = 4 * lane;
            let bytes = [panel[at], panel[at + 1], panel[at + 2], panel[at + 3]];
            out[0] = f32::from_le_bytes(bytes);
        }
        Format::F16 => out[0] = half(2 * lane),
        Format::BF16 => {
            out[0] = bf16::from_le_bytes([panel[2 * lane], panel[2 * lane + 1]]).to_f32();
        }
        Format::Q4_0 => {
            let scale = half(2 * lane);
            nibbles(&panel[32..], lane, out, |quant| scale * (f32::from(quant) - 8.0));
        }
        Format::Q4_1 => {
            let (scale, minimum) = (half(2 * lane), half(32 + 2 * lane));
            nibbles(&panel[64..], lane, out, |quant| scale * f32::from(quant) + minimum);
        }
        Format::Q8_0 => {
            let scale = half(2 * lane);
            for (at, value) in out.iter_mut().enumerate() {
                let byte = panel[32 + at / 4 * 64 + 4 * lane + at % 4] ^ 0x80;
                *value = scale * f32::from(byte as i8);
            }
        }
        Format::Q4_K => {
            let (scale, minimum) = (half(2 * lane), half(32 + 2 * lane));
            for (part, out) in out.chunks_exact_mut(BLOCK).enumerate() {
                let block = &panel[K4_HEAD + part * K4_BLOCK..][..K4_BLOCK];
                let scale = scale * f32::from(block[lane]);
                let minimum = minimum * f32::from(block[16 + lane]);
                nibbles(&block[32..], lane, out, |quant| scale * f32::from(quant) - minimum);
            }
        }
        Format::Q6_K => unpack_q6_k(half(2 * lane), &panel[K6_HEAD..], lane, out),
    }
}

fn nibbles(vectors: &[u8], lane: usize, out: &mut [f32], value: impl Fn(u8) -> f32) {
    for at in 0..16 {
        let byte = vectors[at / 4 * 64 + 4 * lane + at % 4];
        out[at] = value(byte & 15);
        out[at + 16] = value(byte >> 4);
    }
}

fn unpack_q6_k(scale: f32, parts: &[u8], lane: usize, out: &mut [f32]) {
    for (part, out) in out.chunks_exact_mut(BLOCK).enumerate() {
        let block = &parts[part * K6_BLOCK..][..K6_BLOCK];
        for (at, value) in out.iter_mut().enumerate() {
            let inner = at % 16;
            let low = block[32 + inner / 4 * 64 + 4 * lane + inner % 4] >> (4 * (at / 16)) & 15;
            let high = block[288 + at / 16 * 64 + 4 * lane + inner % 4] >> (2 * (inner / 4)) & 3;
            let quant = i32::from(low | high << 4) - 32;
            *value = scale * f32::from(block[16 * (at / 16) + lane] as i8) * quant as f32;
        }
    }
}
