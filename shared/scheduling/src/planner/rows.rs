//! The tokens and sequences of the next step, and the sequences preempted for it.

use protocol::{BLOCK_TOKENS, RequestKey};

use super::{Limits, Logits, Planner, Row};
use crate::sequence::{Phase, Sequence};

/// Returns the tokens of a step that prompts get while `generating` sequences generate.
pub(crate) fn prompt_budget(step_tokens: usize, prefill_share: f32, generating: usize) -> usize {
    if generating == 0 {
        return step_tokens;
    }
    let share = (step_tokens as f32 * prefill_share) as usize;
    share.max(BLOCK_TOKENS).min(step_tokens.saturating_sub(generating))
}

impl Planner {
    /// Returns the rows of the next step: never more than `step_tokens` tokens, except that every
    /// generating sequence gets its row.
    pub fn plan(&mut self) -> Vec<Row> {
        let mut rows = Vec::new();
        self.plan_into(&mut rows);
        rows
    }

    /// Writes the rows of the next step into a list that is reused from step to step.
    pub fn plan_into(&mut self, rows: &mut Vec<Row>) {
        rows.clear();
        self.decode_rows(rows);
        let Limits { step_tokens, prefill_share, .. } = self.limits;
        self.prefill_rows(prompt_budget(step_tokens, prefill_share, rows.len()), rows);
    }

    /// Adds the rows of generating sequences, oldest first. A preempted sequence is younger than every
    /// sequence with a row, so rows stay valid.
    fn decode_rows(&mut self, rows: &mut Vec<Row>) {
        let mut at = 0;
        while let Some(key) = self.active.get(at).copied() {
            let generates = self.sequences.get(&key).is_some_and(Sequence::generates);
            if generates && !self.has_room_for_next(&key) {
                // It was preempted itself: the next one has its index now.
                continue;
            }
            if let Some(sequence) = self.sequences.get(&key).filter(|_| generates) {
                rows.push(Row { key, start: sequence.computed, count: 1, logits: Logits::Last });
            }
            at += 1;
        }
    }

    /// Makes sure that the sequence's next token has a page, taking one from a younger sequence if
    /// needed. Returns false if the sequence itself was preempted.
    fn has_room_for_next(&mut self, key: &RequestKey) -> bool {
        loop {
            let Some(sequence) = self.sequences.get_mut(key) else { return false };
            if sequence.computed < sequence.pages.len() * BLOCK_TOKENS {
                return true;
            }
            if let Some(page) = self.pool.take() {
                sequence.pages.push(page);
                return true;
            }
            let youngest = self.active.iter().rev().find(|other| {
                self.sequences.get(*other).is_some_and(|other| other.phase == Phase::Computing)
            });
            let victim = *youngest.expect("the sequence itself computes");
            self.preempt(&victim);
            if victim == *key {
                return false;
            }
        }
    }

    /// Takes a sequence's pages; it waits first in line and later continues from its tokens.
    fn preempt(&mut self, key: &RequestKey) {
        let Some(sequence) = self.sequences.get_mut(key) else { return };
        for page in sequence.pages.drain(..) {
            self.pool.release(page);
        }
        sequence.computed = 0;
        sequence.phase = Phase::Waiting;
        sequence.preemptions += 1;
        self.preempted += 1;
        self.active.retain(|other| other != key);
        self.waiting.push_front(*key);
    }

    fn prefill_rows(&mut self, mut budget: usize, rows: &mut Vec<Row>) {
        for key in &self.active {
            let Some(sequence) = self.sequences.get(key) else { continue };
            let in_prompt = sequence.phase == Phase::Computing
                && (sequence.uncomputed() > 1 || sequence.output().is_empty());
            if budget == 0 {
                return;
            }
            if !in_prompt || sequence.uncomputed() == 0 {
                continue;
            }
            let count = sequence.uncomputed().min(budget);
            budget -= count;
            let last = count == sequence.uncomputed();
            let logits = match (sequence.score_prompt, last) {
                (true, _) if sequence.computed < sequence.prompt_tokens => Logits::All,
                (_, true) => Logits::Last,
                (_, false) => Logits::None,
            };
            rows.push(Row { key: *key, start: sequence.computed, count, logits });
        }
    }
}
