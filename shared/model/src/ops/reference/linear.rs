//! Multiplication by a weight matrix, the same for a row whatever rows are beside it.

use burn::tensor::{DType, Device, Int, Tensor};
use modelfile::TensorData;

/// A linear layer, or an embedding, in single precision.
///
/// The CPU's matrix multiplication adds up every element in the order of the inputs, however many
/// rows there are; only for a single row it takes another way. A single row therefore gets company,
/// so that its result has the same bits alone and in a batch.
pub struct Linear {
    /// `[inputs, outputs]`, contiguous: the form in which few rows multiply fastest.
    weight: Tensor<2>,
    /// `[1, outputs]`
    bias: Option<Tensor<2>>,
    is_cpu: bool,
}

impl Linear {
    pub(super) fn new(
        parts: &[TensorData],
        bias: Option<&[f32]>,
        device: &Device,
        is_cpu: bool,
    ) -> Self {
        let inputs = parts.first().map_or(0, |part| part.shape[1]);
        let outputs = parts.iter().map(|part| part.shape[0]).sum();
        let mut matrix = vec![0f32; inputs * outputs];
        let mut column = 0;
        for part in parts {
            let rows = part.shape[0];
            transpose_into(&mut matrix, outputs, column, &part.to_f32(), rows);
            column += rows;
        }
        let tensor = |values: Vec<f32>, shape: [usize; 2]| {
            Tensor::from_data(burn::tensor::TensorData::new(values, shape), (device, DType::F32))
        };
        Self {
            weight: tensor(matrix, [inputs, outputs]),
            bias: bias.map(|bias| tensor(bias.to_vec(), [1, outputs])),
            is_cpu,
        }
    }

    /// # Shapes
    /// - `x`: `[rows, inputs]`
    /// - returns `[rows, outputs]`
    pub(super) fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let product = self.multiply(x);
        match &self.bias {
            Some(bias) => product.add(bias.clone()),
            None => product,
        }
    }

    fn multiply(&self, x: Tensor<2>) -> Tensor<2> {
        let [rows, _] = x.dims();
        if self.is_cpu && rows == 1 {
            let pair = Tensor::cat(vec![x.clone(), x], 0);
            return pair.matmul(self.weight.clone()).slice([0..1, 0..self.weight.dims()[1]]);
        }
        x.matmul(self.weight.clone())
    }

    /// Rows of the matrix as it was given: the embeddings of tokens.
    ///
    /// # Shapes
    /// - `indices`: `[rows]`
    /// - returns `[rows, inputs]`, contiguous
    pub(super) fn rows(&self, indices: Tensor<1, Int>) -> Tensor<2> {
        let [rows] = indices.dims();
        let [inputs, _] = self.weight.dims();
        let columns = self.weight.clone().select(1, indices);
        columns.transpose().reshape([rows * inputs]).reshape([rows, inputs])
    }
}

/// Writes `rows` rows of `values`, transposed, into the columns of `matrix` from `column` on; in
/// tiles, so that neither side strides through memory.
fn transpose_into(matrix: &mut [f32], width: usize, column: usize, values: &[f32], rows: usize) {
    const TILE: usize = 32;
    let inputs = values.len() / rows;
    for row_tile in (0..rows).step_by(TILE) {
        for input_tile in (0..inputs).step_by(TILE) {
            for input in input_tile..(input_tile + TILE).min(inputs) {
                let out = &mut matrix[input * width + column..][..rows];
                for row in row_tile..(row_tile + TILE).min(rows) {
                    out[row] = values[row * inputs + input];
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transposing_side_by_side_keeps_every_value() {
        let (rows, inputs) = (45, 70);
        let values: Vec<f32> = (0..rows * inputs).map(|value| value as f32).collect();
        let mut matrix = vec![-1.0; inputs * 100];
        transpose_into(&mut matrix, 100, 55, &values, rows);
        for input in 0..inputs {
            assert_eq!(matrix[input * 100 + 54], -1.0);
            for row in 0..rows {
                assert_eq!(matrix[input * 100 + 55 + row], values[row * inputs + input]);
            }
        }
    }
}
