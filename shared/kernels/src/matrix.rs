//! Activations: rows of f32, each beginning at a cache line.

use crate::lanes::LANES;
use crate::memory::Aligned;

/// `[rows, width]` in f32. The values between the width and the next multiple of sixteen are zero.
pub struct Matrix {
    data: Aligned<f32>,
    rows: usize,
    width: usize,
}

impl Default for Matrix {
    fn default() -> Self {
        Self::new()
    }
}

impl Matrix {
    /// Returns a matrix without rows.
    pub fn new() -> Self {
        Self { data: Aligned::new(), rows: 0, width: 0 }
    }

    /// Gives it rows of a width, with any content. Allocates only to grow.
    pub fn reshape(&mut self, rows: usize, width: usize) {
        if width != self.width {
            self.width = width;
            self.data.clear();
        }
        self.rows = rows;
        self.data.resize(rows * self.stride());
    }

    /// Takes rows of `width` from the host.
    ///
    /// # Panics
    /// Panics if `values` are not whole rows.
    pub fn write(&mut self, width: usize, values: &[f32]) {
        assert!(width > 0 && values.len().is_multiple_of(width), "values are whole rows");
        self.reshape(values.len() / width, width);
        for (row, values) in values.chunks_exact(width).enumerate() {
            self.row_mut(row).copy_from_slice(values);
        }
    }

    /// Returns all rows, one after the other.
    pub fn to_vec(&self) -> Vec<f32> {
        (0..self.rows).flat_map(|row| self.row(row).iter().copied()).collect()
    }

    /// Returns the number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Returns the number of values in a row.
    pub fn width(&self) -> usize {
        self.width
    }

    pub(crate) fn stride(&self) -> usize {
        self.width.next_multiple_of(LANES)
    }

    /// Returns one row.
    pub fn row(&self, row: usize) -> &[f32] {
        &self.data.as_slice()[row * self.stride()..][..self.width]
    }

    pub(crate) fn row_mut(&mut self, row: usize) -> &mut [f32] {
        let (stride, width) = (self.stride(), self.width);
        &mut self.data.as_mut_slice()[row * stride..][..width]
    }

    /// Returns one row with the zeros behind it.
    pub(crate) fn padded_row(&self, row: usize) -> &[f32] {
        let stride = self.stride();
        &self.data.as_slice()[row * stride..][..stride]
    }

    pub(crate) fn all_mut(&mut self) -> &mut [f32] {
        self.data.as_mut_slice()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_is_zero_whatever_was_there_before() {
        let mut matrix = Matrix::new();
        matrix.write(32, &[7.0; 32 * 9]);
        // Fewer rows for a moment: what lies behind them must not come back.
        matrix.reshape(1, 32);
        matrix.reshape(1, 5);
        matrix.reshape(9, 5);
        for row in 0..9 {
            matrix.row_mut(row).fill(1.0);
            assert!(matrix.padded_row(row)[5..].iter().all(|&value| value == 0.0), "row {row}");
        }
    }
}
