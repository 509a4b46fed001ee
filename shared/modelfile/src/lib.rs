//! Reads model files: GGUF, or safetensors with their JSON companions.
//!
//! **Invariant**: nothing in a file is trusted. Every count and length is checked against the size
//! of the file before memory is asked for, every tensor against its neighbors and against the shape
//! the model's family needs; what does not fit is an error that names the tensor or the field.

mod companion;
mod dtype;
mod error;
mod families;
mod file;
mod gguf;
mod quant;
mod quantize;
mod reader;
mod safetensors;
mod sampling;
mod shards;
mod spec;
mod split;
mod table;
mod tensor;
mod tokenizer;
mod tokenizer_gguf;
mod value;
mod words;
pub mod write;

pub use dtype::DType;
pub use error::ModelFileError;
pub use file::ModelFile;
pub use sampling::SamplingDefaults;
pub use spec::{Family, ModelSpec, RopePairs, SpecialTokens};
pub use split::gguf_part_names;
pub use tensor::TensorData;
pub use tokenizer::{Tokenizer, byte_alphabet};
