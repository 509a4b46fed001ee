//! Figures of samples: windows, intervals, expected cache hits.

pub mod expected;
pub mod intervals;
pub mod wilson;
pub mod windows;
