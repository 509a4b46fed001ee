//! The SLO policy: the limits behind trace verdicts.

use chassis::settings::TelemetrySettings;

/// The TTFT and TPOT limits of a request. The trace of a request that misses one is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SloPolicy {
    /// Longest time to the first token.
    pub ttft_ms: Option<f64>,
    /// Longest mean time per token after the first.
    pub tpot_ms: Option<f64>,
}

impl SloPolicy {
    /// Returns the policy of the settings.
    pub fn new(settings: &TelemetrySettings) -> Self {
        Self { ttft_ms: settings.slo.ttft_ms, tpot_ms: settings.slo.tpot_ms }
    }

    /// Returns true if the time to the first token exceeds its limit.
    pub(crate) fn misses_ttft(&self, ttft_ms: f64) -> bool {
        self.ttft_ms.is_some_and(|limit| ttft_ms > limit)
    }

    /// Returns true if the `tokens` after the first took longer than their limit.
    pub(crate) fn misses_tpot(&self, rest_ms: f64, tokens: u64) -> bool {
        self.tpot_ms.is_some_and(|limit| tokens != 0 && rest_ms / tokens as f64 > limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_limits_that_are_set_can_be_missed() {
        let none = SloPolicy::default();
        assert!(!none.misses_ttft(1e9) && !none.misses_tpot(1e9, 1));
        let strict = SloPolicy { ttft_ms: Some(100.0), tpot_ms: Some(10.0) };
        assert!(strict.misses_ttft(100.1) && !strict.misses_ttft(100.0));
        assert!(strict.misses_tpot(101.0, 10) && !strict.misses_tpot(100.0, 10));
        assert!(!strict.misses_tpot(1e9, 0), "a single token has no rest");
    }
}
