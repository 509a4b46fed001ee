//! How right the router was: what it predicted beside what came of it.

use std::time::SystemTime;

use super::Drive;
use protocol::BLOCK_TOKENS;

impl Drive {
    /// The prompt is computed, and `found` of its tokens had been stored.
    pub(super) fn learn_prefix(&mut self, found: u32) {
        // The decode worker's word, which comes later, is of what it was handed over.
        let Some(expected) = self.expected.take() else { return };
        let mut prefixes = self.shared.prefixes();
        prefixes.compare(expected, found);
        prefixes.learn(self.names.blocks());
    }

    /// Everything generated but the last token is computed: the next turn begins with it.
    pub(super) fn learn_answer(&self) {
        let prompt = &self.generation.prompt;
        let named = self.names.blocks().len() * BLOCK_TOKENS;
        let computed = prompt.len() + self.journey.output().len().saturating_sub(1);
        if named == 0 || computed < named + BLOCK_TOKENS {
            return;
        }
        let behind = prompt[named..].iter().chain(self.journey.output()).copied();
        let mut names = self.names.clone();
        names.extend(&behind.take(computed - named).collect::<Vec<_>>());
        self.shared.prefixes().learn(names.blocks());
    }

    /// How well the router foresaw the first token, which is here.
    pub(super) fn compare_first_token(&mut self) {
        self.first_token = Some(self.last_sign);
        if let (Some(placement), Some((_, sent))) = (&self.placement, self.sent) {
            let felt_ms = ms_between(sent, self.last_sign);
            let predicted_ms = f64::from(placement.chosen().price.ttft_ms());
            let trace = &self.generation.trace;
            self.shared.counters.first_token.compare(predicted_ms, felt_ms, trace);
            if let Some(routed) = self.routed.take() {
                routed.felt(felt_ms);
            }
        }
    }

    /// How well it foresaw the `tokens` after the first, the last of which is here.
    pub(super) fn compare_generation(&self, tokens: u32) {
        if let (Some(placement), Some(first)) = (&self.placement, self.first_token)
            && 0 < tokens
        {
            let predicted_ms = f64::from(placement.chosen().price.generation_ms(tokens));
            let felt_ms = ms_between(first, self.last_sign);
            let trace = &self.generation.trace;
            self.shared.counters.generation.compare(predicted_ms, felt_ms, trace);
        }
    }
}

fn ms_between(start: SystemTime, end: SystemTime) -> f64 {
    end.duration_since(start).unwrap_or_default().as_secs_f64() * 1e3
}
