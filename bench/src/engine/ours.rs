//! Measures a loaded model in steps, as a worker runs it.

use std::time::Instant;

use anyhow::{Context as _, bail};
use model::{
    ActivationsChoice, BatchSequence, DeviceChoice, IsaChoice, Model, ModelLimits, RowOutput,
    StepOutput, Wanted,
};
use modelfile::ModelFile;
use protocol::{BLOCK_TOKENS, SplitMix64};

use super::cases::{CONTEXT, Case, STEPS};

/// The device of a model and how it computes there.
#[derive(Clone, Debug)]
pub(super) struct DeviceOptions {
    pub(super) device: DeviceChoice,
    pub(super) threads: usize,
    pub(super) isa: IsaChoice,
    pub(super) activations: ActivationsChoice,
    /// Tokens of a prompt that one step computes.
    pub(super) chunk: usize,
}

/// A loaded model with room for all cases.
pub(super) struct Ours {
    model: Model,
    out: StepOutput,
    chunk: usize,
    /// Pages of prompts. Those of decode sequences follow.
    prompt_pages: Vec<u32>,
    /// Block table of each decode sequence.
    tables: Vec<Vec<u32>>,
    /// Decode sequences whose context is in the pages.
    filled: usize,
}

impl Ours {
    /// Loads the model, with as many pages as the largest of `cases` needs.
    pub(super) fn load(
        file: &ModelFile,
        options: &DeviceOptions,
        cases: &[Case],
    ) -> anyhow::Result<Self> {
        let largest = |prefill: bool| {
            let sizes = cases.iter().filter(|case| case.is_prefill() == prefill);
            sizes.map(|case| case.size()).max().unwrap_or(0)
        };
        let each = pages(CONTEXT + STEPS);
        let prompt = pages(largest(true).max(1));
        let sequences = largest(false) as u32;
        let limits = ModelLimits {
            kv_pages: (prompt + sequences * each) as usize,
            threads: options.threads,
            isa: options.isa,
            activations: options.activations,
        };
        let context = file.spec().context_tokens;
        if let Some(case) = cases.iter().find(|case| case.tokens_max() > context) {
            bail!(
                "{case} needs a context of {} tokens, the model's is {context}",
                case.tokens_max()
            );
        }
        let model = Model::load(file, &options.device, &limits, &mut |_| {})?;
        Ok(Self {
            model,
            out: StepOutput::default(),
            chunk: options.chunk,
            prompt_pages: (0..prompt).collect(),
            tables: (0..sequences)
                .map(|index| prompt + index * each)
                .map(|first| (first..first + each).collect())
                .collect(),
            filled: 0,
        })
    }

    pub(super) fn model(&self) -> &Model {
        &self.model
    }

    /// Measures the tokens per second of one case.
    pub(super) fn measure(&mut self, case: Case) -> anyhow::Result<f64> {
        match case {
            Case::Prefill(tokens) => self.prefill(tokens),
            Case::Decode(batch) => self.decode(batch),
        }
        .with_context(|| case.to_string())
    }

    fn prefill(&mut self, tokens: usize) -> anyhow::Result<f64> {
        let prompt = random_tokens(tokens, 0, self.model.spec().vocab);
        let pages = std::mem::take(&mut self.prompt_pages);
        let timed = (|| {
            self.prompt(&prompt[..tokens.min(self.chunk)], &pages)?;
            let started = Instant::now();
            self.prompt(&prompt, &pages)?;
            anyhow::Ok(tokens as f64 / started.elapsed().as_secs_f64())
        })();
        self.prompt_pages = pages;
        timed
    }

    /// Computes a prompt in chunks and the token after it.
    fn prompt(&mut self, tokens: &[u32], pages: &[u32]) -> anyhow::Result<()> {
        let mut position = 0;
        for chunk in tokens.chunks(self.chunk) {
            let is_last = position + chunk.len() == tokens.len();
            let logits = if is_last { Wanted::Top(1) } else { Wanted::None };
            let sequence = BatchSequence { tokens: chunk, position, pages, logits };
            self.model.forward(&[sequence], &mut self.out)?;
            position += chunk.len();
        }
        Ok(())
    }

    fn decode(&mut self, batch: usize) -> anyhow::Result<f64> {
        let tables = std::mem::take(&mut self.tables);
        let timed = self.decode_in(&tables[..batch]);
        self.tables = tables;
        timed
    }

    /// Times greedy decode from the context length that the peer starts from, too.
    fn decode_in(&mut self, tables: &[Vec<u32>]) -> anyhow::Result<f64> {
        let vocab = self.model.spec().vocab;
        while self.filled < tables.len() {
            let prompt = random_tokens(CONTEXT, self.filled as u64 + 1, vocab);
            self.prompt(&prompt, &tables[self.filled])?;
            self.filled += 1;
        }
        let mut latest = random_tokens(tables.len(), 1 << 32, vocab);
        self.step(tables, &mut latest, CONTEXT)?;
        let started = Instant::now();
        for step in 0..STEPS {
            self.step(tables, &mut latest, CONTEXT + step)?;
        }
        Ok((tables.len() * STEPS) as f64 / started.elapsed().as_secs_f64())
    }

    /// Adds to every sequence its most likely next token, chosen on the device.
    fn step(
        &mut self,
        tables: &[Vec<u32>],
        latest: &mut [u32],
        position: usize,
    ) -> anyhow::Result<()> {
        let sequences: Vec<BatchSequence> = std::iter::zip(tables, latest.iter())
            .map(|(pages, token)| BatchSequence {
                tokens: std::slice::from_ref(token),
                position,
                pages,
                logits: Wanted::Top(1),
            })
            .collect();
        self.model.forward(&sequences, &mut self.out)?;
        for (token, row) in latest.iter_mut().zip(self.out.rows()) {
            let RowOutput::Top([(next, _)]) = row else {
                bail!("expected one candidate per sequence, got {row:?}");
            };
            *token = *next;
        }
        Ok(())
    }
}

fn pages(tokens: usize) -> u32 {
    tokens.div_ceil(BLOCK_TOKENS) as u32
}

/// Returns meaningless tokens, like those of the peer's benchmarks, from a seed.
fn random_tokens(count: usize, seed: u64, vocab: usize) -> Vec<u32> {
    let mut random = SplitMix64::new(seed);
    (0..count).map(|_| (random.next_u64() % vocab as u64) as u32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_tokens_are_in_the_vocabulary_and_differ_between_sequences() {
        let one = random_tokens(256, 1, 1000);
        assert!(one.iter().all(|&token| token < 1000));
        assert_ne!(one, random_tokens(256, 2, 1000));
        assert_eq!(one, random_tokens(256, 1, 1000));
        let distinct: std::collections::BTreeSet<_> = one.iter().collect();
        assert!(distinct.len() > 150, "{} of 256", distinct.len());
    }
}
