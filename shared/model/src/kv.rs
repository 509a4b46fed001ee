//! The paged pool of keys and values: one tensor a layer, written in place.
//!
//! A token's entry in a layer is its keys of all heads, then its values of all heads. A page is 16
//! entries that follow each other, a block on the wire the page's entries of every layer in turn.

use crate::BLOCK_TOKENS;
use crate::device::Placement;
use crate::error::StepError;
use burn::backend::Flex;
use burn::tensor::{DType, Device, IndexingUpdateOp, Int, Tensor, TensorData};
use half::f16;
use modelfile::ModelSpec;

/// Pool of all layers.
pub(crate) struct KvPool {
    /// `[pages * 16, entry]`, f16; absent only while an operation holds it.
    layers: Vec<Option<Tensor<2>>>,
    /// Values of one entry: `2 * kv_heads * head_dim`.
    entry: usize,
    pages: usize,
    device: Device,
    is_cpu: bool,
}

impl KvPool {
    pub(crate) fn new(spec: &ModelSpec, pages: usize, placement: &Placement) -> Self {
        let entry = 2 * spec.kv_heads * spec.head_dim;
        let device = placement.device.clone();
        let layer = || Tensor::zeros([pages * BLOCK_TOKENS, entry], (&device, DType::F16));
        let layers = (0..spec.layers).map(|_| Some(layer())).collect();
        Self { layers, entry, pages, is_cpu: placement.is_cpu, device }
    }

    pub(crate) fn pages(&self) -> usize {
        self.pages
    }

    pub(crate) fn block_bytes(&self) -> usize {
        self.layers.len() * self.page_bytes()
    }

    fn page_bytes(&self) -> usize {
        BLOCK_TOKENS * self.entry * size_of::<f16>()
    }

    fn take(&mut self, layer: usize) -> Tensor<2> {
        self.layers[layer].take().expect("every operation puts the layer back")
    }

    /// Stores the entries of new tokens.
    ///
    /// # Shapes
    /// - `entries`: `[rows, entry]`, f32
    /// - `slots`: `page * 16 + offset` of each row
    pub(crate) fn append(&mut self, layer: usize, entries: Tensor<2>, slots: &Slots) {
        let pool = self.take(layer);
        let pool = if self.is_cpu {
            append_in_place(pool, entries, &slots.host, self.entry)
        } else {
            let entries = entries.cast(DType::F16);
            pool.scatter_nd(slots.device.clone(), entries, IndexingUpdateOp::Assign)
        };
        self.layers[layer] = Some(pool);
    }

    /// Copies whole pages out, in single precision.
    ///
    /// # Shapes
    /// - returns `[pages.len() * 16, entry]`
    pub(crate) fn gather(&self, layer: usize, pages: &Tensor<1, Int>) -> Tensor<2> {
        let pool = self.layers[layer].as_ref().expect("every operation puts the layer back");
        let by_page = pool.clone().reshape([self.pages, BLOCK_TOKENS * self.entry]);
        let [count] = pages.dims();
        by_page
            .select(0, pages.clone())
            .cast(DType::F32)
            .reshape([count * BLOCK_TOKENS, self.entry])
    }

    /// All layers' entries of a page; entries from `filled` on are given as zeros.
    pub(crate) fn export(&self, page: u32, filled: usize) -> Result<Vec<u8>, StepError> {
        let start = page as usize * BLOCK_TOKENS;
        let mut block = Vec::with_capacity(self.block_bytes());
        for layer in &self.layers {
            let pool = layer.as_ref().expect("every operation puts the layer back");
            let data = pool.clone().slice([start..start + BLOCK_TOKENS, 0..self.entry]);
            let data = data.try_into_data().map_err(device_error)?;
            let begun = block.len();
            block.extend_from_slice(data.as_bytes());
            block[begun + filled * self.entry * size_of::<f16>()..].fill(0);
        }
        Ok(block)
    }

    /// Fills a page of every layer from an exported block.
    pub(crate) fn import(&mut self, page: u32, block: &[u8]) {
        let start = page as usize * BLOCK_TOKENS;
        for layer in 0..self.layers.len() {
            let bytes = &block[layer * self.page_bytes()..][..self.page_bytes()];
            let values: Vec<f16> = bytes
                .chunks_exact(size_of::<f16>())
                .map(|pair| f16::from_le_bytes([pair[0], pair[1]]))
                .collect();
            let data = TensorData::new(values, [BLOCK_TOKENS, self.entry]);
            let values = Tensor::<2>::from_data(data, (&self.device, DType::F16));
            let range = [start..start + BLOCK_TOKENS, 0..self.entry];
            let pool = self.take(layer).slice_assign(range, values);
            self.layers[layer] = Some(pool);
        }
    }
}

/// Where the rows of a step go, as the two kinds of device need it.
pub(crate) struct Slots {
    host: Vec<u32>,
    /// `[rows, 1]`
    device: Tensor<2, Int>,
}

impl Slots {
    pub(crate) fn new(slots: Vec<u32>, device: &Device) -> Self {
        Self { device: int_tensor(&slots, device).reshape([slots.len(), 1]), host: slots }
    }
}

pub(crate) fn int_tensor(values: &[u32], device: &Device) -> Tensor<1, Int> {
    let values: Vec<i32> = values.iter().map(|&value| value as i32).collect();
    let count = values.len();
    Tensor::from_data(TensorData::new(values, [count]), (device, DType::I32))
}

pub(crate) fn device_error(error: impl std::fmt::Display) -> StepError {
    StepError::Device { reason: error.to_string() }
}

/// The stock scatter of the CPU backend copies the pool; this writes the rows where they belong.
fn append_in_place(pool: Tensor<2>, entries: Tensor<2>, slots: &[u32], entry: usize) -> Tensor<2> {
    let on_cpu = "a CPU device holds CPU tensors";
    let mut pool = pool.try_into_primitive::<Flex>().expect(on_cpu);
    let entries = entries.try_into_primitive::<Flex>().expect(on_cpu).to_contiguous();
    let rows = entries.as_slice::<f32>().expect("entries are contiguous f32");
    // A shared pool would be copied behind our back, once a layer and step.
    let stored = pool.try_storage_mut::<f16>().expect("nobody else holds the pool");
    for (row, &slot) in rows.chunks_exact(entry).zip(slots) {
        let place = &mut stored[slot as usize * entry..][..entry];
        for (stored, &value) in place.iter_mut().zip(row) {
            *stored = f16::from_f32(value);
        }
    }
    Tensor::from_primitive::<Flex>(pool)
}
