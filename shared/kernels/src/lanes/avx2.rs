//! Lanes in two 256-bit registers.

use super::{Kernel, Lanes, Pairs};
use std::arch::x86_64::*;

/// AVX2 with FMA and F16C.
#[derive(Clone, Copy)]
pub(crate) struct Avx2;

/// Applies an intrinsic to both halves.
macro_rules! both {
    ($f:path; $a:expr) => {
        [$f($a[0]), $f($a[1])]
    };
    ($f:path; $a:expr, $b:expr) => {
        [$f($a[0], $b[0]), $f($a[1], $b[1])]
    };
    ($f:path; $a:expr, $b:expr, $c:expr) => {
        [$f($a[0], $b[0], $c[0]), $f($a[1], $b[1], $c[1])]
    };
}

/// The sum of eight lanes, halves onto halves.
///
/// # Safety
/// The machine has AVX.
#[inline(always)]
pub(super) unsafe fn sum_eight(a: __m256) -> f32 {
    // SAFETY: promised by the caller.
    unsafe {
        let four = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
        let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
        _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline(never)]
unsafe fn call<K: Kernel>(kernel: K) -> K::Output {
    // SAFETY: these instructions are enabled here.
    unsafe { kernel.run::<Avx2>() }
}

const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;

// SAFETY of every block below: the instructions are promised by the contract of `Lanes`, and so are
// sixteen elements behind every pointer.
#[allow(clippy::undocumented_unsafe_blocks, reason = "one reason for all of them, above")]
impl Lanes for Avx2 {
    type F = [__m256; 2];
    type I = [__m256i; 2];
    type B = [__m256i; 2];
    const ROWS: usize = 2;
    const ATTENTION_ROWS: usize = 1;

    #[inline(always)]
    unsafe fn call<K: Kernel>(kernel: K) -> K::Output {
        unsafe { call(kernel) }
    }
    #[inline(always)]
    unsafe fn splat(value: f32) -> Self::F {
        unsafe { [_mm256_set1_ps(value); 2] }
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self::F {
        unsafe { [_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))] }
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, value: Self::F) {
        unsafe {
            _mm256_storeu_ps(to, value[0]);
            _mm256_storeu_ps(to.add(8), value[1]);
        }
    }
    #[inline(always)]
    unsafe fn load_f16(from: *const u16) -> Self::F {
        unsafe {
            let halves = |at| _mm256_cvtph_ps(_mm_loadu_si128(from.add(at).cast()));
            [halves(0), halves(8)]
        }
    }
    #[inline(always)]
    unsafe fn store_f16(to: *mut u16, value: Self::F) {
        unsafe {
            _mm_storeu_si128(to.cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(value[0]));
            _mm_storeu_si128(
                to.add(8).cast(),
                _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(value[1]),
            );
        }
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const u16) -> Self::F {
        unsafe {
            let wide = |at| {
                let half = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.add(at).cast()));
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(half))
            };
            [wide(0), wide(8)]
        }
    }
    #[inline(always)]
    unsafe fn add(a: Self::F, b: Self::F) -> Self::F {
        unsafe { both!(_mm256_add_ps; a, b) }
    }
    #[inline(always)]
    unsafe fn sub(a: Self::F, b: Self::F) -> Self::F {
        unsafe { both!(_mm256_sub_ps; a, b) }
    }
    #[inline(always)]
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F {
        unsafe { both!(_mm256_mul_ps; a, b) }
    }
    #[inline(always)]
    unsafe fn div(a: Self::F, b: Self::F) -> Self::F {
        unsafe { both!(_mm256_div_ps; a, b) }
    }
    #[inline(always)]
    unsafe fn max(a: Self::F, b: Self::F) -> Self::F {
        unsafe { both!(_mm256_max_ps; a, b) }
    }
    #[inline(always)]
    unsafe fn abs(a: Self::F) -> Self::F {
        unsafe {
            let sign = [_mm256_set1_ps(-0.0); 2];
            both!(_mm256_andnot_ps; sign, a)
        }
    }
    #[inline(always)]
    unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        unsafe { both!(_mm256_fmadd_ps; a, b, c) }
    }
    #[inline(always)]
    unsafe fn keep_from(x: Self::F, limit: Self::F, value: Self::F) -> Self::F {
        unsafe {
            let kept = both!(_mm256_cmp_ps::<_CMP_GE_OQ>; x, limit);
            both!(_mm256_and_ps; kept, value)
        }
    }
    #[inline(always)]
    unsafe fn round(a: Self::F) -> Self::F {
        unsafe { both!(_mm256_round_ps::<NEAREST>; a) }
    }
    #[inline(always)]
    unsafe fn exp2_whole(a: Self::F) -> Self::F {
        unsafe {
            let bias = [_mm256_set1_epi32(127); 2];
            let power = both!(_mm256_add_epi32; both!(_mm256_cvtps_epi32; a), bias);
            both!(_mm256_castsi256_ps; both!(_mm256_slli_epi32::<23>; power))
        }
    }
    #[inline(always)]
    unsafe fn sum(a: Self::F) -> f32 {
        unsafe { sum_eight(_mm256_add_ps(a[0], a[1])) }
    }
    #[inline(always)]
    unsafe fn largest(a: Self::F) -> f32 {
        unsafe {
            let eight = _mm256_max_ps(a[0], a[1]);
            let upper = _mm256_extractf128_ps::<1>(eight);
            let four = _mm_max_ps(_mm256_castps256_ps128(eight), upper);
            let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps::<1>(two, two)))
        }
    }
    #[inline(always)]
    unsafe fn sum_i(a: Self::I) -> i32 {
        let mut lanes = [0; 8];
        unsafe { _mm256_storeu_si256(lanes.as_mut_ptr().cast(), _mm256_add_epi32(a[0], a[1])) };
        lanes.iter().sum()
    }
    #[inline(always)]
    unsafe fn splat_i(value: i32) -> Self::I {
        unsafe { [_mm256_set1_epi32(value); 2] }
    }
    #[inline(always)]
    unsafe fn to_f(a: Self::I) -> Self::F {
        unsafe { both!(_mm256_cvtepi32_ps; a) }
    }
    #[inline(always)]
    unsafe fn to_i(a: Self::F) -> Self::I {
        unsafe { both!(_mm256_cvtps_epi32; a) }
    }
    #[inline(always)]
    unsafe fn store_i(to: *mut i32, value: Self::I) {
        unsafe {
            _mm256_storeu_si256(to.cast(), value[0]);
            _mm256_storeu_si256(to.add(8).cast(), value[1]);
        }
    }
    #[inline(always)]
    unsafe fn store_i8(to: *mut i8, value: Self::I) {
        unsafe {
            // Packing works within 128-bit halves: the permutation puts their dwords in order.
            let words = _mm256_packs_epi32(value[0], value[1]);
            let bytes = _mm256_packs_epi16(words, words);
            let order = _mm256_setr_epi32(0, 4, 1, 5, 0, 4, 1, 5);
            let ordered = _mm256_permutevar8x32_epi32(bytes, order);
            _mm_storeu_si128(to.cast(), _mm256_castsi256_si128(ordered));
        }
    }
    #[inline(always)]
    unsafe fn load_u8(from: *const u8) -> Self::F {
        unsafe {
            let wide = |at| {
                let eight = _mm_loadl_epi64(from.add(at).cast());
                _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(eight))
            };
            [wide(0), wide(8)]
        }
    }
    #[inline(always)]
    unsafe fn load_i8(from: *const u8) -> Self::F {
        unsafe {
            let wide = |at| {
                let eight = _mm_loadl_epi64(from.add(at).cast());
                _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(eight))
            };
            [wide(0), wide(8)]
        }
    }
    #[inline(always)]
    unsafe fn prefetch(at: *const u8) {
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
    }
    #[inline(always)]
    unsafe fn load_b(from: *const u8) -> Self::B {
        unsafe { [_mm256_loadu_si256(from.cast()), _mm256_loadu_si256(from.add(32).cast())] }
    }
    #[inline(always)]
    unsafe fn low_nibbles(a: Self::B) -> Self::B {
        unsafe {
            let mask = [_mm256_set1_epi8(15); 2];
            both!(_mm256_and_si256; a, mask)
        }
    }
    #[inline(always)]
    unsafe fn high_nibbles(a: Self::B) -> Self::B {
        unsafe {
            let mask = [_mm256_set1_epi8(15); 2];
            both!(_mm256_and_si256; both!(_mm256_srli_epi16::<4>; a), mask)
        }
    }
    #[inline(always)]
    unsafe fn two_bits<const FIELD: usize>(a: Self::B) -> Self::B {
        unsafe {
            let moved = match FIELD {
                0 => both!(_mm256_slli_epi16::<4>; a),
                1 => both!(_mm256_slli_epi16::<2>; a),
                2 => a,
                _ => both!(_mm256_srli_epi16::<2>; a),
            };
            let mask = [_mm256_set1_epi8(0x30); 2];
            both!(_mm256_and_si256; moved, mask)
        }
    }
    #[inline(always)]
    unsafe fn or(a: Self::B, b: Self::B) -> Self::B {
        unsafe { both!(_mm256_or_si256; a, b) }
    }
    #[inline(always)]
    unsafe fn dot(sum: Self::I, bytes: Self::B, x: i32) -> Self::I {
        unsafe {
            // Sums of two products of bytes would overflow 16 bits: they are multiplied in 16 bits,
            // even and odd ones apart.
            let x = _mm256_set1_epi32(x);
            let even = _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(x));
            let odd = _mm256_srai_epi16::<8>(x);
            pairs(sum, bytes, [even, odd])
        }
    }
    #[inline(always)]
    unsafe fn dot_16(sum: Self::I, bytes: Self::B, x: Pairs) -> Self::I {
        unsafe { pairs(sum, bytes, [_mm256_set1_epi32(x.even), _mm256_set1_epi32(x.odd)]) }
    }
}

/// Adds to each lane the products of its bytes, the even ones with `x[0]`, the odd ones with `x[1]`.
///
/// # Safety
/// The machine has AVX2.
#[inline(always)]
unsafe fn pairs(sum: [__m256i; 2], bytes: [__m256i; 2], x: [__m256i; 2]) -> [__m256i; 2] {
    // SAFETY: promised by the caller.
    unsafe {
        let low = [_mm256_set1_epi16(255); 2];
        let even = both!(_mm256_and_si256; bytes, low);
        let odd = both!(_mm256_srli_epi16::<8>; bytes);
        let even = both!(_mm256_madd_epi16; even, [x[0]; 2]);
        let odd = both!(_mm256_madd_epi16; odd, [x[1]; 2]);
        both!(_mm256_add_epi32; sum, both!(_mm256_add_epi32; even, odd))
    }
}
