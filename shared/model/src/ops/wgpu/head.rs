//! The results of the head: tokens found on the device, or rows of logits copied whole.

use super::gpu::{Gpu, singles};
use super::rows;
use super::top::{self, Best};
use crate::error::StepError;
use crate::ops::HeadRow;
use crate::output::{Candidate, StepOutput};
use crate::sampling;
use burn::tensor::DType;
use burn_cubecl::tensor::CubeTensor;

/// Logits of the rows wanted, `[wanted, vocab]`, on the device.
pub(super) struct Logits<'a> {
    pub(super) values: &'a CubeTensor,
    /// Any words.
    pub(super) words: &'a CubeTensor,
    pub(super) vocab: usize,
    pub(super) wanted: &'a [HeadRow],
}

impl Logits<'_> {
    /// Reads in one go what `out` is to hold.
    pub(super) fn read(&self, gpu: &Gpu, out: &mut StepOutput) -> Result<(), StepError> {
        let most = self.wanted.iter().filter(|row| is_found(row)).map(|row| row.top).max();
        let most = most.unwrap_or(0).min(self.vocab);
        let mut handles = Vec::new();
        if most > 0 {
            let all = Best { logits: self.values.clone(), tokens: self.words.clone() };
            let Best { logits, tokens } = top::best(gpu, &all, self.wanted.len(), self.vocab, most);
            handles.extend([logits.handle, tokens.handle]);
        }
        handles.extend(self.whole(gpu).map(|rows| rows.handle));
        let mut read = gpu.read(handles)?.into_iter();
        let found = if most > 0 { read.next().zip(read.next()) } else { None };
        let (logits, tokens) = found.unwrap_or_default();
        let whole = singles(&read.next().unwrap_or_default());
        let mut whole = whole.chunks_exact(self.vocab);
        for (index, row) in self.wanted.iter().enumerate() {
            if is_found(row) {
                let part = index * most * size_of::<u32>()..(index + 1) * most * size_of::<u32>();
                let candidates = top::candidates(&logits[part.clone()], &tokens[part]);
                push(out, &candidates, row.top.min(self.vocab))?;
            } else {
                let values = whole.next().expect("every row that is not searched was copied");
                if row.top == 0 {
                    out.push_whole().copy_from_slice(values);
                } else {
                    push(out, &sampling::top(values, row.top), row.top.min(self.vocab))?;
                }
            }
        }
        Ok(())
    }

    /// Returns the rows that are not searched on the device, by themselves.
    fn whole(&self, gpu: &Gpu) -> Option<CubeTensor> {
        let whole = self.wanted.iter().enumerate().filter(|(_, row)| !is_found(row));
        let whole: Vec<u32> = whole.map(|(index, _)| index as u32).collect();
        match whole.len() {
            0 => None,
            all if all == self.wanted.len() => Some(self.values.clone()),
            some => {
                let rows = gpu.empty(some * self.vocab, DType::F32);
                let picked = gpu.words(&whole);
                rows::gather(&gpu.client, &picked, some, self.values, self.vocab, &rows);
                Some(rows)
            }
        }
    }
}

/// Returns true if a row's tokens are found on the device.
fn is_found(row: &HeadRow) -> bool {
    (1..=top::TOP_MAX).contains(&row.top)
}

fn push(out: &mut StepOutput, candidates: &[Candidate], wanted: usize) -> Result<(), StepError> {
    if candidates.len() < wanted {
        let reason = format!("{} of {wanted} best logits are numbers", candidates.len());
        return Err(StepError::Device { reason });
    }
    out.push_top(&candidates[..wanted]);
    Ok(())
}
