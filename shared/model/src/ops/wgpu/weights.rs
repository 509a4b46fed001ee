//! Weights of a linear layer on the device.

use super::format::{self, Format};
use super::gpu::Gpu;
use crate::error::LoadError;
use burn_cubecl::tensor::CubeTensor;
use modelfile::TensorData;

/// One matrix of one format.
pub(super) struct Matrix {
    pub(super) format: Format,
    pub(super) columns: usize,
    pub(super) quants: CubeTensor,
    pub(super) scales: CubeTensor,
}

/// Matrices that read the same input, one below the other, with a bias over all their outputs.
pub struct WgpuLinear {
    pub(super) parts: Vec<Matrix>,
    pub(super) inputs: usize,
    pub(super) outputs: usize,
    pub(super) bias: Option<CubeTensor>,
}

impl WgpuLinear {
    /// Parts that follow each other in one format become one matrix.
    pub(super) fn new(
        gpu: &Gpu,
        parts: &[TensorData],
        bias: Option<&[f32]>,
    ) -> Result<Self, LoadError> {
        let inputs = parts.first().map_or(0, |part| part.shape[1]);
        let outputs = parts.iter().map(|part| part.shape[0]).sum();
        let runs = parts.chunk_by(|a, b| a.dtype == b.dtype);
        let parts = runs.map(|run| Matrix::new(gpu, run)).collect::<Result<_, _>>()?;
        Ok(Self { parts, inputs, outputs, bias: bias.map(|bias| gpu.singles(bias)) })
    }
}

impl Matrix {
    fn new(gpu: &Gpu, run: &[TensorData]) -> Result<Self, LoadError> {
        let packed = match run {
            [one] => format::pack(one),
            several => {
                let rows = several.iter().map(|part| part.shape[0]).sum();
                let bytes = several.iter().flat_map(|part| part.bytes.iter().copied()).collect();
                let (dtype, inputs) = (several[0].dtype, several[0].shape[1]);
                format::pack(&TensorData { dtype, shape: vec![rows, inputs], bytes })
            }
        };
        gpu.check_size(packed.quants.len() * size_of::<u32>(), "matrix")?;
        Ok(Self {
            format: packed.format,
            columns: packed.columns,
            quants: gpu.words(&packed.quants),
            scales: gpu.words(&packed.scales),
        })
    }
}
