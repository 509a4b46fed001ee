//! How right the router was: what it predicted beside what came of it.

use std::time::SystemTime;

use super::Drive;

impl Drive {
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
