//! The operations in stock Burn, single precision, on any device: slow, and what the others are
//! compared with.

mod attention;
mod groups;
mod kv;
mod linear;
mod plan;

use super::{Attention, KvShape, Norm, ServeOps, Step};
use crate::error::{LoadError, StepError};
use crate::output::StepOutput;
use crate::sampling;
use burn::tensor::activation::silu;
use burn::tensor::{DType, Device, Int, Tensor};
use kv::KvPool;
use linear::Linear;
use modelfile::TensorData;
use plan::Plan;

/// Stock Burn operations on one device.
pub struct ReferenceOps {
    device: Device,
    is_cpu: bool,
    plan: Option<Plan>,
}

/// A weight vector, `[1, width]`.
pub struct Vector(Tensor<2>);

/// Activations; nothing until an operation writes them.
#[derive(Default)]
pub struct Buffer(Option<Tensor<2>>);

impl Buffer {
    fn tensor(&self) -> Tensor<2> {
        self.0.clone().expect("an operation wrote the buffer before another reads it")
    }

    fn set(&mut self, tensor: Tensor<2>) {
        self.0 = Some(tensor);
    }
}

impl ReferenceOps {
    /// Returns the operations on the CPU.
    pub fn on_cpu() -> Self {
        Self { device: Device::flex(), is_cpu: true, plan: None }
    }

    /// Returns the operations on a graphics device.
    #[cfg(feature = "wgpu")]
    pub fn on(device: Device) -> Self {
        Self { device, is_cpu: false, plan: None }
    }
}

/// # Shapes
/// - `x`: `[rows, width]`
/// - returns `[rows, width]`
fn rms_norm(x: Tensor<2>, norm: &Norm<Vector>) -> Tensor<2> {
    let mean_square = x.clone().mul(x.clone()).mean_dim(1);
    x.div(mean_square.add_scalar(norm.eps).sqrt()).mul(norm.weight.0.clone())
}

fn device_error(error: impl std::fmt::Debug) -> StepError {
    StepError::Device { reason: format!("{error:?}") }
}

fn int_tensor(values: &[u32], device: &Device) -> Tensor<1, Int> {
    let values: Vec<i32> = values.iter().map(|&value| value as i32).collect();
    let count = values.len();
    Tensor::from_data(burn::tensor::TensorData::new(values, [count]), (device, DType::I32))
}

impl ServeOps for ReferenceOps {
    type Linear = Linear;
    type Vector = Vector;
    type Buffer = Buffer;
    type Kv = KvPool;

    fn linear(
        &mut self,
        parts: &[TensorData],
        bias: Option<&[f32]>,
    ) -> Result<Self::Linear, LoadError> {
        Ok(Linear::new(parts, bias, &self.device, self.is_cpu))
    }

    fn vector(&mut self, values: &[f32]) -> Self::Vector {
        let mut buffer = Buffer::default();
        self.write(&mut buffer, values.len(), values);
        Vector(buffer.tensor())
    }

    fn buffer(&mut self) -> Self::Buffer {
        Buffer::default()
    }

    fn kv(&mut self, shape: KvShape) -> Result<Self::Kv, LoadError> {
        KvPool::new(shape, &self.device, self.is_cpu)
    }

    fn begin(&mut self, step: &Step, frequencies: &[f64]) -> Result<(), StepError> {
        self.plan = Some(Plan::new(step, frequencies, &self.device));
        Ok(())
    }

    fn embed(&mut self, step: &Step, table: &Self::Linear, x: &mut Self::Buffer) {
        x.set(table.rows(int_tensor(&step.tokens, &self.device)));
    }

    fn norm_linear(
        &mut self,
        x: &Self::Buffer,
        norm: &Norm<Self::Vector>,
        weight: &Self::Linear,
        out: &mut Self::Buffer,
    ) {
        out.set(weight.forward(rms_norm(x.tensor(), norm)));
    }

    fn attend(
        &mut self,
        _step: &Step,
        qkv: &Self::Buffer,
        attention: &Attention<'_, Self::Vector>,
        kv: &mut Self::Kv,
        out: &mut Self::Buffer,
    ) {
        let plan = self.plan.as_mut().expect("a step was begun");
        let layer = attention::Layer { attention, is_cpu: self.is_cpu };
        out.set(layer.attend(qkv.tensor(), plan, kv));
    }

    fn linear_residual(
        &mut self,
        x: &Self::Buffer,
        weight: &Self::Linear,
        residual: &mut Self::Buffer,
    ) {
        residual.set(residual.tensor().add(weight.forward(x.tensor())));
    }

    fn norm_gate_up(
        &mut self,
        x: &Self::Buffer,
        norm: &Norm<Self::Vector>,
        weight: &Self::Linear,
        out: &mut Self::Buffer,
    ) {
        let both = weight.forward(rms_norm(x.tensor(), norm));
        let [rows, width] = both.dims();
        let gate = both.clone().slice([0..rows, 0..width / 2]);
        let up = both.slice([0..rows, width / 2..width]);
        out.set(silu(gate).mul(up));
    }

    fn head(
        &mut self,
        step: &Step,
        x: &Self::Buffer,
        norm: &Norm<Self::Vector>,
        weight: &Self::Linear,
        out: &mut StepOutput,
    ) -> Result<(), StepError> {
        if step.wanted.is_empty() {
            // Nothing is read back: wait here, so that errors and time belong to this step.
            return self.device.sync().map_err(device_error);
        }
        let wanted: Vec<u32> = step.wanted.iter().map(|wanted| wanted.row as u32).collect();
        let x = x.tensor().select(0, int_tensor(&wanted, &self.device));
        let logits = weight.forward(rms_norm(x, norm));
        let [_, vocab] = logits.dims();
        let logits: Vec<f32> =
            logits.try_into_data().map_err(device_error)?.try_into_vec().map_err(device_error)?;
        for (wanted, row) in step.wanted.iter().zip(logits.chunks_exact(vocab)) {
            match wanted.top {
                0 => out.push_whole().copy_from_slice(row),
                top => out.push_top(&sampling::top(row, top)),
            }
        }
        Ok(())
    }

    fn export(&mut self, kv: &Self::Kv, page: u32, out: &mut [u8]) -> Result<(), StepError> {
        kv.export(page as usize, out)
    }

    fn import(&mut self, kv: &mut Self::Kv, page: u32, bytes: &[u8]) -> Result<(), StepError> {
        kv.import(page as usize, bytes, &self.device);
        Ok(())
    }

    fn write(&mut self, buffer: &mut Self::Buffer, width: usize, values: &[f32]) {
        let shape = [values.len() / width, width];
        let data = burn::tensor::TensorData::new(values.to_vec(), shape);
        buffer.set(Tensor::from_data(data, (&self.device, DType::F32)));
    }

    fn read(&mut self, buffer: &Self::Buffer) -> Vec<f32> {
        let data = buffer.tensor().into_data();
        data.try_into_vec().expect("buffers hold single precision")
    }
}
