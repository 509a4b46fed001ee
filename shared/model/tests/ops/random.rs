//! Numbers, shapes and weights that are anything, the same every time.

use modelfile::{DType, TensorData};

pub(crate) const FORMATS: [DType; 8] = [
    DType::F32,
    DType::F16,
    DType::BF16,
    DType::Q8_0,
    DType::Q4_0,
    DType::Q4_1,
    DType::Q4_K,
    DType::Q6_K,
];

pub(crate) struct Random(pub(crate) u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    /// One of `0..limit`.
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    /// One of `least..=most`.
    pub(crate) fn between(&mut self, least: usize, most: usize) -> usize {
        least + self.below(most - least + 1)
    }

    /// Within -1..1.
    pub(crate) fn value(&mut self) -> f32 {
        (self.next() as f64 / (1u64 << 30) as f64 - 1.0) as f32
    }

    pub(crate) fn values(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.value()).collect()
    }

    pub(crate) fn coin(&mut self) -> bool {
        self.below(2) == 1
    }

    /// A width that rows of `format` can have: odd where it has no blocks.
    pub(crate) fn width(&mut self, format: DType) -> usize {
        match format.block_values() {
            1 => self.between(1, 150),
            values => values * self.between(1, if values == 32 { 7 } else { 2 }),
        }
    }

    /// `[outputs, inputs]`, rounded to `format`; its bytes begin anywhere in memory.
    pub(crate) fn matrix(&mut self, format: DType, outputs: usize, inputs: usize) -> TensorData {
        let values = self.values(outputs * inputs);
        TensorData::rounded(format, &[outputs, inputs], &values)
    }

    /// Rows of `width`, of very different sizes.
    pub(crate) fn rows(&mut self, rows: usize, width: usize) -> Vec<f32> {
        let mut values = self.values(rows * width);
        for row in values.chunks_exact_mut(width) {
            let size = 10f32.powi(self.between(0, 4) as i32 - 2);
            row.iter_mut().for_each(|value| *value *= size);
        }
        values
    }
}
