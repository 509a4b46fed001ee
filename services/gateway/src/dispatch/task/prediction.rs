//! The router's predictions against the actual times.

use std::time::SystemTime;

use super::GenerationTask;
use protocol::BLOCK_TOKENS;

impl GenerationTask {
    /// Remembers a computed prompt, of which `found` tokens had been stored.
    pub(super) fn learn_prefix(&mut self, found: u32) {
        // The decode worker's later report counts the tokens of the hand-over.
        let Some(expected) = self.expected_cached.take() else { return };
        let mut prefixes = self.shared.prefixes();
        prefixes.compare(expected, found);
        prefixes.learn(self.hashes.blocks());
    }

    /// Remembers the generated tokens, all computed but the last: the next turn begins with them.
    pub(super) fn learn_answer(&self) {
        let prompt = &self.generation.prompt;
        let hashed = self.hashes.blocks().len() * BLOCK_TOKENS;
        let computed = prompt.len() + self.journey.output().len().saturating_sub(1);
        if hashed == 0 || computed < hashed + BLOCK_TOKENS {
            return;
        }
        let behind = prompt[hashed..].iter().chain(self.journey.output()).copied();
        let mut hashes = self.hashes.clone();
        hashes.extend(&behind.take(computed - hashed).collect::<Vec<_>>());
        self.shared.prefixes().learn(hashes.blocks());
    }

    /// Compares the predicted time to the first token, which has just arrived.
    pub(super) fn compare_first_token(&mut self) {
        self.first_token = Some(self.last_event);
        if let (Some(placement), Some((_, sent))) = (&self.placement, self.sent) {
            let actual_ms = ms_between(sent, self.last_event);
            let predicted_ms = f64::from(placement.chosen().price.ttft_ms());
            let trace = &self.generation.trace;
            self.shared.counters.first_token.record(predicted_ms, actual_ms, trace);
            if let Some(routed) = self.routed.take() {
                routed.record_actual(actual_ms);
            }
        }
    }

    /// Compares the predicted time of the `tokens` after the first, the last of which has just arrived.
    pub(super) fn compare_generation(&self, tokens: u32) {
        if let (Some(placement), Some(first)) = (&self.placement, self.first_token)
            && tokens > 0
        {
            let predicted_ms = f64::from(placement.chosen().price.generation_ms(tokens));
            let actual_ms = ms_between(first, self.last_event);
            let trace = &self.generation.trace;
            self.shared.counters.generation.record(predicted_ms, actual_ms, trace);
        }
    }
}

fn ms_between(start: SystemTime, end: SystemTime) -> f64 {
    end.duration_since(start).unwrap_or_default().as_secs_f64() * 1e3
}
