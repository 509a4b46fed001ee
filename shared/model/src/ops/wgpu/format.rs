//! The layout of a quantized matrix on the device, and the conversion of ggml's blocks to it.
//!
//! Columns of words are outputs, so that neighboring units of a kernel read neighboring words. A
//! block is 32 inputs of one output. Nothing is dequantized: a block keeps its quants and its scales.

use modelfile::{DType, TensorData};

/// Inputs of a block.
pub(super) const BLOCK: usize = 32;
/// Blocks that share a super-block's scales, in the formats that have them.
const SUPER: usize = 8;

/// Storage of a matrix on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Format {
    /// 4 bits around 8, a half scale.
    Nibble,
    /// 4 bits, a half scale and a half offset.
    NibbleOffset,
    /// 8 bits around 128, a half scale.
    Byte,
    /// 4 bits, 6-bit scale and minimum, halves for 256 inputs.
    SuperNibble,
    /// 6 bits around 32, 8-bit scales of 16 inputs, a half for 256.
    SuperSix,
    /// Half precision.
    Half,
    /// The upper half of a single.
    BrainHalf,
    /// Single precision.
    Single,
}

impl Format {
    pub(super) fn of(dtype: DType) -> Self {
        match dtype {
            DType::Q4_0 => Self::Nibble,
            DType::Q4_1 => Self::NibbleOffset,
            DType::Q8_0 => Self::Byte,
            DType::Q4_K => Self::SuperNibble,
            DType::Q6_K => Self::SuperSix,
            DType::F16 => Self::Half,
            DType::BF16 => Self::BrainHalf,
            DType::F32 => Self::Single,
        }
    }

    /// Words of a block's quants.
    pub(super) fn block_words(self) -> usize {
        match self {
            Self::Nibble | Self::NibbleOffset | Self::SuperNibble => 4,
            Self::SuperSix => 6,
            Self::Byte => 8,
            Self::Half | Self::BrainHalf => 16,
            Self::Single => 32,
        }
    }

    /// Words that a kernel holds to decode 8 inputs.
    pub(super) fn group_words(self) -> usize {
        match self {
            Self::Nibble | Self::NibbleOffset | Self::SuperNibble => 1,
            Self::SuperSix | Self::Byte => 2,
            Self::Half | Self::BrainHalf => 4,
            Self::Single => 8,
        }
    }

    /// Rows of scale words for `blocks` blocks.
    pub(super) fn scale_rows(self, blocks: usize) -> usize {
        match self {
            Self::Nibble | Self::Byte => blocks.div_ceil(2),
            Self::NibbleOffset => blocks,
            Self::SuperNibble | Self::SuperSix => supers(blocks) + blocks.div_ceil(2),
            Self::Half | Self::BrainHalf | Self::Single => 0,
        }
    }

    pub(super) fn is_float(self) -> bool {
        matches!(self, Self::Half | Self::BrainHalf | Self::Single)
    }

    pub(super) fn is_super(self) -> bool {
        matches!(self, Self::SuperNibble | Self::SuperSix)
    }

    /// Returns the quant that stands for zero.
    pub(super) fn zero(self) -> f32 {
        match self {
            Self::Nibble => 8.0,
            Self::Byte => 128.0,
            Self::SuperSix => 32.0,
            _ => 0.0,
        }
    }

    /// Returns true if the two halves of a block have scales of their own.
    pub(super) fn halves(self) -> bool {
        self == Self::SuperSix
    }
}

/// Rows of super-block scales.
pub(super) fn supers(blocks: usize) -> usize {
    blocks.div_ceil(SUPER)
}

/// A matrix as words, to be copied to the device.
pub(super) struct Packed {
    pub(super) format: Format,
    /// Outputs.
    pub(super) columns: usize,
    /// `[blocks * block_words, columns]`
    pub(super) quants: Vec<u32>,
    /// `[scale_rows, columns]`, one word at least.
    pub(super) scales: Vec<u32>,
}

/// Rearranges `[outputs, inputs]`; inputs that do not fill a block are followed by zeros.
pub(super) fn pack(tensor: &TensorData) -> Packed {
    let (columns, inputs) = (tensor.shape[0], tensor.shape[1]);
    let format = Format::of(tensor.dtype);
    let blocks = inputs.div_ceil(BLOCK);
    let words = format.block_words();
    let mut packed = Packed {
        format,
        columns,
        quants: vec![0; blocks * words * columns],
        scales: vec![0; (format.scale_rows(blocks) * columns).max(1)],
    };
    let row_bytes = tensor.bytes.len() / columns.max(1);
    // Some outputs at a time, so that the columns being written stay in the cache.
    const TILE: usize = 16;
    let mut block_words = [0; 32];
    for first in (0..columns).step_by(TILE) {
        for block in 0..blocks {
            for column in first..(first + TILE).min(columns) {
                let row = &tensor.bytes[column * row_bytes..][..row_bytes];
                let out = &mut block_words[..words];
                out.fill(0);
                let scale = read_block(format, row, block, out);
                for (word, &value) in out.iter().enumerate() {
                    packed.quants[(block * words + word) * columns + column] = value;
                }
                packed.put_scale(block, blocks, column, scale);
            }
        }
    }
    packed
}

/// The scales of a block, as bits.
enum Scale {
    None,
    /// One half.
    Factor(u16),
    /// Factor and offset, halves.
    Pair(u16, u16),
    /// The two bytes of this block, and the word of the super-block that it opens.
    Sub(u16, Option<u32>),
}

impl Packed {
    fn put_scale(&mut self, block: usize, blocks: usize, column: usize, scale: Scale) {
        let columns = self.columns;
        let shift = 16 * (block % 2);
        match scale {
            Scale::None => {}
            Scale::Factor(factor) => {
                self.scales[block / 2 * columns + column] |= u32::from(factor) << shift;
            }
            Scale::Pair(factor, offset) => {
                self.scales[block * columns + column] = u32::from(factor) | u32::from(offset) << 16;
            }
            Scale::Sub(bytes, opened) => {
                let row = supers(blocks) + block / 2;
                self.scales[row * columns + column] |= u32::from(bytes) << shift;
                if let Some(word) = opened {
                    self.scales[block / SUPER * columns + column] = word;
                }
            }
        }
    }
}

/// Takes block `block` of an output's bytes apart.
fn read_block(format: Format, row: &[u8], block: usize, out: &mut [u32]) -> Scale {
    let half = |bytes: &[u8], at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
    match format {
        Format::Nibble => {
            let bytes = &row[block * 18..][..18];
            nibbles(&bytes[2..], out);
            Scale::Factor(half(bytes, 0))
        }
        Format::NibbleOffset => {
            let bytes = &row[block * 20..][..20];
            nibbles(&bytes[4..], out);
            Scale::Pair(half(bytes, 0), half(bytes, 2))
        }
        Format::Byte => {
            let bytes = &row[block * 34..][..34];
            for (index, &quant) in bytes[2..].iter().enumerate() {
                out[index / 4] |= u32::from(quant ^ 0x80) << (8 * (index % 4));
            }
            Scale::Factor(half(bytes, 0))
        }
        Format::SuperNibble => super_nibble(&row[block / SUPER * 144..][..144], block % SUPER, out),
        Format::SuperSix => super_six(&row[block / SUPER * 210..][..210], block % SUPER, out),
        Format::Half | Format::BrainHalf | Format::Single => {
            let block_bytes = out.len() * 4;
            let rest = &row[block * block_bytes..];
            for (index, &byte) in rest.iter().take(block_bytes).enumerate() {
                out[index / 4] |= u32::from(byte) << (8 * (index % 4));
            }
            Scale::None
        }
    }
}

/// ggml keeps input `i` in the lower, input `16 + i` in the upper half of byte `i`; words hold eight
/// inputs each, in order.
fn nibbles(bytes: &[u8], out: &mut [u32]) {
    for (index, &byte) in bytes.iter().enumerate().take(16) {
        put_nibble(out, index, byte & 15);
        put_nibble(out, index + 16, byte >> 4);
    }
}

fn put_nibble(out: &mut [u32], index: usize, nibble: u8) {
    out[index / 8] |= u32::from(nibble) << (4 * (index % 8));
}

fn super_nibble(bytes: &[u8], sub: usize, out: &mut [u32]) -> Scale {
    for (index, &byte) in bytes[16 + sub / 2 * 32..][..32].iter().enumerate() {
        put_nibble(out, index, byte >> (4 * (sub % 2)) & 15);
    }
    let packed = &bytes[4..16];
    let (scale, minimum) = if sub < 4 {
        (packed[sub] & 63, packed[sub + 4] & 63)
    } else {
        let low = packed[sub + 4];
        ((low & 15) | (packed[sub - 4] >> 6 << 4), (low >> 4) | (packed[sub] >> 6 << 4))
    };
    let opened = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    Scale::Sub(u16::from_le_bytes([scale, minimum]), (sub == 0).then_some(opened))
}

fn super_six(bytes: &[u8], sub: usize, out: &mut [u32]) -> Scale {
    let (half, quarter) = (sub / 4, sub % 4);
    let low = &bytes[half * 64 + quarter % 2 * 32..][..32];
    let high = &bytes[128 + half * 32..][..32];
    for index in 0..BLOCK {
        put_nibble(out, index, low[index] >> (4 * (quarter / 2)) & 15);
        let top = high[index] >> (2 * quarter) & 3;
        out[4 + index / 16] |= u32::from(top) << (2 * (index % 16));
    }
    let scales = &bytes[192 + half * 8 + quarter * 2..][..2];
    let opened = u32::from(u16::from_le_bytes([bytes[208], bytes[209]]));
    Scale::Sub(u16::from_le_bytes([scales[0], scales[1]]), (sub == 0).then_some(opened))
}

#[cfg(test)]
mod tests {
    use super::*;

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

    /// Computes on the host the value that a kernel reads from a matrix, to test the packing.
    fn value(packed: &Packed, blocks: usize, column: usize, input: usize) -> f32 {
        let (block, index) = (input / BLOCK, input % BLOCK);
        let word = |row: usize| packed.quants[row * packed.columns + column];
        let base = block * packed.format.block_words();
        let half = |bits: u32| half::f16::from_bits(bits as u16).to_f32();
        let scale = |row: usize| packed.scales[row * packed.columns + column];
        let shifted = |row: usize| scale(row) >> (16 * (block % 2));
        let nibble = word(base + index / 8) >> (4 * (index % 8)) & 15;
        let sub = || shifted(supers(blocks) + block / 2);
        match packed.format {
            Format::Nibble => half(shifted(block / 2)) * (nibble as f32 - 8.0),
            Format::NibbleOffset => {
                let pair = scale(block);
                half(pair) * nibble as f32 + half(pair >> 16)
            }
            Format::Byte => {
                let quant = word(base + index / 4) >> (8 * (index % 4)) & 255;
                half(shifted(block / 2)) * (quant as f32 - 128.0)
            }
            Format::SuperNibble => {
                let (pair, sub) = (scale(block / SUPER), sub());
                half(pair) * (sub & 255) as f32 * nibble as f32
                    - half(pair >> 16) * (sub >> 8 & 255) as f32
            }
            Format::SuperSix => {
                let factor = (sub() >> (8 * (index / 16))) as u8 as i8;
                let top = word(base + 4 + index / 16) >> (2 * (index % 16)) & 3;
                let quant = (nibble | top << 4) as f32 - 32.0;
                half(scale(block / SUPER)) * f32::from(factor) * quant
            }
            Format::Half => half(word(base + index / 2) >> (16 * (index % 2))),
            Format::BrainHalf => f32::from_bits(word(base + index / 2) >> (16 * (index % 2)) << 16),
            Format::Single => f32::from_bits(word(base + index)),
        }
    }

    /// Any bytes are a matrix, but scales should be finite.
    fn random(dtype: DType, columns: usize, inputs: usize) -> TensorData {
        let size = columns * inputs / dtype.block_values() * dtype.block_bytes();
        let mut state = 1u32;
        let bytes = (0..size)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 24) as u8 & 0xbb
            })
            .collect();
        TensorData { dtype, shape: vec![columns, inputs], bytes }
    }

    #[test]
    fn packing_keeps_every_value() {
        for dtype in ALL {
            for (columns, inputs) in [(1, 256), (19, 512), (33, 768)] {
                let tensor = random(dtype, columns, inputs);
                let packed = pack(&tensor);
                for (at, expected) in tensor.to_f32().into_iter().enumerate() {
                    let got = value(&packed, inputs / BLOCK, at / inputs, at % inputs);
                    assert_eq!(got, expected, "{dtype:?} {columns}x{inputs} at {at}");
                }
            }
        }
    }

    #[test]
    fn inputs_that_fill_no_block_are_followed_by_zeros() {
        for dtype in [DType::F16, DType::BF16, DType::F32] {
            let tensor = random(dtype, 3, 45);
            let packed = pack(&tensor);
            for (at, expected) in tensor.to_f32().into_iter().enumerate() {
                assert_eq!(value(&packed, 2, at / 45, at % 45), expected, "{dtype:?} at {at}");
            }
            assert!((45..64).all(|input| value(&packed, 2, 2, input) == 0.0));
        }
    }
}
