//! Serving's operations as CubeCL kernels, on the graphics device of Burn's wgpu runtime.
//!
//! Operations only queue work; `head` waits for it, and reads back nothing but the tokens found, or
//! the rows of logits that were asked for whole. Activations are single precision throughout.

mod append;
mod attend;
mod attend_parts;
pub mod cost;
mod decode;
mod format;
mod gpu;
mod head;
mod kv;
mod linear;
mod rows;
mod step;
mod top;
mod weights;

pub use kv::WgpuKv;
pub use weights::WgpuLinear;

use crate::error::{LoadError, StepError};
use crate::ops::{Attention, KvShape, Norm, ServeOps, Step};
use crate::output::StepOutput;
use append::{HeadNorm, Heads};
use attend::Attended;
use burn::backend::DispatchDevice;
use burn::tensor::{DType, Device};
use burn_cubecl::tensor::CubeTensor;
use gpu::{Gpu, singles};
use head::Logits;
use linear::{Buffers, Extent, Finish, Plan};
use modelfile::TensorData;
use step::Frame;

/// The operations on one graphics device.
pub struct WgpuOps {
    gpu: Gpu,
    /// Cubes that keep the adapter busy.
    cubes: usize,
    /// The fewest columns of a unit.
    least_columns: usize,
    /// Stands where a kernel has no use for a buffer.
    nothing: CubeTensor,
    scratch: WgpuBuffer,
    frame: Option<Frame>,
    /// The most rows of a tile in the last step's attention.
    tile_rows: usize,
}

/// Norm weights on the device.
pub struct WgpuVector(CubeTensor);

/// Activations on the device, `[rows, width]`; grows as it must.
pub struct WgpuBuffer {
    values: CubeTensor,
    room: usize,
    rows: usize,
    width: usize,
}

impl WgpuBuffer {
    fn new(gpu: &Gpu) -> Self {
        Self { values: gpu.empty(1, DType::F32), room: 1, rows: 0, width: 0 }
    }

    fn resize(&mut self, gpu: &Gpu, rows: usize, width: usize) {
        if rows * width > self.room {
            self.room = rows * width;
            self.values = gpu.empty(self.room, DType::F32);
        }
        (self.rows, self.width) = (rows, width);
    }
}

/// The inputs of a linear layer, and the use of its products.
struct Linear<'a> {
    x: &'a CubeTensor,
    rows: usize,
    norm: Option<&'a Norm<WgpuVector>>,
    weight: &'a WgpuLinear,
    finish: Finish,
}

impl WgpuOps {
    /// Operations on `device`, a graphics device.
    pub fn new(device: &Device) -> Result<Self, LoadError> {
        let DispatchDevice::Cube(cube) = device.as_dispatch() else {
            let reason = "not a graphics device".to_owned();
            return Err(LoadError::Device { wanted: format!("{device:?}"), reason });
        };
        let gpu = Gpu::new(cube.clone());
        // Software adapters run a cube on each of a few threads, real ones some hundred at a time.
        let (cubes, least_columns) = if gpu.is_software() { (4, 4) } else { (256, 2) };
        Ok(Self {
            cubes,
            least_columns,
            nothing: gpu.singles(&[0.0]),
            scratch: WgpuBuffer::new(&gpu),
            frame: None,
            tile_rows: 1,
            gpu,
        })
    }

    fn frame(&self) -> &Frame {
        self.frame.as_ref().expect("operations come after begin")
    }

    fn multiply(&self, linear: &Linear, out: &CubeTensor) {
        let WgpuLinear { parts, inputs, outputs, bias } = linear.weight;
        let width = if linear.finish == Finish::Gate { outputs / 2 } else { *outputs };
        let mut first = 0;
        for part in parts {
            let (rows, columns) = self.tile(linear.rows, part.columns);
            let plan = Plan {
                format: part.format,
                rows,
                columns,
                blocks: linear::staged_blocks(rows, *inputs),
                normed: linear.norm.is_some(),
                biased: bias.is_some(),
                finish: linear.finish,
            };
            let buffers = Buffers {
                x: linear.x,
                gain: linear.norm.map_or(&self.nothing, |norm| &norm.weight.0),
                quants: &part.quants,
                scales: &part.scales,
                bias: bias.as_ref().unwrap_or(&self.nothing),
                out,
            };
            let extent = Extent {
                rows: linear.rows,
                inputs: *inputs,
                columns: part.columns,
                width,
                first,
                eps: linear.norm.map_or(0.0, |norm| norm.eps),
            };
            linear::launch(&self.gpu.client, &buffers, extent, plan);
            first += part.columns;
        }
    }

    /// Rows and columns of a unit: as many as leave the adapter enough cubes. No result depends on
    /// them.
    fn tile(&self, rows: usize, columns: usize) -> (usize, usize) {
        let tile_rows = match rows {
            1 => 1,
            2 => 2,
            3 | 4 => 4,
            _ => 8,
        };
        let cubes = |each: usize| rows.div_ceil(tile_rows) * columns.div_ceil(each * linear::LANES);
        let fits = [8, 6, 4].into_iter().find(|&each| cubes(each) >= self.cubes);
        (tile_rows, fits.unwrap_or(self.least_columns))
    }
}

impl ServeOps for WgpuOps {
    type Linear = WgpuLinear;
    type Vector = WgpuVector;
    type Buffer = WgpuBuffer;
    type Kv = WgpuKv;

    fn linear(
        &mut self,
        parts: &[TensorData],
        bias: Option<&[f32]>,
    ) -> Result<WgpuLinear, LoadError> {
        WgpuLinear::new(&self.gpu, parts, bias)
    }

    fn vector(&mut self, values: &[f32]) -> WgpuVector {
        WgpuVector(self.gpu.singles(values))
    }

    fn buffer(&mut self) -> WgpuBuffer {
        WgpuBuffer::new(&self.gpu)
    }

    fn kv(&mut self, shape: KvShape) -> Result<WgpuKv, LoadError> {
        WgpuKv::new(&self.gpu, shape)
    }

    fn begin(&mut self, step: &Step, frequencies: &[f64]) -> Result<(), StepError> {
        self.frame = Some(Frame::new(&self.gpu, step, frequencies, self.tile_rows));
        Ok(())
    }

    fn embed(&mut self, _step: &Step, table: &WgpuLinear, x: &mut WgpuBuffer) {
        let frame = self.frame();
        x.resize(&self.gpu, frame.rows, table.inputs);
        let (client, matrix) = (&self.gpu.client, &table.parts[0]);
        rows::embed(client, &frame.tokens, frame.rows, matrix, table.inputs, &x.values);
    }

    fn norm_linear(
        &mut self,
        x: &WgpuBuffer,
        norm: &Norm<WgpuVector>,
        weight: &WgpuLinear,
        out: &mut WgpuBuffer,
    ) {
        out.resize(&self.gpu, x.rows, weight.outputs);
        let (norm, finish) = (Some(norm), Finish::Store);
        let linear = Linear { x: &x.values, rows: x.rows, norm, weight, finish };
        self.multiply(&linear, &out.values);
    }

    fn attend(
        &mut self,
        step: &Step,
        qkv: &WgpuBuffer,
        attention: &Attention<'_, WgpuVector>,
        kv: &mut WgpuKv,
        out: &mut WgpuBuffer,
    ) {
        let &Attention { heads, kv_heads, head_dim, .. } = attention;
        let heads = Heads { heads, kv_heads, head_dim, normed: attention.head_norms.is_some() };
        let norm = |which: usize| match attention.head_norms {
            Some(norms) => HeadNorm { gain: &norms[which].weight.0, eps: norms[which].eps },
            None => HeadNorm { gain: &self.nothing, eps: 0.0 },
        };
        let frame = self.frame.as_mut().expect("operations come after begin");
        self.tile_rows = attend::tile_rows(heads);
        frame.cut(&self.gpu, step, self.tile_rows);
        out.resize(&self.gpu, frame.rows, heads.heads * head_dim);
        let pages = &kv.layers[attention.layer];
        append::launch(&self.gpu.client, &qkv.values, norm(1), frame, pages, heads);
        let attended = Attended {
            qkv: &qkv.values,
            norm: norm(0),
            kv: pages,
            out: &out.values,
            scale: attention.scale,
            window: attention.window,
        };
        for tiles in &frame.tiles {
            attend::launch(&self.gpu, frame, tiles, &attended, heads);
        }
    }

    fn linear_residual(&mut self, x: &WgpuBuffer, weight: &WgpuLinear, residual: &mut WgpuBuffer) {
        let linear = Linear { x: &x.values, rows: x.rows, norm: None, weight, finish: Finish::Add };
        self.multiply(&linear, &residual.values);
    }

    fn norm_gate_up(
        &mut self,
        x: &WgpuBuffer,
        norm: &Norm<WgpuVector>,
        weight: &WgpuLinear,
        out: &mut WgpuBuffer,
    ) {
        let (rows, width) = (x.rows, weight.outputs / 2);
        out.resize(&self.gpu, rows, width);
        let (x, norm) = (&x.values, Some(norm));
        if weight.parts.len() == 1 {
            let linear = Linear { x, rows, norm, weight, finish: Finish::Gate };
            return self.multiply(&linear, &out.values);
        }
        // Gate and up are stored in two formats: both products first.
        self.scratch.resize(&self.gpu, rows, weight.outputs);
        let linear = Linear { x, rows, norm, weight, finish: Finish::Store };
        self.multiply(&linear, &self.scratch.values);
        rows::gate(&self.gpu.client, &self.scratch.values, &out.values, rows, width);
    }

    fn head(
        &mut self,
        step: &Step,
        x: &WgpuBuffer,
        norm: &Norm<WgpuVector>,
        weight: &WgpuLinear,
        out: &mut StepOutput,
    ) -> Result<(), StepError> {
        if step.wanted.is_empty() {
            // Nothing is read back: wait here, so that errors and time belong to this step.
            return self.gpu.wait();
        }
        let rows = step.wanted.len();
        let wanted = &self.frame().wanted;
        let picked = self.gpu.empty(rows * x.width, DType::F32);
        rows::gather(&self.gpu.client, wanted, rows, &x.values, x.width, &picked);
        let values = self.gpu.empty(rows * weight.outputs, DType::F32);
        let (norm, finish) = (Some(norm), Finish::Store);
        self.multiply(&Linear { x: &picked, rows, norm, weight, finish }, &values);
        let logits =
            Logits { values: &values, words: wanted, vocab: weight.outputs, wanted: &step.wanted };
        logits.read(&self.gpu, out)
    }

    fn export(&mut self, kv: &WgpuKv, page: u32, out: &mut [u8]) -> Result<(), StepError> {
        kv.export(&self.gpu, page, out)
    }

    fn import(&mut self, kv: &mut WgpuKv, page: u32, bytes: &[u8]) -> Result<(), StepError> {
        kv.import(&self.gpu, page, bytes);
        Ok(())
    }

    fn write(&mut self, buffer: &mut WgpuBuffer, width: usize, values: &[f32]) {
        buffer.values = self.gpu.singles(values);
        buffer.room = values.len();
        (buffer.rows, buffer.width) = (values.len() / width, width);
    }

    fn read(&mut self, buffer: &WgpuBuffer) -> Vec<f32> {
        let bytes = self.gpu.read(vec![buffer.values.handle.clone()]);
        let bytes = bytes.expect("the device answers").remove(0);
        singles(&bytes[..buffer.rows * buffer.width * size_of::<f32>()])
    }
}
