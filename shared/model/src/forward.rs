//! A loaded model: one mixed step at a time, blocks out and in.

use crate::activations::{ActivationsChoice, ResolvedActivations};
use crate::batch::{BatchSequence, StepBuilder};
use crate::decoder::{Decoder, Runner, kv_shape};
use crate::device::{DeviceChoice, Placement, ResolvedDevice, Target};
use crate::error::{LoadError, StepError};
use crate::isa::IsaChoice;
use crate::ops::KvShape;
use crate::ops::cpu::CpuOps;
#[cfg(feature = "reference")]
use crate::ops::reference::ReferenceOps;
#[cfg(feature = "wgpu")]
use crate::ops::wgpu::WgpuOps;
use crate::output::{StepOutput, Wanted};
use modelfile::{ModelFile, ModelSpec};
use protocol::BLOCK_TOKENS;

/// Version of the numbers in KV blocks. It is raised with every change to a kernel or to a layout
/// that gives the same tokens other KV: blocks of two versions never mix.
const KV_VERSION: u32 = 2;

/// Limits and choices for a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModelLimits {
    /// Pages in the KV pool.
    pub kv_pages: usize,
    /// Threads of the CPU device.
    pub threads: usize,
    /// Instructions of the CPU device.
    pub isa: IsaChoice,
    /// Precision to which the CPU device rounds the inputs of quantized layers.
    pub activations: ActivationsChoice,
}

/// A model on a device, with its KV pool; one thread owns it.
pub struct Model {
    spec: ModelSpec,
    device: ResolvedDevice,
    /// Set on the CPU device.
    activations: Option<ResolvedActivations>,
    shape: KvShape,
    steps: StepBuilder,
    runner: Box<dyn Runner>,
}

impl Model {
    /// Loads `file` onto the chosen device; `progress` gets the share that is done.
    pub fn load(
        file: &ModelFile,
        device: &DeviceChoice,
        limits: &ModelLimits,
        progress: &mut dyn FnMut(f32),
    ) -> Result<Self, LoadError> {
        check_limits(limits)?;
        let placement = device.place()?;
        let ResolvedDevice { name, reason } = &placement.resolved;
        tracing::info!(model = file.name(), device = name, reason, "load model");
        let spec = file.spec().clone();
        let mut device = placement.resolved.clone();
        let activations = matches!(placement.target, Target::Cpu)
            .then(|| limits.activations.resolve(file.parameters()));
        if let Some(ResolvedActivations { precision, .. }) = &activations {
            device.name = format!("{} {precision}", device.name);
        }
        Ok(Self {
            runner: load_runner(file, placement, limits, progress)?,
            activations,
            shape: kv_shape(&spec, limits.kv_pages),
            steps: StepBuilder::new(limits.kv_pages),
            spec,
            device,
        })
    }

    /// Returns the sizes and constants of the model.
    pub fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    /// Returns the device in use.
    pub fn device(&self) -> &ResolvedDevice {
        &self.device
    }

    /// Returns the precision of the inputs of quantized layers, on the CPU device.
    pub fn activations(&self) -> Option<&ResolvedActivations> {
        self.activations.as_ref()
    }

    /// Describes the numbers and the layout of a block. Two models exchange blocks only if these are
    /// equal: KV computed in another precision differs, and answers from it would, too.
    pub fn kv_format(&self) -> String {
        let KvShape { layers, kv_heads, head_dim, .. } = self.shape;
        let computed = match &self.activations {
            Some(activations) => activations.precision.to_string(),
            None => "f32".to_owned(),
        };
        format!(
            "v{KV_VERSION}/{computed}/f16/b{BLOCK_TOKENS}/l{layers}/kv{kv_heads}/d{head_dim}/layer-khdt-vhtd"
        )
    }

    /// Returns the bytes of one block: 16 tokens in all layers.
    pub fn block_bytes(&self) -> usize {
        self.shape.block_bytes()
    }

    /// Returns the number of pages in the pool.
    pub fn pages(&self) -> usize {
        self.shape.pages
    }

    /// Makes one step: every sequence's tokens are computed, their K and V stored in its pages, and
    /// its wanted results written to `out`, in the order of `batch`.
    pub fn forward(
        &mut self,
        batch: &[BatchSequence],
        out: &mut StepOutput,
    ) -> Result<(), StepError> {
        out.clear(self.spec.vocab);
        let step = self.steps.build(batch, &self.spec)?;
        if step.rows() == 0 {
            return Ok(());
        }
        self.runner.step(step, out)?;
        for sequence in batch {
            out.end_sequence(match sequence.logits {
                Wanted::None => 0,
                Wanted::Top(_) | Wanted::Last => 1,
                Wanted::All => sequence.tokens.len(),
            });
        }
        Ok(())
    }

    /// Returns the block in `page`; entries from `filled` on are zeros, so that its bytes depend on nothing
    /// but its tokens.
    pub fn export_block(&mut self, page: u32, filled: u32) -> Result<Vec<u8>, StepError> {
        self.check_page(page)?;
        let tokens = filled as usize;
        if !(1..=BLOCK_TOKENS).contains(&tokens) {
            return Err(StepError::Filled { filled });
        }
        let mut block = vec![0; self.block_bytes()];
        self.runner.export(page, &mut block)?;
        if tokens < BLOCK_TOKENS {
            clear_from(&mut block, tokens, &self.shape);
        }
        Ok(block)
    }

    /// Puts an exported block into `page`.
    pub fn import_block(&mut self, page: u32, bytes: &[u8]) -> Result<(), StepError> {
        self.check_page(page)?;
        let wanted = self.block_bytes();
        if bytes.len() != wanted {
            return Err(StepError::BlockBytes { wanted, given: bytes.len() });
        }
        self.runner.import(page, bytes)
    }

    fn check_page(&self, page: u32) -> Result<(), StepError> {
        let pages = self.pages();
        if (page as usize) < pages { Ok(()) } else { Err(StepError::UnknownPage { page, pages }) }
    }
}

/// Makes the keys and values of all tokens from `first` on zero.
fn clear_from(block: &mut [u8], first: usize, shape: &KvShape) {
    const VALUE: usize = size_of::<u16>();
    let half = shape.half_values() * VALUE;
    for layer in block.chunks_exact_mut(2 * half) {
        let (keys, values) = layer.split_at_mut(half);
        for element in keys.chunks_exact_mut(BLOCK_TOKENS * VALUE) {
            element[first * VALUE..].fill(0);
        }
        let token_bytes = shape.head_dim * VALUE;
        for head in values.chunks_exact_mut(BLOCK_TOKENS * token_bytes) {
            head[first * token_bytes..].fill(0);
        }
    }
}

fn load_runner(
    file: &ModelFile,
    placement: Placement,
    limits: &ModelLimits,
    progress: &mut dyn FnMut(f32),
) -> Result<Box<dyn Runner>, LoadError> {
    let pages = limits.kv_pages;
    match placement.target {
        Target::Cpu => {
            let isa = limits.isa.isa();
            let ResolvedActivations { precision, reason } =
                limits.activations.resolve(file.parameters());
            tracing::info!(
                %isa,
                activations = %precision,
                reason,
                threads = limits.threads,
                "compute with the CPU's kernels"
            );
            let ops = CpuOps::new(limits.threads, isa, precision)?;
            Ok(Box::new(Decoder::load(file, ops, pages, progress)?))
        }
        #[cfg(feature = "wgpu")]
        Target::Wgpu(device) => {
            let ops = WgpuOps::new(&device)?;
            Ok(Box::new(Decoder::load(file, ops, pages, progress)?))
        }
        #[cfg(feature = "reference")]
        Target::ReferenceCpu => {
            let runner = Decoder::load(file, ReferenceOps::on_cpu(), pages, progress)?;
            let threads = reference_threads(limits.threads)?;
            Ok(Box::new(crate::decoder::InPool { threads, runner }))
        }
        #[cfg(all(feature = "reference", feature = "wgpu"))]
        Target::ReferenceWgpu(device) => {
            let runner = Decoder::load(file, ReferenceOps::on(device), pages, progress)?;
            Ok(Box::new(runner))
        }
    }
}

fn check_limits(limits: &ModelLimits) -> Result<(), LoadError> {
    let refuse = |field, value, wanted| Err(LoadError::Limits { field, value, wanted });
    match limits {
        ModelLimits { kv_pages: 0, .. } => refuse("kv_pages", 0, "1 or more"),
        ModelLimits { threads: 0, .. } => refuse("threads", 0, "1 or more"),
        ModelLimits { kv_pages, .. } if *kv_pages > (i32::MAX as usize) / BLOCK_TOKENS => {
            refuse("kv_pages", *kv_pages, "below 2^27")
        }
        _ => Ok(()),
    }
}

#[cfg(feature = "reference")]
fn reference_threads(threads: usize) -> Result<rayon::ThreadPool, LoadError> {
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .thread_name(|index| format!("model-{index}"))
        .build()
        .map_err(|error| LoadError::Threads { threads, reason: error.to_string() })
}
