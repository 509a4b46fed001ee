//! A model without weights: tokens from a generator, step times from a cost model, and KV blocks of a
//! configured size that show when they are the wrong ones.
//!
//! Instead of KV a page holds a digest of everything up to each of its tokens. The next token is a
//! function of seed, position and that digest, so a sequence with another sequence's block does not
//! continue as it would alone; and a block that does not follow the one before it is an error.

use std::time::{Duration, Instant};

use chassis::settings::SimulatedSettings;
use model::{BatchSequence, StepOutput, Wanted};
use protocol::{BLOCK_TOKENS, GOLDEN_GAMMA, TokenId, mix64, simulated};

use crate::compute::{Compute, ComputeError};

/// The digest of an empty sequence.
const ROOT: u64 = GOLDEN_GAMMA;
/// One generated token in this many ends the text.
const END_EVERY: u64 = 128;
/// The logits of the chosen token, the next best one, and all others.
const LOGITS: [f32; 3] = [30.0, 10.0, 0.0];
/// Parent, filled tokens, and the digests after each token, as numbers of 8 bytes.
const HEAD_NUMBERS: usize = 2 + BLOCK_TOKENS;

/// The digests in place of the KV of 16 tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Page {
    /// The digest of everything before it.
    parent: u64,
    /// The digest of everything up to each of its tokens.
    after: [u64; BLOCK_TOKENS],
    /// Tokens in it.
    filled: usize,
}

/// A model that computes nothing and sleeps for the time of a step.
#[derive(Debug)]
pub struct Simulated {
    settings: SimulatedSettings,
    pages: Vec<Page>,
}

impl Simulated {
    /// Creates a model with `pages` pages of 16 tokens.
    pub fn new(settings: SimulatedSettings, pages: usize) -> Self {
        Self { settings, pages: vec![Page::default(); pages] }
    }

    /// Returns the format of its blocks: models of different formats do not share blocks.
    pub fn kv_format(settings: &SimulatedSettings) -> String {
        format!("simulated, {} bytes a block, seed {}", settings.block_bytes, settings.seed)
    }

    /// Returns the time of a step with this batch, in microseconds.
    fn step_us(&self, batch: &[BatchSequence<'_>]) -> f64 {
        let costs = &self.settings;
        let mut us = 0.0;
        let mut decodes = 0;
        for sequence in batch {
            let tokens = sequence.tokens.len() as f64;
            if sequence.tokens.len() == 1 && sequence.logits != Wanted::None {
                decodes += 1;
            } else {
                us += tokens * costs.prefill_us_per_token;
            }
            let context = sequence.position as f64 + tokens / 2.0;
            us += tokens * context * costs.us_per_token_of_context;
        }
        if decodes > 0 {
            us += costs.decode_us_per_step + f64::from(decodes) * costs.decode_us_per_sequence;
        }
        us
    }

    /// Writes a sequence's tokens into its pages; returns the digest after the last.
    fn extend(&mut self, sequence: &BatchSequence<'_>) -> Result<u64, ComputeError> {
        let mut digest = self.before(sequence)?;
        for (offset, token) in sequence.tokens.iter().enumerate() {
            let position = sequence.position + offset;
            let (page, slot) = (position / BLOCK_TOKENS, position % BLOCK_TOKENS);
            let page = self.page_mut(sequence.pages, page)?;
            if slot == 0 {
                page.parent = digest;
            }
            digest = mix64(digest ^ u64::from(*token).wrapping_mul(ROOT));
            // Tokens computed again equal those in the page, and sequences that share it need the rest.
            let known = page.filled.max(slot + 1);
            page.filled = if page.after[slot] == digest { known } else { slot + 1 };
            page.after[slot] = digest;
        }
        Ok(digest)
    }

    /// Checks the pages before a sequence's new tokens; returns the digest of everything in them.
    fn before(&self, sequence: &BatchSequence<'_>) -> Result<u64, ComputeError> {
        let mut digest = ROOT;
        for index in 0..sequence.position.div_ceil(BLOCK_TOKENS) {
            let tokens = (sequence.position - index * BLOCK_TOKENS).min(BLOCK_TOKENS);
            let number = *sequence.pages.get(index).ok_or_else(|| too_few(index))?;
            let page = self.pages.get(number as usize).ok_or_else(|| no_page(number))?;
            if page.parent != digest || page.filled < tokens {
                return Err(ComputeError(format!(
                    "block {index} in page {number} is not the one of this sequence: {} tokens \
                     after {:016x}, expected {tokens} after {digest:016x}",
                    page.filled, page.parent
                )));
            }
            digest = page.after[tokens - 1];
        }
        Ok(digest)
    }

    fn page_mut(&mut self, table: &[u32], index: usize) -> Result<&mut Page, ComputeError> {
        let number = *table.get(index).ok_or_else(|| too_few(index))?;
        self.pages.get_mut(number as usize).ok_or_else(|| no_page(number))
    }

    /// Returns the token after `position` tokens with this digest, and the next best one.
    fn next_tokens(&self, position: usize, digest: u64) -> [TokenId; 2] {
        let counter = self.settings.seed ^ (position as u64).rotate_left(32) ^ digest;
        let drawn = mix64(counter);
        let chosen = simulated::word(drawn);
        if (drawn >> 32).is_multiple_of(END_EVERY) {
            return [simulated::END, chosen];
        }
        [chosen, simulated::word(drawn + 1)]
    }

    fn write_row(&self, out: &mut StepOutput, wanted: Wanted, position: usize, digest: u64) {
        let best = self.next_tokens(position, digest);
        match wanted {
            Wanted::None => {}
            Wanted::Top(count) => {
                let others = (0..simulated::VOCABULARY as TokenId)
                    .filter(|token| !best.contains(token))
                    .map(|token| (token, LOGITS[2]));
                let first = [(best[0], LOGITS[0]), (best[1], LOGITS[1])];
                match count {
                    ..=2 => out.push_top(&first[..count]),
                    _ => {
                        let all: Vec<_> = first.into_iter().chain(others).take(count).collect();
                        out.push_top(&all);
                    }
                }
            }
            Wanted::Last | Wanted::All => {
                let row = out.push_whole();
                row.fill(LOGITS[2]);
                row[best[1] as usize] = LOGITS[1];
                row[best[0] as usize] = LOGITS[0];
            }
        }
    }
}

impl Compute for Simulated {
    fn forward(
        &mut self,
        batch: &[BatchSequence<'_>],
        out: &mut StepOutput,
    ) -> Result<(), ComputeError> {
        let started = Instant::now();
        out.clear(simulated::VOCABULARY);
        for sequence in batch {
            let end = sequence.position + sequence.tokens.len();
            let digest = self.extend(sequence)?;
            match sequence.logits {
                Wanted::None => out.end_sequence(0),
                Wanted::Top(_) | Wanted::Last => {
                    self.write_row(out, sequence.logits, end, digest);
                    out.end_sequence(1);
                }
                Wanted::All => {
                    for position in sequence.position..end {
                        let page = sequence.pages[position / BLOCK_TOKENS] as usize;
                        let digest = self.pages[page].after[position % BLOCK_TOKENS];
                        self.write_row(out, sequence.logits, position + 1, digest);
                    }
                    out.end_sequence(sequence.tokens.len());
                }
            }
        }
        let lasts = Duration::from_secs_f64(self.step_us(batch) / 1e6);
        std::thread::sleep(lasts.saturating_sub(started.elapsed()));
        Ok(())
    }

    fn export_block(&mut self, page: u32, filled: u32) -> Result<Vec<u8>, ComputeError> {
        let held = self.pages.get(page as usize).ok_or_else(|| no_page(page))?;
        let filled = filled as usize;
        if held.filled < filled || filled == 0 {
            return Err(ComputeError(format!(
                "page {page} has {} tokens, expected {filled}",
                held.filled
            )));
        }
        let mut block = Page { filled, ..*held };
        block.after[filled..].fill(0);
        Ok(block.to_bytes(self.settings.block_bytes))
    }

    fn import_block(&mut self, page: u32, bytes: &[u8]) -> Result<(), ComputeError> {
        let block = Page::from_bytes(bytes, self.settings.block_bytes)?;
        *self.pages.get_mut(page as usize).ok_or_else(|| no_page(page))? = block;
        Ok(())
    }
}

impl Page {
    /// Encodes the page as a block: its fields, then numbers that follow from them.
    fn to_bytes(self, block_bytes: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(block_bytes + 8);
        let head = [self.parent, self.filled as u64].into_iter().chain(self.after);
        head.for_each(|number| bytes.extend_from_slice(&number.to_le_bytes()));
        let last = self.after[self.filled - 1];
        let rest = (bytes.len()..block_bytes).step_by(8).enumerate();
        for (index, _) in rest {
            bytes.extend_from_slice(&filler(last, index).to_le_bytes());
        }
        bytes.truncate(block_bytes);
        bytes
    }

    /// Decodes a block and checks every byte of it.
    fn from_bytes(bytes: &[u8], block_bytes: usize) -> Result<Self, ComputeError> {
        let wrong = |why: String| ComputeError(format!("not a simulated block: {why}"));
        if bytes.len() != block_bytes {
            return Err(wrong(format!("{} bytes, expected {block_bytes}", bytes.len())));
        }
        let (numbers, _) = bytes.as_chunks::<8>();
        let number =
            |index: usize| numbers.get(index).map_or(0, |bytes| u64::from_le_bytes(*bytes));
        let filled = number(1) as usize;
        if !(1..=BLOCK_TOKENS).contains(&filled) {
            return Err(wrong(format!("{filled} tokens, expected 1 to {BLOCK_TOKENS}")));
        }
        let after = std::array::from_fn(|slot| number(2 + slot));
        let page = Self { parent: number(0), after, filled };
        let last = page.after[filled - 1];
        let rest = bytes.get(8 * HEAD_NUMBERS..).unwrap_or_default().chunks(8);
        for (index, found) in rest.enumerate() {
            if !filler(last, index).to_le_bytes().starts_with(found) {
                return Err(wrong(format!(
                    "its filler is not that of its digest at number {index}"
                )));
            }
        }
        Ok(page)
    }
}

fn filler(digest: u64, index: usize) -> u64 {
    mix64(digest.wrapping_add((index as u64).wrapping_mul(ROOT)))
}

fn too_few(index: usize) -> ComputeError {
    ComputeError(format!("the block table ends before block {index}"))
}

fn no_page(page: u32) -> ComputeError {
    ComputeError(format!("there is no page {page}"))
}

#[cfg(test)]
mod tests {
    use model::RowOutput;

    use super::*;

    const PROMPT: [TokenId; 40] = [7; 40];

    fn engine(block_bytes: usize) -> Simulated {
        Simulated::new(SimulatedSettings { block_bytes, ..SimulatedSettings::default() }, 16)
    }

    fn step(engine: &mut Simulated, tokens: &[TokenId], position: usize, pages: &[u32]) -> TokenId {
        try_step(engine, tokens, position, pages).unwrap()
    }

    fn try_step(
        engine: &mut Simulated,
        tokens: &[TokenId],
        position: usize,
        pages: &[u32],
    ) -> Result<TokenId, ComputeError> {
        let mut out = StepOutput::default();
        let batch = [BatchSequence { tokens, position, pages, logits: Wanted::Last }];
        engine.forward(&batch, &mut out)?;
        let Some(RowOutput::Whole(row)) = out.rows().next() else { panic!("one whole row") };
        let best = (0..row.len()).max_by(|a, b| row[*a].total_cmp(&row[*b])).unwrap();
        Ok(best as TokenId)
    }

    #[test]
    fn chunks_and_pages_do_not_change_the_tokens() {
        let whole = step(&mut engine(4_096), &PROMPT, 0, &[0, 1, 2]);
        let mut chunked = engine(4_096);
        step(&mut chunked, &PROMPT[..21], 0, &[5, 9, 3]);
        assert_eq!(step(&mut chunked, &PROMPT[21..], 21, &[5, 9, 3]), whole);
        let other = SimulatedSettings { seed: 1, ..SimulatedSettings::default() };
        assert_ne!(step(&mut Simulated::new(other, 16), &PROMPT, 0, &[0, 1, 2]), whole);
    }

    #[test]
    fn a_sequence_goes_on_from_blocks_that_came_from_elsewhere() {
        for block_bytes in [144, 151, 4_096] {
            let (mut from, mut to) = (engine(block_bytes), engine(block_bytes));
            let whole = step(&mut from, &PROMPT, 0, &[0, 1, 2]);
            let next = step(&mut from, &[whole], 40, &[0, 1, 2]);
            for (page, filled) in [(0, 16), (1, 16), (2, 8)] {
                let block = from.export_block(page, filled).unwrap();
                assert_eq!(block.len(), block_bytes);
                to.import_block(page + 4, &block).unwrap();
            }
            assert_eq!(step(&mut to, &[whole], 40, &[4, 5, 6]), next);
        }
    }

    #[test]
    fn a_wrong_block_is_noticed() {
        let (mut from, mut to) = (engine(4_096), engine(4_096));
        step(&mut from, &PROMPT, 0, &[0, 1, 2]);
        step(&mut from, &[8; 40], 0, &[3, 4, 5]);
        for (page, of) in [(0, 0), (1, 4), (2, 2)] {
            to.import_block(page, &from.export_block(of, 8.max(16 * u32::from(of != 2))).unwrap())
                .unwrap();
        }
        let error = try_step(&mut to, &[7], 40, &[0, 1, 2]).unwrap_err();
        assert!(error.to_string().contains("block 1"), "{error}");
        let mut damaged = from.export_block(0, 16).unwrap();
        damaged[4_000] ^= 1;
        assert!(to.import_block(0, &damaged).is_err());
        assert!(to.import_block(0, &damaged[..100]).is_err());
        assert!(from.export_block(9, 1).is_err(), "nothing was computed there");
    }

    #[test]
    fn steps_take_as_long_as_the_costs_say() {
        let settings = SimulatedSettings {
            prefill_us_per_token: 10.0,
            decode_us_per_step: 100.0,
            decode_us_per_sequence: 7.0,
            us_per_token_of_context: 0.5,
            ..SimulatedSettings::default()
        };
        let engine = Simulated::new(settings, 16);
        let row = |tokens, position, logits| BatchSequence { tokens, position, pages: &[], logits };
        let prefill = row(&PROMPT, 0, Wanted::None);
        let decode = row(&PROMPT[..1], 100, Wanted::Top(1));
        assert_eq!(engine.step_us(&[prefill]), 400.0 + 40.0 * 20.0 * 0.5);
        assert_eq!(engine.step_us(&[decode, decode]), 100.0 + 14.0 + 2.0 * 100.5 * 0.5);
        assert_eq!(engine.step_us(&[]), 0.0);
    }

    #[test]
    fn most_tokens_are_words_and_some_end_the_text() {
        let engine = engine(4_096);
        let tokens: Vec<_> = (0..5_000).map(|at| engine.next_tokens(at, ROOT)[0]).collect();
        let ends = tokens.iter().filter(|token| **token == simulated::END).count();
        assert!((10..100).contains(&ends), "{ends}");
        assert!(tokens.iter().all(|token| (256..=simulated::END).contains(token)));
    }
}
