//! The paged KV of all layers.

use crate::memory::Aligned;
use half::f16;

/// Tokens in a page.
pub const PAGE_TOKENS: usize = 16;

/// Sizes of a KV pool, and how KV lies in its pages: the same on every device, and therefore on the
/// wire.
///
/// A page holds, for each layer, keys `[kv_heads][head_dim][16]` and then values
/// `[kv_heads][16][head_dim]`, all f16 little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvShape {
    /// Layers.
    pub layers: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Pages in the pool.
    pub pages: usize,
}

impl KvShape {
    /// Returns the values of one head's keys, or values, in a page.
    pub(crate) fn head_values(&self) -> usize {
        self.head_dim * PAGE_TOKENS
    }

    /// Returns the values of a layer's keys, or values, in a page.
    pub fn half_values(&self) -> usize {
        self.kv_heads * self.head_values()
    }

    /// Returns the start of a layer's part of a page.
    pub(crate) fn start(&self, layer: usize, page: usize) -> usize {
        (layer * self.pages + page) * 2 * self.half_values()
    }

    /// Returns the bytes of a page over all layers: a block on the wire.
    pub fn block_bytes(&self) -> usize {
        self.layers * 2 * self.half_values() * size_of::<u16>()
    }
}

/// Keys and values of all layers and pages.
pub struct Kv {
    shape: KvShape,
    pub(crate) data: Aligned<u16>,
}

impl Kv {
    /// Returns a pool of zeros.
    pub fn new(shape: KvShape) -> Self {
        Self { shape, data: Aligned::zeroed(shape.layers * shape.pages * 2 * shape.half_values()) }
    }

    /// Its sizes.
    pub fn shape(&self) -> KvShape {
        self.shape
    }

    fn start(&self, layer: usize, page: usize) -> usize {
        self.shape.start(layer, page)
    }

    /// Copies a page out, as little-endian bytes.
    ///
    /// # Panics
    /// Panics if there is no such page, or `out` has another length than [`KvShape::block_bytes`].
    pub fn export(&self, page: usize, out: &mut [u8]) {
        assert!(page < self.shape.pages, "the page is in the pool");
        assert_eq!(out.len(), self.shape.block_bytes(), "a page is copied whole");
        let values = 2 * self.shape.half_values();
        for (layer, out) in out.chunks_exact_mut(values * 2).enumerate() {
            let part = &self.data.as_slice()[self.start(layer, page)..][..values];
            for (out, value) in out.as_chunks_mut().0.iter_mut().zip(part) {
                *out = value.to_le_bytes();
            }
        }
    }

    /// Copies a page in.
    ///
    /// # Panics
    /// Panics as [`Kv::export`] does.
    pub fn import(&mut self, page: usize, bytes: &[u8]) {
        assert!(page < self.shape.pages, "the page is in the pool");
        assert_eq!(bytes.len(), self.shape.block_bytes(), "a page is copied whole");
        let values = 2 * self.shape.half_values();
        for (layer, bytes) in bytes.chunks_exact(values * 2).enumerate() {
            let start = self.start(layer, page);
            let part = &mut self.data.as_mut_slice()[start..][..values];
            for (value, bytes) in part.iter_mut().zip(bytes.as_chunks().0) {
                *value = u16::from_le_bytes(*bytes);
            }
        }
    }

    /// Returns a value of a page, for tests.
    pub fn value(&self, layer: usize, page: usize, index: usize) -> f32 {
        f16::from_bits(self.data.as_slice()[self.start(layer, page) + index]).to_f32()
    }
}
