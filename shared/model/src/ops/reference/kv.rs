//! The paged pool of keys and values: one tensor a layer, written in place.

use burn::backend::Flex;
use burn::tensor::{DType, Device, IndexingUpdateOp, Int, Tensor, TensorData};
use half::f16;
use protocol::BLOCK_TOKENS;

use super::device_error;
use crate::error::{LoadError, StepError};
use crate::ops::KvShape;

const PUT_BACK: &str = "every operation puts the layer back";

/// Pool of all layers, pages laid out as [`KvShape`] says.
pub struct KvPool {
    /// `[pages, 2 * half_values]`, f16; absent only while an operation holds it.
    layers: Vec<Option<Tensor<2>>>,
    shape: KvShape,
    is_cpu: bool,
}

/// The slots of a step's rows: a page and a slot in it for each.
pub(super) struct Slots {
    pub(super) places: Vec<(u32, usize)>,
    /// Places of all their values in a layer of the pool, `[values, 1]`, once a layer needed them.
    device: Option<Tensor<2, Int>>,
}

impl Slots {
    pub(super) fn new(places: Vec<(u32, usize)>) -> Self {
        Self { places, device: None }
    }

    fn on_device(&mut self, shape: &KvShape, device: &Device) -> Tensor<2, Int> {
        let index = || {
            let indices: Vec<i32> = self
                .places
                .iter()
                .flat_map(|&(page, token)| entry_indices(shape, page, token))
                .map(|index| index as i32)
                .collect();
            let data = TensorData::new(indices.clone(), [indices.len(), 1]);
            Tensor::from_data(data, (device, DType::I32))
        };
        self.device.get_or_insert_with(index).clone()
    }
}

/// Returns the indices of a token's keys of all heads, then of its values, in a layer of the pool.
fn entry_indices(shape: &KvShape, page: u32, token: usize) -> impl Iterator<Item = usize> {
    let (half, head_dim) = (shape.half_values(), shape.head_dim);
    let start = page as usize * 2 * half;
    let width = shape.kv_heads * head_dim;
    let keys = (0..width).map(move |element| start + element * BLOCK_TOKENS + token);
    let values = (0..width).map(move |element| {
        let (head, within) = (element / head_dim, element % head_dim);
        start + half + (head * BLOCK_TOKENS + token) * head_dim + within
    });
    keys.chain(values)
}

impl KvPool {
    pub(super) fn new(shape: KvShape, device: &Device, is_cpu: bool) -> Result<Self, LoadError> {
        let page_values = 2 * shape.half_values();
        if shape.pages.checked_mul(page_values).is_none_or(|values| i32::try_from(values).is_err())
        {
            let wanted = "so few that a layer has below 2^31 values";
            return Err(LoadError::Limits { field: "kv_pages", value: shape.pages, wanted });
        }
        let layers = (0..shape.layers)
            .map(|_| Some(Tensor::zeros([shape.pages, page_values], (device, DType::F16))));
        Ok(Self { layers: layers.collect(), shape, is_cpu })
    }

    fn take(&mut self, layer: usize) -> Tensor<2> {
        self.layers[layer].take().expect(PUT_BACK)
    }

    /// Stores the keys and values of new tokens.
    ///
    /// # Shapes
    /// - `entries`: `[rows, 2 * kv_heads * head_dim]`, f32, keys first
    pub(super) fn append(&mut self, layer: usize, entries: Tensor<2>, slots: &mut Slots) {
        let pool = self.take(layer);
        let pool = if self.is_cpu {
            append_in_place(pool, entries, &slots.places, &self.shape)
        } else {
            let ([pages, width], [rows, entry]) = (pool.dims(), entries.dims());
            let indices = slots.on_device(&self.shape, &pool.device());
            pool.reshape([pages * width])
                .scatter_nd(
                    indices,
                    entries.reshape([rows * entry]).cast(DType::F16),
                    IndexingUpdateOp::Assign,
                )
                .reshape([pages, width])
        };
        self.layers[layer] = Some(pool);
    }

    /// Copies whole pages out, in single precision.
    ///
    /// # Shapes
    /// - returns `[pages.len(), 2 * half_values]`
    pub(super) fn gather(&self, layer: usize, pages: &Tensor<1, Int>) -> Tensor<2> {
        let pool = self.layers[layer].as_ref().expect(PUT_BACK);
        pool.clone().select(0, pages.clone()).cast(DType::F32)
    }

    /// Copies all layers' part of a page out.
    pub(super) fn export(&self, page: usize, out: &mut [u8]) -> Result<(), StepError> {
        let width = 2 * self.shape.half_values();
        for (layer, out) in self.layers.iter().zip(out.chunks_exact_mut(width * 2)) {
            let pool = layer.as_ref().expect(PUT_BACK);
            let data = pool.clone().slice([page..page + 1, 0..width]);
            out.copy_from_slice(data.try_into_data().map_err(device_error)?.as_bytes());
        }
        Ok(())
    }

    /// Fills a page of every layer.
    pub(super) fn import(&mut self, page: usize, bytes: &[u8], device: &Device) {
        let width = 2 * self.shape.half_values();
        for (layer, bytes) in bytes.chunks_exact(width * size_of::<f16>()).enumerate() {
            let values: Vec<f16> =
                bytes.as_chunks().0.iter().map(|pair| f16::from_le_bytes(*pair)).collect();
            let data = TensorData::new(values, [1, width]);
            let values = Tensor::<2>::from_data(data, (device, DType::F16));
            let pool = self.take(layer).slice_assign([page..page + 1, 0..width], values);
            self.layers[layer] = Some(pool);
        }
    }
}

/// Writes the values in place; the stock scatter of the CPU backend copies the pool.
fn append_in_place(
    pool: Tensor<2>,
    entries: Tensor<2>,
    places: &[(u32, usize)],
    shape: &KvShape,
) -> Tensor<2> {
    let on_cpu = "a CPU device holds CPU tensors";
    let mut pool = pool.try_into_primitive::<Flex>().expect(on_cpu);
    let entries = entries.try_into_primitive::<Flex>().expect(on_cpu).to_contiguous();
    let rows = entries.as_slice::<f32>().expect("entries are contiguous f32");
    // A shared pool would be copied behind our back, once a layer and step.
    let stored = pool.try_storage_mut::<f16>().expect("the pool is not shared");
    let entry = 2 * shape.kv_heads * shape.head_dim;
    for (row, &(page, token)) in rows.chunks_exact(entry).zip(places) {
        for (index, &value) in entry_indices(shape, page, token).zip(row) {
            stored[index] = f16::from_f32(value);
        }
    }
    Tensor::from_primitive::<Flex>(pool)
}
