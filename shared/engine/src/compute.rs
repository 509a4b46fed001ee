//! The interface of a model to the step loop; tests and simulated models implement it too.

use model::{BatchSequence, Model, StepOutput};

/// A step or a block transfer that failed.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ComputeError(pub String);

/// A model with its KV pages, owned by one thread.
pub trait Compute: 'static {
    /// Computes one mixed batch; `out` gets the logits that each sequence asks for, in the order of the batch.
    fn forward(
        &mut self,
        batch: &[BatchSequence<'_>],
        out: &mut StepOutput,
    ) -> Result<(), ComputeError>;
    /// Copies the first `filled` tokens of a page out; the rest of the block is zero.
    fn export_block(&mut self, page: u32, filled: u32) -> Result<Vec<u8>, ComputeError>;
    /// Copies a block into a page.
    fn import_block(&mut self, page: u32, bytes: &[u8]) -> Result<(), ComputeError>;
}

impl Compute for Model {
    fn forward(
        &mut self,
        batch: &[BatchSequence<'_>],
        out: &mut StepOutput,
    ) -> Result<(), ComputeError> {
        Model::forward(self, batch, out).map_err(|error| ComputeError(error.to_string()))
    }

    fn export_block(&mut self, page: u32, filled: u32) -> Result<Vec<u8>, ComputeError> {
        Model::export_block(self, page, filled).map_err(|error| ComputeError(error.to_string()))
    }

    fn import_block(&mut self, page: u32, bytes: &[u8]) -> Result<(), ComputeError> {
        Model::import_block(self, page, bytes).map_err(|error| ComputeError(error.to_string()))
    }
}
