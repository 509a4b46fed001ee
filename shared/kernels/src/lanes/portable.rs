//! Lanes in arrays, for every machine.

use super::{Kernel, LANES, Lanes, Pairs};
use half::f16;

/// Plain Rust.
#[derive(Clone, Copy)]
pub(crate) struct Portable;

#[inline(always)]
fn map2(a: [f32; LANES], b: [f32; LANES], f: impl Fn(f32, f32) -> f32) -> [f32; LANES] {
    std::array::from_fn(|lane| f(a[lane], b[lane]))
}

/// # Safety
/// `from` has sixteen elements.
#[inline(always)]
unsafe fn read<T: Copy>(from: *const T) -> [T; LANES] {
    // SAFETY: promised by the caller; the pointer needs no alignment.
    unsafe { from.cast::<[T; LANES]>().read_unaligned() }
}

/// # Safety
/// `to` has sixteen elements.
#[inline(always)]
unsafe fn write<T: Copy>(to: *mut T, values: [T; LANES]) {
    // SAFETY: promised by the caller; the pointer needs no alignment.
    unsafe { to.cast::<[T; LANES]>().write_unaligned(values) }
}

#[inline(never)]
fn call<K: Kernel>(kernel: K) -> K::Output {
    // SAFETY: needs no instructions in particular.
    unsafe { kernel.run::<Portable>() }
}

// SAFETY of every block below: sixteen elements behind every pointer are promised by the contract of
// `Lanes`.
#[allow(clippy::undocumented_unsafe_blocks, reason = "one reason for all of them, above")]
impl Lanes for Portable {
    type F = [f32; LANES];
    type I = [i32; LANES];
    type B = [u8; 4 * LANES];
    const ROWS: usize = 1;
    const ATTENTION_ROWS: usize = 1;

    #[inline(always)]
    unsafe fn call<K: Kernel>(kernel: K) -> K::Output {
        call(kernel)
    }
    #[inline(always)]
    unsafe fn splat(value: f32) -> Self::F {
        [value; LANES]
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self::F {
        unsafe { read(from) }
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, value: Self::F) {
        unsafe { write(to, value) }
    }
    #[inline(always)]
    unsafe fn load_f16(from: *const u16) -> Self::F {
        unsafe { read(from) }.map(|bits| f16::from_bits(bits).to_f32())
    }
    #[inline(always)]
    unsafe fn store_f16(to: *mut u16, value: Self::F) {
        unsafe { write(to, value.map(|value| f16::from_f32(value).to_bits())) }
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const u16) -> Self::F {
        unsafe { read(from) }.map(|bits| f32::from_bits(u32::from(bits) << 16))
    }
    #[inline(always)]
    unsafe fn add(a: Self::F, b: Self::F) -> Self::F {
        map2(a, b, |a, b| a + b)
    }
    #[inline(always)]
    unsafe fn sub(a: Self::F, b: Self::F) -> Self::F {
        map2(a, b, |a, b| a - b)
    }
    #[inline(always)]
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F {
        map2(a, b, |a, b| a * b)
    }
    #[inline(always)]
    unsafe fn div(a: Self::F, b: Self::F) -> Self::F {
        map2(a, b, |a, b| a / b)
    }
    #[inline(always)]
    unsafe fn max(a: Self::F, b: Self::F) -> Self::F {
        map2(a, b, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    unsafe fn abs(a: Self::F) -> Self::F {
        a.map(f32::abs)
    }
    #[inline(always)]
    unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        std::array::from_fn(|lane| a[lane].mul_add(b[lane], c[lane]))
    }
    #[inline(always)]
    unsafe fn keep_from(x: Self::F, limit: Self::F, value: Self::F) -> Self::F {
        std::array::from_fn(|lane| if x[lane] >= limit[lane] { value[lane] } else { 0.0 })
    }
    #[inline(always)]
    unsafe fn round(a: Self::F) -> Self::F {
        a.map(f32::round_ties_even)
    }
    #[inline(always)]
    unsafe fn exp2_whole(a: Self::F) -> Self::F {
        a.map(|power| f32::from_bits(((power as i32 + 127) as u32) << 23))
    }
    #[inline(always)]
    unsafe fn sum(a: Self::F) -> f32 {
        let mut lanes = a;
        for half in [8, 4, 2, 1] {
            for lane in 0..half {
                lanes[lane] += lanes[lane + half];
            }
        }
        lanes[0]
    }
    #[inline(always)]
    unsafe fn largest(a: Self::F) -> f32 {
        a.into_iter().fold(f32::NEG_INFINITY, f32::max)
    }
    #[inline(always)]
    unsafe fn sum_i(a: Self::I) -> i32 {
        a.iter().sum()
    }
    #[inline(always)]
    unsafe fn splat_i(value: i32) -> Self::I {
        [value; LANES]
    }
    #[inline(always)]
    unsafe fn to_f(a: Self::I) -> Self::F {
        a.map(|value| value as f32)
    }
    #[inline(always)]
    unsafe fn to_i(a: Self::F) -> Self::I {
        a.map(|value| value.round_ties_even() as i32)
    }
    #[inline(always)]
    unsafe fn store_i(to: *mut i32, value: Self::I) {
        unsafe { write(to, value) }
    }
    #[inline(always)]
    unsafe fn store_i8(to: *mut i8, value: Self::I) {
        unsafe { write(to, value.map(|value| value as i8)) }
    }
    #[inline(always)]
    unsafe fn load_u8(from: *const u8) -> Self::F {
        unsafe { read(from) }.map(f32::from)
    }
    #[inline(always)]
    unsafe fn load_i8(from: *const u8) -> Self::F {
        unsafe { read(from) }.map(|byte| f32::from(byte as i8))
    }
    #[inline(always)]
    unsafe fn prefetch(_at: *const u8) {}
    #[inline(always)]
    unsafe fn load_b(from: *const u8) -> Self::B {
        unsafe { from.cast::<Self::B>().read() }
    }
    #[inline(always)]
    unsafe fn low_nibbles(a: Self::B) -> Self::B {
        a.map(|byte| byte & 15)
    }
    #[inline(always)]
    unsafe fn high_nibbles(a: Self::B) -> Self::B {
        a.map(|byte| byte >> 4)
    }
    #[inline(always)]
    unsafe fn two_bits<const FIELD: usize>(a: Self::B) -> Self::B {
        a.map(|byte| (byte >> (2 * FIELD) & 3) << 4)
    }
    #[inline(always)]
    unsafe fn or(a: Self::B, b: Self::B) -> Self::B {
        std::array::from_fn(|at| a[at] | b[at])
    }
    #[inline(always)]
    unsafe fn dot(sum: Self::I, bytes: Self::B, x: i32) -> Self::I {
        let x = x.to_le_bytes().map(|byte| i32::from(byte as i8));
        std::array::from_fn(|lane| {
            let four = &bytes[4 * lane..4 * lane + 4];
            let products = four.iter().zip(x).map(|(&byte, x)| i32::from(byte) * x);
            sum[lane] + products.sum::<i32>()
        })
    }
    #[inline(always)]
    unsafe fn dot_16(sum: Self::I, bytes: Self::B, x: Pairs) -> Self::I {
        let halves = |pair: i32| [i32::from(pair as i16), pair >> 16];
        let ([first, third], [second, fourth]) = (halves(x.even), halves(x.odd));
        let x = [first, second, third, fourth];
        std::array::from_fn(|lane| {
            let four = &bytes[4 * lane..4 * lane + 4];
            let products = four.iter().zip(x).map(|(&byte, x)| i32::from(byte) * x);
            sum[lane] + products.sum::<i32>()
        })
    }
}
