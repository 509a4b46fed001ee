//! A loaded model: one mixed step at a time, blocks out and in.

use crate::attention::{AttentionPlan, Rope};
use crate::batch::{Batch, BatchSequence};
use crate::device::{DeviceChoice, Placement, ResolvedDevice};
use crate::error::{LoadError, StepError};
use crate::kv::{KvPool, device_error};
use crate::llama::Llama;
use crate::load::Loader;
use crate::output::StepOutput;
use crate::{BLOCK_TOKENS, Wanted, kv, sampling};
use burn::tensor::{DType, Tensor, TensorData};
use modelfile::{ModelFile, ModelFileError, ModelSpec};

/// What a model may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModelLimits {
    /// Pages in the KV pool.
    pub kv_pages: usize,
    /// Threads of the CPU device.
    pub threads: usize,
}

/// The layers of a family.
pub(crate) trait Decoder: Send {
    /// # Shapes
    /// - `x`: `[rows, hidden]`, embeddings
    /// - returns `[rows, hidden]`
    fn hidden(&self, x: Tensor<2>, plan: &AttentionPlan, kv: &mut KvPool) -> Tensor<2>;

    /// # Shapes
    /// - `x`: `[rows, hidden]`
    /// - returns `[rows, vocab]`
    fn logits(&self, x: Tensor<2>) -> Tensor<2>;
}

/// A model on a device, with its KV pool; one thread owns it.
pub struct Model {
    spec: ModelSpec,
    placement: Placement,
    /// `[vocab, hidden]` as the file stores it; rows are decoded when they are looked up.
    embedding: modelfile::TensorData,
    decoder: Box<dyn Decoder>,
    kv: KvPool,
    rope: Rope,
    /// Present on the CPU device, whose operations run on the threads of the pool they start in.
    threads: Option<rayon::ThreadPool>,
}

impl Model {
    /// Loads `file` onto the device chosen; `progress` is told the share that is done.
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
        let loader = Loader { file, device: &placement.device, is_cpu: placement.is_cpu };
        if spec.window.is_some() || spec.qkv_bias || spec.head_norms {
            let what = format!("layers of a {} model", spec.family);
            return Err(ModelFileError::Unsupported { what }.into());
        }
        let decoder = Box::new(Llama::load(&loader, progress)?);
        let threads = if placement.is_cpu { Some(start_threads(limits.threads)?) } else { None };
        Ok(Self {
            embedding: file.tensor("token_embd.weight")?,
            kv: KvPool::new(&spec, limits.kv_pages, &placement),
            rope: Rope::new(&spec),
            decoder,
            placement,
            spec,
            threads,
        })
    }

    /// Sizes and constants of the model.
    pub fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    /// The device in use.
    pub fn device(&self) -> &ResolvedDevice {
        &self.placement.resolved
    }

    /// How the bytes of a block are arranged; two models exchange blocks only if these are equal.
    pub fn kv_layout(&self) -> String {
        let ModelSpec { layers, kv_heads, head_dim, .. } = self.spec;
        format!("f16/b{BLOCK_TOKENS}/l{layers}/kv{kv_heads}/d{head_dim}/layer-token-kv-head-dim")
    }

    /// Bytes of one block: 16 tokens in all layers.
    pub fn block_bytes(&self) -> usize {
        self.kv.block_bytes()
    }

    /// Pages in the pool.
    pub fn pages(&self) -> usize {
        self.kv.pages()
    }

    /// Makes one step: every sequence's tokens are computed, their K and V stored in its pages, and
    /// what it wants told in `out`, in the order of `batch`.
    pub fn forward(
        &mut self,
        batch: &[BatchSequence],
        out: &mut StepOutput,
    ) -> Result<(), StepError> {
        out.clear(self.spec.vocab);
        let mut prepared = Batch::new(batch, &self.spec, self.kv.pages())?;
        if prepared.tokens.is_empty() {
            return Ok(());
        }
        let rows = match self.threads.take() {
            Some(threads) => {
                let rows = threads.install(|| self.compute(&mut prepared));
                self.threads = Some(threads);
                rows?
            }
            None => self.compute(&mut prepared)?,
        };
        let mut rows = rows.chunks_exact(self.spec.vocab);
        for (sequence, &count) in batch.iter().zip(&prepared.wanted_each) {
            for row in rows.by_ref().take(count) {
                match sequence.logits {
                    Wanted::Top(top) => out.push_top(&sampling::top(row, top)),
                    _ => out.push_whole().copy_from_slice(row),
                }
            }
            out.end_sequence(count);
        }
        Ok(())
    }

    /// The wanted rows of logits, one after the other.
    fn compute(&mut self, batch: &mut Batch) -> Result<Vec<f32>, StepError> {
        let device = &self.placement.device;
        let plan = AttentionPlan::new(batch, &self.spec, &self.rope, &self.placement);
        let embedded = batch.tokens.iter().flat_map(|&token| {
            self.embedding.row_to_f32(token as usize).expect("tokens were checked")
        });
        let shape = [batch.tokens.len(), self.spec.hidden];
        let data = TensorData::new(embedded.collect::<Vec<f32>>(), shape);
        let x = Tensor::from_data(data, (device, DType::F32));
        let x = self.decoder.hidden(x, &plan, &mut self.kv);
        if batch.wanted.is_empty() {
            // Nothing is read back: wait here, so that errors and time belong to this step.
            device.sync().map_err(device_error)?;
            return Ok(Vec::new());
        }
        let wanted: Vec<u32> = batch.wanted.iter().map(|&row| row as u32).collect();
        let x = x.select(0, kv::int_tensor(&wanted, device));
        let data = self.decoder.logits(x).try_into_data().map_err(device_error)?;
        data.try_into_vec().map_err(|error| StepError::Device { reason: format!("{error:?}") })
    }

    /// The block in `page`; entries from `filled` on are zeros, so that its bytes depend on nothing
    /// but its tokens.
    pub fn export_block(&mut self, page: u32, filled: u32) -> Result<Vec<u8>, StepError> {
        self.check_page(page)?;
        if !(1..=BLOCK_TOKENS).contains(&(filled as usize)) {
            return Err(StepError::Filled { filled });
        }
        self.kv.export(page, filled as usize)
    }

    /// Puts an exported block into `page`.
    pub fn import_block(&mut self, page: u32, bytes: &[u8]) -> Result<(), StepError> {
        self.check_page(page)?;
        let wanted = self.block_bytes();
        if bytes.len() != wanted {
            return Err(StepError::BlockBytes { wanted, given: bytes.len() });
        }
        self.kv.import(page, bytes);
        Ok(())
    }

    fn check_page(&self, page: u32) -> Result<(), StepError> {
        let pages = self.kv.pages();
        if (page as usize) < pages { Ok(()) } else { Err(StepError::UnknownPage { page, pages }) }
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

fn start_threads(threads: usize) -> Result<rayon::ThreadPool, LoadError> {
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .thread_name(|index| format!("model-{index}"))
        .build()
        .map_err(|error| LoadError::Threads { threads, reason: error.to_string() })
}
