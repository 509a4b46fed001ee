//! Perplexity of a text, scored as `llama-perplexity` scores it, so that the figures are comparable.

use std::path::Path;

use anyhow::{Context as _, bail};
use model::{BatchSequence, Model, ModelLimits, RowOutput, StepOutput, Wanted};
use modelfile::ModelFile;
use protocol::BLOCK_TOKENS;

use super::ours::DeviceOptions;

/// Rows of logits that leave the device in one step.
const ROWS_MAX: usize = 64;

/// The tokens of a text, cut into windows.
#[derive(Debug)]
pub(super) struct Text {
    windows: Vec<Vec<u32>>,
}

impl Text {
    /// Tokenizes and cuts the text as the peer does: the texts of special tokens are ordinary text,
    /// every window begins with the beginning-of-text token if the model has one, and the rest that
    /// does not fill a window is dropped.
    pub(super) fn read(path: &Path, file: &ModelFile, window: usize) -> anyhow::Result<Self> {
        if window < 4 || window > file.spec().context_tokens {
            let context = file.spec().context_tokens;
            bail!("--window {window}: expected 4 to the model's context, {context}");
        }
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        let special = file.special();
        let begin = special.bos.filter(|_| special.add_bos);
        let mut tokens: Vec<u32> = begin.into_iter().collect();
        tokens.extend(file.tokenizer()?.encode(&text, false)?);
        if tokens.len() < 2 * window {
            let (count, wanted) = (tokens.len(), 2 * window);
            bail!("{} has {count} tokens, expected at least {wanted}", path.display());
        }
        Ok(Self { windows: cut(&tokens, window, begin) })
    }

    /// Returns the number of windows.
    pub(super) fn windows(&self) -> usize {
        self.windows.len()
    }

    /// Returns the number of scored tokens.
    pub(super) fn scored(&self) -> usize {
        self.windows.iter().map(|window| window.len() - 1 - window.len() / 2).sum()
    }
}

fn cut(tokens: &[u32], window: usize, begin: Option<u32>) -> Vec<Vec<u32>> {
    let mut windows: Vec<Vec<u32>> = tokens.chunks_exact(window).map(<[u32]>::to_vec).collect();
    if let Some(begin) = begin {
        windows.iter_mut().for_each(|window| window[0] = begin);
    }
    windows
}

/// Measures the perplexity of `text`; returns it with the name of the device.
pub(super) fn measure(
    file: &ModelFile,
    options: &DeviceOptions,
    text: &Text,
) -> anyhow::Result<(f64, String)> {
    let longest = text.windows.iter().map(Vec::len).max().unwrap_or(1);
    let pages: Vec<u32> = (0..longest.div_ceil(BLOCK_TOKENS) as u32).collect();
    let DeviceOptions { threads, isa, activations, .. } = *options;
    let limits = ModelLimits { kv_pages: pages.len(), threads, isa, activations };
    let mut model = Model::load(file, &options.device, &limits, &mut |_| {})?;
    let mut loss = 0.0;
    for window in &text.windows {
        loss += negative_log_likelihood(&mut model, window, &pages, options.chunk)?;
    }
    Ok(((loss / text.scored() as f64).exp(), model.device().name.clone()))
}

/// Returns the negative log likelihood of the second half of a window. The middle token is the first
/// that predicts, and the last token is the last that is predicted.
fn negative_log_likelihood(
    model: &mut Model,
    window: &[u32],
    pages: &[u32],
    chunk: usize,
) -> anyhow::Result<f64> {
    let middle = window.len() / 2;
    let mut out = StepOutput::default();
    let mut position = 0;
    for tokens in window[..middle].chunks(chunk) {
        let sequence = BatchSequence { tokens, position, pages, logits: Wanted::None };
        model.forward(&[sequence], &mut out)?;
        position += tokens.len();
    }
    let mut loss = 0.0;
    for tokens in window[middle..window.len() - 1].chunks(ROWS_MAX.min(chunk)) {
        let sequence = BatchSequence { tokens, position, pages, logits: Wanted::All };
        model.forward(&[sequence], &mut out)?;
        for (row, next) in out.rows().zip(&window[position + 1..]) {
            let RowOutput::Whole(logits) = row else {
                bail!("expected whole rows, got {row:?}");
            };
            loss -= log_probability(logits, *next as usize);
        }
        position += tokens.len();
    }
    Ok(loss)
}

fn log_probability(logits: &[f32], token: usize) -> f64 {
    let top = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let sum: f64 = logits.iter().map(|&logit| (f64::from(logit) - top).exp()).sum();
    f64::from(logits[token]) - top - sum.ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_add_up_to_one() {
        let logits = [1.0, -2.5, 700.0, 699.0, -1e30];
        let total: f64 = (0..logits.len()).map(|token| log_probability(&logits, token).exp()).sum();
        assert!((total - 1.0).abs() < 1e-12, "{total}");
        assert!((log_probability(&logits, 2) + (1.0 + (-1.0_f64).exp()).ln()).abs() < 1e-9);
    }

    #[test]
    fn windows_are_whole_and_begin_as_the_model_wants() {
        let tokens: Vec<u32> = (0..11).collect();
        assert_eq!(cut(&tokens, 4, None), [[0, 1, 2, 3], [4, 5, 6, 7]]);
        assert_eq!(cut(&tokens, 4, Some(99)), [[99, 1, 2, 3], [99, 5, 6, 7]]);
        let text = Text { windows: cut(&tokens, 4, None) };
        // The token at 2 predicts the one at 3, in each of the two windows.
        assert_eq!((text.windows(), text.scored()), (2, 2));
    }
}
