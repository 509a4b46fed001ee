//! Takes tensors from a model file into the form and place in which layers use them.

use crate::error::LoadError;
use crate::linear::Linear;
use burn::tensor::{DType, Device, Tensor, TensorData};
use modelfile::{ModelFile, ModelSpec, RopePairs};

/// Reads weights for one device.
pub(crate) struct Loader<'a> {
    pub(crate) file: &'a ModelFile,
    pub(crate) device: &'a Device,
    pub(crate) is_cpu: bool,
}

impl Loader<'_> {
    pub(crate) fn spec(&self) -> &ModelSpec {
        self.file.spec()
    }

    /// A vector, as a row.
    pub(crate) fn vector(&self, name: &str) -> Result<Tensor<2>, LoadError> {
        let values = self.file.tensor(name)?.to_f32();
        let shape = [1, values.len()];
        Ok(Tensor::from_data(TensorData::new(values, shape), (self.device, DType::F32)))
    }

    /// Linear layers that read the same input, side by side as one. Their weights become a
    /// contiguous `[inputs, outputs]`, the form in which few rows multiply fastest.
    pub(crate) fn linear(&self, names: &[String]) -> Result<Linear, LoadError> {
        let mut parts = Vec::with_capacity(names.len());
        for name in names {
            let tensor = self.file.tensor(name)?;
            let inputs = tensor.shape[1];
            let mut values = tensor.to_f32();
            if self.spec().rope_pairs == RopePairs::Interleaved && is_rotated(name) {
                values = halve_pairs(&values, inputs, self.spec().head_dim);
            }
            parts.push((tensor.shape[0], inputs, values));
        }
        let inputs = parts.first().map_or(0, |(_, inputs, _)| *inputs);
        let outputs = parts.iter().map(|(outputs, _, _)| outputs).sum();
        let mut matrix = vec![0f32; inputs * outputs];
        let mut column = 0;
        for (rows, _, values) in &parts {
            transpose_into(&mut matrix, outputs, column, (values, *rows));
            column += rows;
        }
        let data = TensorData::new(matrix, [inputs, outputs]);
        let weight = Tensor::from_data(data, (self.device, DType::F32));
        Ok(Linear::new(weight, self.is_cpu))
    }
}

fn is_rotated(name: &str) -> bool {
    name.ends_with("attn_q.weight") || name.ends_with("attn_k.weight")
}

/// Reorders each head's rows from pairs `2i, 2i + 1` to pairs `i, i + head_dim / 2`.
fn halve_pairs(rows: &[f32], inputs: usize, head_dim: usize) -> Vec<f32> {
    let half = head_dim / 2;
    let mut out = Vec::with_capacity(rows.len());
    for head in rows.chunks_exact(head_dim * inputs) {
        for element in 0..head_dim {
            let source = 2 * (element % half) + element / half;
            out.extend_from_slice(&head[source * inputs..][..inputs]);
        }
    }
    out
}

/// Writes `source`, given as values and their count of rows, transposed into the columns of
/// `matrix` from `column` on; in tiles, so that neither side strides through memory.
fn transpose_into(matrix: &mut [f32], width: usize, column: usize, source: (&[f32], usize)) {
    const TILE: usize = 32;
    let (values, rows) = source;
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
        transpose_into(&mut matrix, 100, 55, (&values, rows));
        for input in 0..inputs {
            assert_eq!(matrix[input * 100 + 54], -1.0);
            for row in 0..rows {
                assert_eq!(matrix[input * 100 + 55 + row], values[row * inputs + input]);
            }
        }
    }

    #[test]
    fn interleaved_pairs_become_halves() {
        let rows: Vec<f32> = (0..8).map(|row| row as f32).collect();
        assert_eq!(halve_pairs(&rows, 1, 4), [0.0, 2.0, 1.0, 3.0, 4.0, 6.0, 5.0, 7.0]);
    }
}
