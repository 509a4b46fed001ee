//! Bytes that a step must move and operations that it must make, kernel by kernel.
//!
//! These are the least a device can do: every weight and every page read once, every activation read
//! and written once. An adapter's limit is the longer of bytes over its bandwidth and operations over
//! its rate; what a step takes beyond that is ours.

use modelfile::ModelSpec;

/// The work of a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Work {
    /// Tokens computed: the batch of a decode step, the chunk of a prompt.
    pub rows: usize,
    /// Sequences they belong to.
    pub sequences: usize,
    /// Tokens that a row sees, on average.
    pub context: usize,
    /// Rows that the head looks at.
    pub head_rows: usize,
}

/// Bytes of a weight, scales included, on average.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct WeightBytes {
    /// Of the layers' matrices.
    pub layers: f64,
    /// Of the head.
    pub head: f64,
    /// Of the embedding.
    pub embedding: f64,
}

/// One kernel, over all its launches in a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct KernelCost {
    /// Its name in `docs/kernels.md`.
    pub kernel: &'static str,
    /// Number of launches.
    pub launches: usize,
    /// Bytes read and written.
    pub bytes: f64,
    /// Additions and multiplications.
    pub operations: f64,
}

/// Returns the kernels of a step, in the order in which they run.
pub fn step(spec: &ModelSpec, work: Work, weights: WeightBytes) -> Vec<KernelCost> {
    let (rows, layers) = (work.rows as f64, spec.layers);
    let hidden = spec.hidden as f64;
    let (queries, keys) = (spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim);
    let qkv = queries + 2 * keys;
    let linear = |kernel, inputs: usize, outputs: usize, kept: usize| {
        let product = Product { inputs, outputs, written: kept, rows: work.rows };
        product.cost(kernel, layers, weights.layers)
    };
    let head = Product {
        inputs: spec.hidden,
        outputs: spec.vocab,
        written: spec.vocab,
        rows: work.head_rows,
    };
    vec![
        KernelCost {
            kernel: "embed",
            launches: 1,
            bytes: rows * hidden * (weights.embedding + SINGLE),
            operations: 2.0 * rows * hidden,
        },
        linear("norm+qkv", spec.hidden, qkv, qkv),
        append(work, keys, layers),
        attend(spec, work),
        // Residuals are read before they are written.
        linear("output+residual", queries, spec.hidden, 2 * spec.hidden),
        linear("norm+gate+up", spec.hidden, 2 * spec.ffn, spec.ffn),
        linear("down+residual", spec.ffn, spec.hidden, 2 * spec.hidden),
        head.cost("norm+head", usize::from(work.head_rows > 0), weights.head),
    ]
}

/// Adds up the bytes and operations of all kernels.
pub fn total(kernels: &[KernelCost]) -> (f64, f64) {
    kernels.iter().fold((0.0, 0.0), |(bytes, operations), kernel| {
        (bytes + kernel.bytes, operations + kernel.operations)
    })
}

const SINGLE: f64 = size_of::<f32>() as f64;
const HALF: f64 = size_of::<u16>() as f64;

/// A product with a matrix.
struct Product {
    inputs: usize,
    outputs: usize,
    /// Values of a row that leave the kernel, or come to it beside its inputs.
    written: usize,
    rows: usize,
}

impl Product {
    fn cost(&self, kernel: &'static str, launches: usize, weight_bytes: f64) -> KernelCost {
        let weights = (self.inputs * self.outputs) as f64;
        let activations = (self.rows * (self.inputs + self.written)) as f64 * SINGLE;
        KernelCost {
            kernel,
            launches,
            bytes: launches as f64 * (weights * weight_bytes + activations),
            operations: launches as f64 * 2.0 * weights * self.rows as f64,
        }
    }
}

/// Keys and values of the rows, rotated and stored as halves.
fn append(work: Work, keys: usize, layers: usize) -> KernelCost {
    let values = (layers * work.rows * 2 * keys) as f64;
    KernelCost {
        kernel: "rope+append",
        launches: layers,
        bytes: values * (SINGLE + HALF),
        operations: values * 3.0,
    }
}

/// Scores and weighted values: two operations each for every query head and token seen.
fn attend(spec: &ModelSpec, work: Work) -> KernelCost {
    let context = spec.window.map_or(work.context, |window| work.context.min(window));
    let queries = spec.heads * spec.head_dim;
    let pages = (work.sequences * context * 2 * spec.kv_heads * spec.head_dim) as f64 * HALF;
    let activations = (work.rows * 2 * queries) as f64 * SINGLE;
    let layers = spec.layers as f64;
    KernelCost {
        kernel: "attention",
        launches: spec.layers,
        bytes: layers * (pages + activations),
        operations: layers * 4.0 * (work.rows * queries * context) as f64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tinymodel::TinyModel;

    fn spec() -> ModelSpec {
        let directory = tempfile::tempdir().unwrap();
        let file = TinyModel::default().write_gguf(&directory.path().join("tiny.gguf")).unwrap();
        file.spec().clone()
    }

    #[test]
    fn a_decode_step_reads_every_weight_and_every_page_once() {
        let spec = spec();
        let weights = WeightBytes { layers: 0.5, head: 1.0, embedding: 1.0 };
        let work = Work { rows: 3, sequences: 3, context: 40, head_rows: 3 };
        let kernels = step(&spec, work, weights);
        let named = |name| *kernels.iter().find(|kernel| kernel.kernel == name).unwrap();
        let head = named("norm+head");
        assert_eq!(head.operations, (2 * 3 * spec.hidden * spec.vocab) as f64);
        let activations = 4 * 3 * (spec.hidden + spec.vocab);
        assert_eq!(head.bytes, (spec.hidden * spec.vocab + activations) as f64);
        let attention = named("attention");
        let pages = spec.layers * 3 * 40 * 2 * spec.kv_heads * spec.head_dim * 2;
        let activations = spec.layers * 3 * 2 * spec.heads * spec.head_dim * 4;
        assert_eq!(attention.bytes, (pages + activations) as f64);
        let (bytes, operations) = total(&kernels);
        assert!(bytes > head.bytes + attention.bytes && operations > head.operations);
    }

    #[test]
    fn more_rows_share_the_weights() {
        let spec = spec();
        let weights = WeightBytes { layers: 0.5, head: 1.0, embedding: 1.0 };
        let at = |rows| {
            let work = Work { rows, sequences: rows, context: 16, head_rows: rows };
            total(&step(&spec, work, weights))
        };
        let ((bytes, operations), (bytes_many, operations_many)) = (at(1), at(8));
        assert_eq!(operations_many, 8.0 * operations);
        assert!(bytes_many < 8.0 * bytes);
    }
}
