//! Memory that the kernels share: aligned, grown but never shrunk, written by several threads.

use std::marker::PhantomData;

/// One cache line, which is also the widest vector.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; LINE]);

const LINE: usize = 64;

/// A type of which any bits are a value, with no padding and an alignment of at most a cache line.
///
/// # Safety
/// Exactly that.
pub(crate) unsafe trait Plain: Copy + 'static {}

// SAFETY: numbers.
unsafe impl Plain for u8 {}
// SAFETY: numbers.
unsafe impl Plain for u16 {}
// SAFETY: numbers.
unsafe impl Plain for f32 {}

/// A slice of plain values that begins at a cache line, with at least a line more behind its end:
/// vector loads may run over it.
pub(crate) struct Aligned<T> {
    lines: Vec<Line>,
    length: usize,
    values: PhantomData<T>,
}

impl<T: Plain> Aligned<T> {
    pub(crate) fn new() -> Self {
        Self { lines: Vec::new(), length: 0, values: PhantomData }
    }

    /// `length` values, all bits zero.
    pub(crate) fn zeroed(length: usize) -> Self {
        let mut out = Self::new();
        out.resize(length);
        out
    }

    /// Makes it `length` values long; what it held before is still there, what it never held is zero.
    pub(crate) fn resize(&mut self, length: usize) {
        let bytes = length * size_of::<T>();
        let lines = bytes.div_ceil(LINE) + 1;
        if lines > self.lines.len() {
            self.lines.resize(lines, Line([0; LINE]));
        }
        self.length = length;
    }

    pub(crate) fn as_slice(&self) -> &[T] {
        // SAFETY: the lines hold at least `length` values, any bits of which are valid, aligned.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.length) }
    }

    /// The values, and behind them as many as fill a line or more.
    pub(crate) fn as_padded_slice(&self) -> &[T] {
        let length = self.lines.len() * LINE / size_of::<T>();
        // SAFETY: that many values fill the lines, and any bits of them are valid.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), length) }
    }

    /// Makes all that it ever held zero.
    pub(crate) fn clear(&mut self) {
        self.lines.fill(Line([0; LINE]));
    }

    pub(crate) fn as_mut_slice(&mut self) -> &mut [T] {
        // SAFETY: as in `as_slice`, and borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.length) }
    }
}

/// A slice that several threads write at places that they have shared out among themselves.
#[derive(Clone, Copy)]
pub(crate) struct Shared<'a, T> {
    start: *mut T,
    length: usize,
    slice: PhantomData<&'a mut [T]>,
}

// SAFETY: access goes through unsafe functions whose callers promise disjoint places.
unsafe impl<T: Send> Send for Shared<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Shared<'_, T> {}

impl<'a, T> Shared<'a, T> {
    pub(crate) fn new(slice: &'a mut [T]) -> Self {
        Self { start: slice.as_mut_ptr(), length: slice.len(), slice: PhantomData }
    }

    /// The values from `start` on.
    ///
    /// # Safety
    /// No other thread uses them meanwhile.
    #[inline(always)]
    #[allow(clippy::mut_from_ref, reason = "that is what it is for")]
    pub(crate) unsafe fn part(&self, start: usize, length: usize) -> &'a mut [T] {
        let end = start.checked_add(length);
        assert!(end.is_some_and(|end| end <= self.length), "a part lies within its slice");
        // SAFETY: within the slice, and used by the caller alone.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(start), length) }
    }
}
