//! The operations on the CPU: a thin face of the `kernels` crate.

use super::{Attention, KvShape, Norm, ServeOps, Step};
use crate::error::{LoadError, StepError};
use crate::output::StepOutput;
use kernels::{
    Cpu, Format, HeadOutput, Isa, Kv, Linear, Matrix, Part, Precision, RmsNorm, Span, Vector,
};
use modelfile::{DType, TensorData};

/// The operations on this machine's cores.
pub struct CpuOps {
    cpu: Cpu,
    head: HeadOutput,
}

impl CpuOps {
    /// Starts `threads` threads that compute with `isa` and round to `precision`.
    pub fn new(threads: usize, isa: Isa, precision: Precision) -> Result<Self, LoadError> {
        let cpu = Cpu::new(threads, isa, precision)?;
        Ok(Self { cpu, head: HeadOutput::default() })
    }

    /// Returns the instructions in use.
    pub fn isa(&self) -> Isa {
        self.cpu.isa()
    }
}

fn format(dtype: DType) -> Format {
    match dtype {
        DType::F32 => Format::F32,
        DType::F16 => Format::F16,
        DType::BF16 => Format::BF16,
        DType::Q8_0 => Format::Q8_0,
        DType::Q4_0 => Format::Q4_0,
        DType::Q4_1 => Format::Q4_1,
        DType::Q4_K => Format::Q4_K,
        DType::Q6_K => Format::Q6_K,
    }
}

fn rms(norm: &Norm<Vector>) -> RmsNorm<'_> {
    RmsNorm { weight: &norm.weight, eps: norm.eps }
}

impl ServeOps for CpuOps {
    type Linear = Linear;
    type Vector = Vector;
    type Buffer = Matrix;
    type Kv = Kv;

    fn linear(
        &mut self,
        parts: &[TensorData],
        bias: Option<&[f32]>,
    ) -> Result<Self::Linear, LoadError> {
        let parts: Vec<Part> = parts
            .iter()
            .map(|tensor| Part {
                format: format(tensor.dtype),
                outputs: tensor.shape[0],
                inputs: tensor.shape[1],
                bytes: &tensor.bytes,
            })
            .collect();
        Ok(Linear::pack(&parts, bias)?)
    }

    fn vector(&mut self, values: &[f32]) -> Self::Vector {
        Vector::new(values)
    }

    fn buffer(&mut self) -> Self::Buffer {
        Matrix::new()
    }

    fn kv(&mut self, shape: KvShape) -> Result<Self::Kv, LoadError> {
        Ok(Kv::new(shape))
    }

    fn begin(&mut self, step: &Step, frequencies: &[f64]) -> Result<(), StepError> {
        let spans = step.spans.iter().map(|span| Span {
            first_row: span.rows.start,
            rows: span.rows.len(),
            position: span.position,
            first_page: span.pages.start,
        });
        self.cpu.begin(&step.positions, frequencies, spans, &step.pages);
        Ok(())
    }

    fn embed(&mut self, step: &Step, table: &Self::Linear, x: &mut Self::Buffer) {
        self.cpu.embed(&step.tokens, table, x);
    }

    fn norm_linear(
        &mut self,
        x: &Self::Buffer,
        norm: &Norm<Self::Vector>,
        weight: &Self::Linear,
        out: &mut Self::Buffer,
    ) {
        self.cpu.norm_linear(x, Some(rms(norm)), weight, out);
    }

    fn attend(
        &mut self,
        _step: &Step,
        qkv: &Self::Buffer,
        attention: &Attention<'_, Self::Vector>,
        kv: &mut Self::Kv,
        out: &mut Self::Buffer,
    ) {
        let head_norms = attention.head_norms.map(|norms| norms.each_ref().map(rms));
        let Attention { layer, heads, scale, window, .. } = *attention;
        let attention = kernels::Attention { layer, heads, scale, head_norms, window };
        self.cpu.attend(qkv, &attention, kv, out);
    }

    fn linear_residual(
        &mut self,
        x: &Self::Buffer,
        weight: &Self::Linear,
        residual: &mut Self::Buffer,
    ) {
        self.cpu.linear_residual(x, weight, residual);
    }

    fn norm_gate_up(
        &mut self,
        x: &Self::Buffer,
        norm: &Norm<Self::Vector>,
        weight: &Self::Linear,
        out: &mut Self::Buffer,
    ) {
        self.cpu.norm_gate_up(x, Some(rms(norm)), weight, out);
    }

    fn head(
        &mut self,
        step: &Step,
        x: &Self::Buffer,
        norm: &Norm<Self::Vector>,
        weight: &Self::Linear,
        out: &mut StepOutput,
    ) -> Result<(), StepError> {
        self.cpu.head(x, Some(rms(norm)), weight, &step.wanted, &mut self.head);
        let mut candidates = &self.head.candidates[..];
        let mut logits = self.head.logits.chunks_exact(weight.outputs());
        for wanted in &step.wanted {
            if wanted.top == 0 {
                let row = logits.next().expect("a row of logits for each row that wants one");
                out.push_whole().copy_from_slice(row);
            } else {
                let (row, rest) = candidates.split_at(wanted.top.min(weight.outputs()));
                out.push_top(row);
                candidates = rest;
            }
        }
        Ok(())
    }

    fn export(&mut self, kv: &Self::Kv, page: u32, out: &mut [u8]) -> Result<(), StepError> {
        kv.export(page as usize, out);
        Ok(())
    }

    fn import(&mut self, kv: &mut Self::Kv, page: u32, bytes: &[u8]) -> Result<(), StepError> {
        kv.import(page as usize, bytes);
        Ok(())
    }

    fn write(&mut self, buffer: &mut Self::Buffer, width: usize, values: &[f32]) {
        buffer.write(width, values);
    }

    fn read(&mut self, buffer: &Self::Buffer) -> Vec<f32> {
        buffer.to_vec()
    }
}
