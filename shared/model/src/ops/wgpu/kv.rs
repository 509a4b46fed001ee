//! Pages on the device, and blocks out of and into them.

use super::gpu::Gpu;
use crate::error::{LoadError, StepError};
use crate::ops::KvShape;
use burn_cubecl::tensor::CubeTensor;
use cubecl::server::Handle;

/// The pages of each layer, words of two halves each.
pub struct WgpuKv {
    shape: KvShape,
    pub(super) layers: Vec<CubeTensor>,
}

impl WgpuKv {
    pub(super) fn new(gpu: &Gpu, shape: KvShape) -> Result<Self, LoadError> {
        let words = shape.pages * shape.half_values();
        gpu.check_size(words * size_of::<u32>(), "layer's KV")?;
        let layers = (0..shape.layers).map(|_| gpu.zeros(words)).collect();
        Ok(Self { shape, layers })
    }

    /// Bytes of a page in one layer.
    fn layer_bytes(&self) -> usize {
        self.shape.block_bytes() / self.shape.layers.max(1)
    }

    /// Returns the page of each layer.
    fn page(&self, page: u32) -> impl Iterator<Item = Handle> {
        let bytes = self.layer_bytes();
        let start = page as usize * bytes;
        let end = self.shape.pages * bytes - start - bytes;
        self.layers.iter().map(move |layer| {
            layer.handle.clone().offset_start(start as u64).offset_end(end as u64)
        })
    }

    pub(super) fn export(&self, gpu: &Gpu, page: u32, out: &mut [u8]) -> Result<(), StepError> {
        let read = gpu.read(self.page(page).collect())?;
        for (part, bytes) in out.chunks_exact_mut(self.layer_bytes()).zip(read) {
            part.copy_from_slice(&bytes);
        }
        Ok(())
    }

    pub(super) fn import(&self, gpu: &Gpu, page: u32, bytes: &[u8]) {
        for (handle, part) in self.page(page).zip(bytes.chunks_exact(self.layer_bytes())) {
            gpu.write(&handle, part);
        }
    }
}
