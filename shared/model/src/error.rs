//! Reasons why a model was not loaded, or a step not made.

use modelfile::ModelFileError;

/// The reason why a model could not be loaded onto a device.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file is damaged or asks for something unknown.
    #[error("read the model file")]
    File(#[from] ModelFileError),
    /// The device asked for is not there.
    #[error("device {wanted}: {reason}")]
    Device {
        /// The configured device.
        wanted: String,
        /// The reason, with the devices found.
        reason: String,
    },
    /// The limits leave no room to run.
    #[error("{field} is {value}, not {wanted}")]
    Limits {
        /// Name of the limit.
        field: &'static str,
        /// Its value.
        value: usize,
        /// Expected range.
        wanted: &'static str,
    },
    /// A weight cannot be packed for the CPU.
    #[error("pack a weight")]
    Pack(#[from] kernels::PackError),
    /// The CPU kernels could not be set up.
    #[error("set up the CPU")]
    Cpu(#[from] kernels::SetupError),
    /// The threads of the CPU device could not be started.
    #[error("start {threads} threads: {reason}")]
    Threads {
        /// Number of threads.
        threads: usize,
        /// The system's error.
        reason: String,
    },
}

/// The reason why a step, an export or an import was not made; nothing was changed unless it says
/// so.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// A sequence of the batch has no tokens.
    #[error("sequence {sequence} has no tokens")]
    NoTokens {
        /// Its index in the batch.
        sequence: usize,
    },
    /// A token is not in the vocabulary.
    #[error("sequence {sequence} has token {token}, the vocabulary {vocab}")]
    UnknownToken {
        /// Its index in the batch.
        sequence: usize,
        /// The token.
        token: u32,
        /// Size of the vocabulary.
        vocab: usize,
    },
    /// A sequence wants the most likely tokens, but not one of them.
    #[error("sequence {sequence} wants the 0 most likely tokens, not 1 or more")]
    NothingWanted {
        /// Its index in the batch.
        sequence: usize,
    },
    /// The block table does not reach the last token.
    #[error("sequence {sequence} needs {needed} pages, has {given}")]
    TooFewPages {
        /// Its index in the batch.
        sequence: usize,
        /// Pages that its tokens fill.
        needed: usize,
        /// Pages in its table.
        given: usize,
    },
    /// A page lies outside the pool.
    #[error("page {page} is outside the pool of {pages}")]
    UnknownPage {
        /// The page.
        page: u32,
        /// Pages in the pool.
        pages: usize,
    },
    /// The sequence would grow beyond what the model was trained for.
    #[error("sequence {sequence} would reach {tokens} tokens, the context is {context}")]
    TooLong {
        /// Its index in the batch.
        sequence: usize,
        /// Its length after the step.
        tokens: usize,
        /// Longest context of the model.
        context: usize,
    },
    /// Two tokens of the batch would be stored in one place.
    #[error("page {page} is written by two sequences of the batch")]
    SharedPage {
        /// The page.
        page: u32,
    },
    /// A block to import does not have the bytes of a block.
    #[error("block has {given} bytes, not {wanted}")]
    BlockBytes {
        /// Bytes of a block of this model.
        wanted: usize,
        /// Bytes given.
        given: usize,
    },
    /// A page cannot be filled that far.
    #[error("{filled} tokens filled of a page of 16")]
    Filled {
        /// Tokens said to be filled.
        filled: u32,
    },
    /// The device failed; pages written by this step hold anything.
    #[error("device: {reason}")]
    Device {
        /// Its message.
        reason: String,
    },
}
