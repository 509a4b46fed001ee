//! Decoding of half precision and of a matrix's blocks in kernels.

use super::format::Format;
use cubecl::prelude::*;

/// Converts a half to a single. Exact for every finite half; the others become large numbers, so
/// that nothing read from a page can turn the sum of another row into nothing.
#[cube]
pub(super) fn half_to_single(bits: u32) -> f32 {
    let magnitude = bits & 0x7fff;
    let normal = f32::reinterpret((magnitude << 13) + 0x3800_0000);
    // 2^-24
    let subnormal = f32::cast_from(magnitude) * 5.960_464_5e-8;
    let value = select(magnitude < 0x400, subnormal, normal);
    f32::reinterpret(u32::reinterpret(value) | ((bits & 0x8000) << 16))
}

/// Converts a single to a half, to the nearest, ties to even.
#[cube]
pub(super) fn single_to_half(value: f32) -> u32 {
    let bits = u32::reinterpret(value);
    let magnitude = bits & 0x7fff_ffff;
    let odd = (magnitude >> 13) & 1;
    let normal = (magnitude + 0xfff + odd - 0x3800_0000) >> 13;
    // Adding one half rounds to multiples of 2^-24, the step of the smallest halves.
    let shifted = f32::reinterpret(magnitude) + 0.5;
    let subnormal = u32::reinterpret(shifted) - 0x3f00_0000;
    let finite = select(magnitude < 0x3880_0000, subnormal, normal);
    let bounded = select(magnitude >= 0x477f_f000, 0x7c00, finite);
    let half = select(magnitude > 0x7f80_0000, 0x7e00, bounded);
    half | ((bits >> 16) & 0x8000)
}

/// A weight is `factor * quant + offset`.
#[derive(CubeType, Clone, Copy)]
pub(super) struct Scale {
    pub(super) factor: f32,
    pub(super) offset: f32,
}

/// The place of a block.
#[derive(CubeType, Clone, Copy)]
pub(super) struct Place {
    pub(super) block: usize,
    pub(super) column: usize,
    /// Words from one row of words to the next.
    pub(super) columns: usize,
    /// Rows of super-block scales.
    pub(super) supers: usize,
}

/// Reads the scale of a half of a block.
#[cube]
pub(super) fn read_scale(
    scales: &[u32],
    place: &Place,
    #[comptime] format: Format,
    #[comptime] half: u32,
) -> Scale {
    let odd = 16 * (place.block as u32 % 2);
    if comptime!(format.is_float()) {
        Scale { factor: 1.0, offset: 0.0 }
    } else if comptime!(format == Format::NibbleOffset) {
        let pair = scales[place.block * place.columns + place.column];
        Scale { factor: half_to_single(pair & 0xffff), offset: half_to_single(pair >> 16) }
    } else if comptime!(format.is_super()) {
        let top = scales[place.block / 8 * place.columns + place.column];
        let row = place.supers + place.block / 2;
        let sub = scales[row * place.columns + place.column] >> odd;
        if comptime!(format == Format::SuperNibble) {
            let factor = half_to_single(top & 0xffff) * f32::cast_from(sub & 0xff);
            let minimum = half_to_single(top >> 16) * f32::cast_from((sub >> 8) & 0xff);
            Scale { factor, offset: -minimum }
        } else {
            let biased = ((sub >> comptime!(8 * half)) ^ 0x80) & 0xff;
            let signed = f32::cast_from(biased) - 128.0;
            let factor = half_to_single(top & 0xffff) * signed;
            Scale { factor, offset: factor * comptime!(-format.zero()) }
        }
    } else {
        let word = scales[place.block / 2 * place.columns + place.column] >> odd;
        let factor = half_to_single(word & 0xffff);
        Scale { factor, offset: factor * comptime!(-format.zero()) }
    }
}

/// Reads what decoding inputs `8 group ..` of a block needs into `words` from `at` on.
#[cube]
#[allow(clippy::too_many_arguments, reason = "a part of the kernel")]
pub(super) fn read_words(
    quants: &[u32],
    place: &Place,
    group: usize,
    words: &mut Array<u32>,
    #[comptime] format: Format,
    #[comptime] at: usize,
) {
    let row = place.block * comptime!(format.block_words());
    if comptime!(format == Format::SuperSix) {
        words[at] = quants[(row + group) * place.columns + place.column];
        let high = quants[(row + 4 + group / 2) * place.columns + place.column];
        words[at + 1] = high >> (16 * (group as u32 % 2));
    } else {
        let first = row + group * comptime!(format.group_words());
        #[unroll]
        for word in 0..comptime!(format.group_words()) {
            words[at + word] = quants[(first + word) * place.columns + place.column];
        }
    }
}

/// Returns input `index` of the eight read to `at`.
#[cube]
pub(super) fn weight(
    words: &Array<u32>,
    scale: &Scale,
    #[comptime] format: Format,
    #[comptime] at: usize,
    #[comptime] index: usize,
) -> f32 {
    if comptime!(format == Format::Single) {
        f32::reinterpret(words[at + index])
    } else if comptime!(format.is_float()) {
        let bits = words[comptime!(at + index / 2)] >> comptime!(16 * (index as u32 % 2));
        if comptime!(format == Format::Half) {
            half_to_single(bits & 0xffff)
        } else {
            f32::reinterpret(bits << 16)
        }
    } else if comptime!(format == Format::Byte) {
        let quant = (words[comptime!(at + index / 4)] >> comptime!(8 * (index as u32 % 4))) & 0xff;
        fma(f32::cast_from(quant), scale.factor, scale.offset)
    } else {
        let low = (words[at] >> comptime!(4 * index as u32)) & 15;
        if comptime!(format == Format::SuperSix) {
            let high = (words[comptime!(at + 1)] >> comptime!(2 * index as u32)) & 3;
            fma(f32::cast_from(low | (high << 4)), scale.factor, scale.offset)
        } else {
            fma(f32::cast_from(low), scale.factor, scale.offset)
        }
    }
}
