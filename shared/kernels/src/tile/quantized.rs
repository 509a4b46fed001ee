//! Sums of each quantized format.

use super::dots::{Dots, Reads, Sums, add_dots, add_minima, add_scaled, nibble_dots, unrolled};
use super::{PANELS, Weights};
use crate::activation::{Block, Quant};
use crate::format::{Format, K4_BLOCK, K4_HEAD, K6_BLOCK, K6_HEAD};
use crate::lanes::Lanes;

/// Formats of weights that are multiplied as integers; see [`Format`].
pub(super) struct Q4_0;
pub(super) struct Q4_1;
pub(super) struct Q8_0;
pub(super) struct Q4K;
pub(super) struct Q6K;

impl<Q: Quant> Weights<Block<Q>> for Q4_0 {
    #[inline(always)]
    unsafe fn sums<L: Lanes, const R: usize>(
        reads: Reads<Block<Q>, R>,
        units: usize,
    ) -> Sums<L, R> {
        // SAFETY: within the lengths that the caller promises.
        unsafe {
            let mut sums = [[L::splat(0.0); PANELS]; R];
            for unit in 0..units {
                let reads = reads.at(unit * Format::Q4_0.panel_bytes(), unit);
                reads.prefetch::<L, { Format::Q4_0.panel_bytes() }>();
                let mut scales = [L::splat(0.0); PANELS];
                let mut dots = [[L::splat_i(0); PANELS]; R];
                for p in 0..PANELS {
                    scales[p] = L::load_f16(reads.panels[p].cast());
                }
                for r in 0..R {
                    dots[r] = [L::splat_i((*reads.rows[r]).around_8); PANELS];
                }
                nibble_dots::<L, Q, R>(reads, 32, &mut dots);
                add_scaled::<L, Q, R>(&mut sums, dots, scales, reads.rows);
            }
            sums
        }
    }
}

impl<Q: Quant> Weights<Block<Q>> for Q4_1 {
    #[inline(always)]
    unsafe fn sums<L: Lanes, const R: usize>(
        reads: Reads<Block<Q>, R>,
        units: usize,
    ) -> Sums<L, R> {
        // SAFETY: within the lengths that the caller promises.
        unsafe {
            let mut sums = [[L::splat(0.0); PANELS]; R];
            for unit in 0..units {
                let reads = reads.at(unit * Format::Q4_1.panel_bytes(), unit);
                reads.prefetch::<L, { Format::Q4_1.panel_bytes() }>();
                let mut scales = [L::splat(0.0); PANELS];
                let mut minima = [L::splat(0.0); PANELS];
                for p in 0..PANELS {
                    scales[p] = L::load_f16(reads.panels[p].cast());
                    minima[p] = L::load_f16(reads.panels[p].add(32).cast());
                }
                let mut dots = [[L::splat_i(0); PANELS]; R];
                nibble_dots::<L, Q, R>(reads, 64, &mut dots);
                add_scaled::<L, Q, R>(&mut sums, dots, scales, reads.rows);
                add_minima::<L, Q, R>(&mut sums, minima, reads.rows);
            }
            sums
        }
    }
}

impl<Q: Quant> Weights<Block<Q>> for Q8_0 {
    #[inline(always)]
    unsafe fn sums<L: Lanes, const R: usize>(
        reads: Reads<Block<Q>, R>,
        units: usize,
    ) -> Sums<L, R> {
        // SAFETY: within the lengths that the caller promises.
        unsafe {
            let mut sums = [[L::splat(0.0); PANELS]; R];
            for unit in 0..units {
                let reads = reads.at(unit * Format::Q8_0.panel_bytes(), unit);
                reads.prefetch::<L, { Format::Q8_0.panel_bytes() }>();
                let mut scales = [L::splat(0.0); PANELS];
                let mut dots = [[L::splat_i(0); PANELS]; R];
                for p in 0..PANELS {
                    scales[p] = L::load_f16(reads.panels[p].cast());
                }
                for r in 0..R {
                    dots[r] = [L::splat_i((*reads.rows[r]).around_128); PANELS];
                }
                unrolled!(GROUP in [0, 1, 2, 3, 4, 5, 6, 7] {
                    let mut bytes = [L::load_b(reads.panels[0].add(32 + 64 * GROUP)); PANELS];
                    for p in 1..PANELS {
                        bytes[p] = L::load_b(reads.panels[p].add(32 + 64 * GROUP));
                    }
                    add_dots::<L, Q, R>(&mut dots, bytes, reads.rows, GROUP);
                });
                add_scaled::<L, Q, R>(&mut sums, dots, scales, reads.rows);
            }
            sums
        }
    }
}

impl<Q: Quant> Weights<Block<Q>> for Q4K {
    #[inline(always)]
    unsafe fn sums<L: Lanes, const R: usize>(
        reads: Reads<Block<Q>, R>,
        units: usize,
    ) -> Sums<L, R> {
        // SAFETY: within the lengths that the caller promises.
        unsafe {
            let mut sums = [[L::splat(0.0); PANELS]; R];
            for unit in 0..units {
                let unit_reads = reads.at(unit * Format::Q4_K.panel_bytes(), 8 * unit);
                let heads = unit_reads.panels;
                let mut super_scales = [L::splat(0.0); PANELS];
                let mut super_minima = [L::splat(0.0); PANELS];
                for p in 0..PANELS {
                    super_scales[p] = L::load_f16(heads[p].cast());
                    super_minima[p] = L::sub(L::splat(0.0), L::load_f16(heads[p].add(32).cast()));
                }
                for part in 0..8 {
                    let reads = unit_reads.at(K4_HEAD + part * K4_BLOCK, part);
                    reads.prefetch::<L, K4_BLOCK>();
                    let (mut scales, mut minima) = (super_scales, super_minima);
                    for p in 0..PANELS {
                        scales[p] = L::mul(scales[p], L::load_u8(reads.panels[p]));
                        minima[p] = L::mul(minima[p], L::load_u8(reads.panels[p].add(16)));
                    }
                    let mut dots = [[L::splat_i(0); PANELS]; R];
                    nibble_dots::<L, Q, R>(reads, 32, &mut dots);
                    add_scaled::<L, Q, R>(&mut sums, dots, scales, reads.rows);
                    add_minima::<L, Q, R>(&mut sums, minima, reads.rows);
                }
            }
            sums
        }
    }
}

impl<Q: Quant> Weights<Block<Q>> for Q6K {
    #[inline(always)]
    unsafe fn sums<L: Lanes, const R: usize>(
        reads: Reads<Block<Q>, R>,
        units: usize,
    ) -> Sums<L, R> {
        // SAFETY: within the lengths that the caller promises.
        unsafe {
            let mut sums = [[L::splat(0.0); PANELS]; R];
            for unit in 0..units {
                let unit_reads = reads.at(unit * Format::Q6_K.panel_bytes(), 8 * unit);
                let heads = unit_reads.panels;
                let mut super_scales = [L::splat(0.0); PANELS];
                for p in 0..PANELS {
                    super_scales[p] = L::load_f16(heads[p].cast());
                }
                for part in 0..8 {
                    let reads = unit_reads.at(K6_HEAD + part * K6_BLOCK, part);
                    reads.prefetch::<L, K6_BLOCK>();
                    for half in 0..2 {
                        let mut scales = super_scales;
                        for p in 0..PANELS {
                            scales[p] =
                                L::mul(scales[p], L::load_i8(reads.panels[p].add(16 * half)));
                        }
                        let dots = six_bit_dots::<L, Q, R>(reads, half);
                        add_scaled::<L, Q, R>(&mut sums, dots, scales, reads.rows);
                    }
                }
            }
            sums
        }
    }
}

/// Computes the dot products of one half of a block of 6-bit weights.
///
/// # Safety
/// Panels point to parts of a `Q6_K` panel block, rows to blocks.
#[inline(always)]
unsafe fn six_bit_dots<L: Lanes, Q: Quant, const R: usize>(
    reads: Reads<Block<Q>, R>,
    half: usize,
) -> Dots<L, R> {
    // SAFETY: within the lengths that the caller promises.
    unsafe {
        let mut dots = [[L::splat_i(0); PANELS]; R];
        for r in 0..R {
            dots[r] = [L::splat_i((*reads.rows[r]).halves_around_32[half]); PANELS];
        }
        unrolled!(FIELD in [0, 1, 2, 3] {
            let mut bytes = [L::load_b(reads.panels[0]); PANELS];
            for p in 0..PANELS {
                let panel = reads.panels[p];
                let both = L::load_b(panel.add(32 + 64 * FIELD));
                let low = if half == 0 { L::low_nibbles(both) } else { L::high_nibbles(both) };
                let high = L::load_b(panel.add(288 + 64 * half));
                bytes[p] = L::or(low, L::two_bits::<FIELD>(high));
            }
            add_dots::<L, Q, R>(&mut dots, bytes, reads.rows, 4 * half + FIELD);
        });
        dots
    }
}
