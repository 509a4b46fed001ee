//! Storage types of numbers.

/// Storage of a tensor's values; the quantized ones are ggml's blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(non_camel_case_types, reason = "the names by which these formats are known")]
pub enum DType {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of a single.
    BF16,
    /// 32 values: a half scale and 8-bit integers.
    Q8_0,
    /// 32 values: a half scale and 4-bit integers around 8.
    Q4_0,
    /// 32 values: a half scale, a half minimum and 4-bit integers.
    Q4_1,
    /// 256 values: 8 sub-blocks with 6-bit scales and minima, 4-bit integers.
    Q4_K,
    /// 256 values: 16 sub-blocks with 8-bit scales, 6-bit integers.
    Q6_K,
}

impl DType {
    /// Values in one block; 1 where there are no blocks.
    pub fn block_values(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::BF16 => 1,
            Self::Q8_0 | Self::Q4_0 | Self::Q4_1 => 32,
            Self::Q4_K | Self::Q6_K => 256,
        }
    }

    /// Bytes of one block.
    pub fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::Q8_0 => 34,
            Self::Q4_0 => 18,
            Self::Q4_1 => 20,
            Self::Q4_K => 144,
            Self::Q6_K => 210,
        }
    }

    pub(crate) fn from_ggml(id: u32) -> Option<Self> {
        Some(match id {
            0 => Self::F32,
            1 => Self::F16,
            2 => Self::Q4_0,
            3 => Self::Q4_1,
            8 => Self::Q8_0,
            12 => Self::Q4_K,
            14 => Self::Q6_K,
            30 => Self::BF16,
            _ => return None,
        })
    }

    /// Returns the common name of a format that this crate does not read.
    pub(crate) fn ggml_name(id: u32) -> String {
        let known = [(6, "Q5_0"), (7, "Q5_1"), (10, "Q2_K"), (11, "Q3_K"), (13, "Q5_K")];
        match known.iter().find(|(known, _)| *known == id) {
            Some((_, name)) => format!("ggml type {id} ({name})"),
            None => format!("ggml type {id}"),
        }
    }

    pub(crate) fn ggml_id(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Q4_0 => 2,
            Self::Q4_1 => 3,
            Self::Q8_0 => 8,
            Self::Q4_K => 12,
            Self::Q6_K => 14,
            Self::BF16 => 30,
        }
    }

    /// Bytes of a tensor with `shape`, or nothing when rows do not divide into blocks or the product
    /// overflows.
    pub(crate) fn tensor_bytes(self, shape: &[usize]) -> Option<u64> {
        let columns = *shape.last()?;
        if !columns.is_multiple_of(self.block_values()) {
            return None;
        }
        let values = shape.iter().try_fold(1u64, |product, &n| product.checked_mul(n as u64))?;
        (values / self.block_values() as u64).checked_mul(self.block_bytes() as u64)
    }
}
