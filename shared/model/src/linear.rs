//! Multiplication by a weight matrix, the same for a row whatever rows are beside it.

use burn::tensor::Tensor;

/// A linear layer without bias.
///
/// The CPU's matrix multiplication adds up every element in the order of the inputs, however many
/// rows there are; only for a single row it takes another way. A single row therefore gets company,
/// so that its result has the same bits alone and in a batch.
pub(crate) struct Linear {
    /// `[inputs, outputs]`
    weight: Tensor<2>,
    is_cpu: bool,
}

impl Linear {
    pub(crate) fn new(weight: Tensor<2>, is_cpu: bool) -> Self {
        Self { weight, is_cpu }
    }

    /// # Shapes
    /// - `x`: `[rows, inputs]`
    /// - returns `[rows, outputs]`
    pub(crate) fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let [rows, _] = x.dims();
        if self.is_cpu && rows == 1 {
            let pair = Tensor::cat(vec![x.clone(), x], 0);
            return pair.matmul(self.weight.clone()).slice([0..1, 0..self.weight.dims()[1]]);
        }
        x.matmul(self.weight.clone())
    }
}
