//! Tensors: bytes with their type and shape.

use crate::dtype::DType;
use crate::{quant, quantize};

/// One tensor, read from a file.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorData {
    /// Storage of the values.
    pub dtype: DType,
    /// Dimensions, slowest first: a linear layer's weight is `[outputs, inputs]`.
    pub shape: Vec<usize>,
    /// The values as the file holds them, little-endian.
    pub bytes: Vec<u8>,
}

impl TensorData {
    /// Returns a tensor without values: a buffer to read into.
    pub fn empty() -> Self {
        Self { dtype: DType::F32, shape: Vec::new(), bytes: Vec::new() }
    }

    /// Makes a single-precision tensor; `values` must fill `shape`.
    pub fn from_f32(shape: &[usize], values: &[f32]) -> Self {
        assert_eq!(shape.iter().product::<usize>(), values.len(), "values fill the shape");
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Self { dtype: DType::F32, shape: shape.to_vec(), bytes }
    }

    /// Makes a tensor that stores `values` as `dtype`, rounded; `values` must fill `shape`, and a row
    /// whole blocks.
    pub fn rounded(dtype: DType, shape: &[usize], values: &[f32]) -> Self {
        assert_eq!(shape.iter().product::<usize>(), values.len(), "values fill the shape");
        assert!(dtype.tensor_bytes(shape).is_some(), "rows of {shape:?} are blocks of {dtype:?}");
        Self { dtype, shape: shape.to_vec(), bytes: quantize::quantize(dtype, values) }
    }

    /// Returns all values in single precision, row after row.
    pub fn to_f32(&self) -> Vec<f32> {
        quant::to_f32(self.dtype, &self.bytes)
    }

    /// Returns the values of one row, the last dimension, in single precision; nothing if there is no
    /// such row.
    pub fn row_to_f32(&self, row: usize) -> Option<Vec<f32>> {
        let row_bytes = self.dtype.tensor_bytes(&[*self.shape.last()?])? as usize;
        let start = row.checked_mul(row_bytes)?;
        Some(quant::to_f32(self.dtype, self.bytes.get(start..start + row_bytes)?))
    }
}
