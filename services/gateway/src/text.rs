//! Text: chat templates, the vocabulary, detokenization, stop strings.

pub(crate) mod assembler;
mod detokenize;
pub(crate) mod model;
pub(crate) mod stop;
pub(crate) mod template;
pub(crate) mod vocabulary;

pub use model::{TextModel, TextModelParts};
pub use vocabulary::Vocabulary;
