//! Sixteen lanes of f32 or i32, and the operations on them, for each instruction set.
//!
//! **Invariant**: every operation gives the same bits in every implementation: sums are taken in the
//! order in which they are written, products are fused where `fma` is written and nowhere else.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;

#[cfg(target_arch = "x86_64")]
pub(crate) use avx2::Avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) use avx512::Avx512;
pub(crate) use portable::Portable;

/// Lanes in a vector.
pub(crate) const LANES: usize = 16;

/// Four 16-bit numbers as two pairs: the first with the third, the second with the fourth.
#[derive(Clone, Copy)]
pub(crate) struct Pairs {
    pub(crate) even: i32,
    pub(crate) odd: i32,
}

/// Vectors of sixteen lanes.
///
/// # Safety
/// All functions need the instructions of their implementation. Loads and stores touch sixteen
/// elements (`bytes`: 64 bytes) from the pointer on, which need no alignment.
pub(crate) trait Lanes: Copy + 'static {
    /// Sixteen f32.
    type F: Copy;
    /// Sixteen i32.
    type I: Copy;
    /// Sixty-four bytes: four for each lane.
    type B: Copy;
    /// Most rows that a tile computes without spilling registers.
    const ROWS: usize;
    /// Most rows that attention computes without spilling registers.
    const ATTENTION_ROWS: usize;

    /// Runs `kernel` compiled for these instructions, in a function of its own: every caller shares
    /// one copy of its code.
    unsafe fn call<K: Kernel>(kernel: K) -> K::Output;

    unsafe fn splat(value: f32) -> Self::F;
    unsafe fn load(from: *const f32) -> Self::F;
    unsafe fn store(to: *mut f32, value: Self::F);
    unsafe fn load_f16(from: *const u16) -> Self::F;
    unsafe fn store_f16(to: *mut u16, value: Self::F);
    unsafe fn load_bf16(from: *const u16) -> Self::F;
    unsafe fn add(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn sub(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn div(a: Self::F, b: Self::F) -> Self::F;
    /// The larger; `b` where one is no number.
    unsafe fn max(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn abs(a: Self::F) -> Self::F;
    /// `a * b + c`, rounded once.
    unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// `value` where `x >= limit`, else zero.
    unsafe fn keep_from(x: Self::F, limit: Self::F, value: Self::F) -> Self::F;
    /// Nearest integer, ties to even.
    unsafe fn round(a: Self::F) -> Self::F;
    /// Two to the power of whole numbers within -126..=127.
    unsafe fn exp2_whole(a: Self::F) -> Self::F;

    /// The sum of all lanes, halves onto halves: the upper eight are added to the lower eight, the
    /// upper four of these to the lower four, and so on.
    unsafe fn sum(a: Self::F) -> f32;
    /// The largest lane.
    unsafe fn largest(a: Self::F) -> f32;

    unsafe fn splat_i(value: i32) -> Self::I;
    /// The sum of all lanes.
    unsafe fn sum_i(a: Self::I) -> i32;
    unsafe fn to_f(a: Self::I) -> Self::F;
    /// Nearest integers, ties to even.
    unsafe fn to_i(a: Self::F) -> Self::I;
    unsafe fn store_i(to: *mut i32, value: Self::I);
    /// The low byte of each lane.
    unsafe fn store_i8(to: *mut i8, value: Self::I);
    /// Sixteen bytes as unsigned numbers.
    unsafe fn load_u8(from: *const u8) -> Self::F;
    /// Sixteen bytes as signed numbers.
    unsafe fn load_i8(from: *const u8) -> Self::F;

    /// Prefetches the line at an address, which need not be valid.
    unsafe fn prefetch(at: *const u8);

    unsafe fn load_b(from: *const u8) -> Self::B;
    /// The low halves of all bytes.
    unsafe fn low_nibbles(a: Self::B) -> Self::B;
    /// The high halves of all bytes.
    unsafe fn high_nibbles(a: Self::B) -> Self::B;
    /// Two bits of each byte from bit `2 * field` on, moved to bits 4 and 5.
    unsafe fn two_bits<const FIELD: usize>(a: Self::B) -> Self::B;
    unsafe fn or(a: Self::B, b: Self::B) -> Self::B;
    /// Adds to each lane the dot product of its four unsigned bytes and the four signed ones of `x`.
    unsafe fn dot(sum: Self::I, bytes: Self::B, x: i32) -> Self::I;
    /// Adds to each lane the dot product of its four unsigned bytes and the four signed 16-bit
    /// numbers of `x`.
    unsafe fn dot_16(sum: Self::I, bytes: Self::B, x: Pairs) -> Self::I;
}

/// A computation that is compiled once for every instruction set.
pub(crate) trait Kernel {
    type Output;

    /// # Safety
    /// The machine has the instructions of `L`. Implementations are `#[inline(always)]`, so that
    /// they are compiled with them.
    unsafe fn run<L: Lanes>(self) -> Self::Output;
}

/// Below this the exponential counts as zero.
const EXP_LEAST: f32 = -87.0;

/// `e` to the power of `x`, for `x` up to 87: by the Taylor polynomial of degree 6 around the nearest
/// multiple of `ln 2` (relative error below 2e-7).
///
/// # Safety
/// The machine has the instructions of `L`.
#[inline(always)]
pub(crate) unsafe fn exp<L: Lanes>(x: L::F) -> L::F {
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    const INVERSE_FACTORIALS: [f32; 6] = [1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0];
    // SAFETY: as promised by the caller.
    unsafe {
        let least = L::splat(EXP_LEAST);
        let inside = L::max(x, least);
        let whole = L::round(L::mul(inside, L::splat(std::f32::consts::LOG2_E)));
        let rest = L::fma(whole, L::splat(-LN2_HIGH), inside);
        let rest = L::fma(whole, L::splat(-LN2_LOW), rest);
        let mut value = L::splat(1.0 / 720.0);
        for factor in INVERSE_FACTORIALS {
            value = L::fma(value, rest, L::splat(factor));
        }
        L::keep_from(x, least, L::mul(value, L::exp2_whole(whole)))
    }
}

/// `x / (1 + exp(-x))`.
///
/// # Safety
/// The machine has the instructions of `L`.
#[inline(always)]
pub(crate) unsafe fn silu<L: Lanes>(x: L::F) -> L::F {
    // SAFETY: as promised by the caller.
    unsafe {
        // Further down the quotient is zero to all digits.
        let negative = L::sub(L::splat(0.0), L::max(x, L::splat(-80.0)));
        L::div(x, L::add(L::splat(1.0), exp::<L>(negative)))
    }
}
