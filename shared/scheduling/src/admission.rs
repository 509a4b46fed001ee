//! Admission: a request is refused before any work, or it starts.

use protocol::{ErrorClass, Refusal};

use crate::route::{Need, WorkerView};

/// Bounds of the gateway and of the workers' queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdmissionLimits {
    /// Most generations in flight.
    pub inflight_max: usize,
    /// Most sequences that wait on one worker.
    pub queue_sequences_max: u32,
}

/// Reason for which a request does not start.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum AdmitError {
    /// No worker of this model is ready.
    #[error("no worker is ready")]
    NoWorkers,
    /// The gateway has reached its limit.
    #[error("{inflight} generations in flight, at most {inflight_max} are taken")]
    Inflight {
        /// Generations in flight now.
        inflight: usize,
        /// The limit.
        inflight_max: usize,
        /// Milliseconds after which to try again.
        retry_after_ms: u32,
    },
    /// No ready worker can ever hold the sequence.
    #[error(
        "prompt of {prompt_tokens} tokens and output of up to {output_tokens} fit on no worker: \
         the largest holds {tokens_max}"
    )]
    TooLong {
        /// Length of the prompt.
        prompt_tokens: u32,
        /// Most output tokens that the request allows.
        output_tokens: u32,
        /// Longest sequence that any worker can hold.
        tokens_max: u32,
    },
    /// Every worker that could hold it has a full queue.
    #[error("the queues of all {workers} workers are full")]
    Full {
        /// Number of those workers.
        workers: usize,
        /// Milliseconds after which to try again.
        retry_after_ms: u32,
    },
    /// Its first token would come too late.
    #[error("first token predicted in {predicted_ms} ms, the deadline is in {left_ms} ms")]
    TooLate {
        /// Milliseconds to the first token on the fastest worker.
        predicted_ms: u64,
        /// Milliseconds to the deadline.
        left_ms: u64,
        /// Milliseconds after which to try again.
        retry_after_ms: u32,
    },
    /// Its deadline has passed.
    #[error("the deadline has passed")]
    Expired,
}

impl AdmitError {
    /// Returns the class of the refusal that the client gets.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::NoWorkers => ErrorClass::Retry,
            Self::TooLong { .. } => ErrorClass::Invalid,
            Self::Inflight { .. } | Self::Full { .. } | Self::TooLate { .. } => {
                ErrorClass::Overloaded
            }
            Self::Expired => ErrorClass::Deadline,
        }
    }

    /// Returns the milliseconds after which another try makes sense, or `None` if none ever does.
    pub fn retry_after_ms(&self) -> Option<u32> {
        match self {
            Self::Inflight { retry_after_ms, .. }
            | Self::Full { retry_after_ms, .. }
            | Self::TooLate { retry_after_ms, .. } => Some(*retry_after_ms),
            Self::NoWorkers => Some(RETRY_AFTER_MIN_MS),
            Self::TooLong { .. } | Self::Expired => None,
        }
    }
}

impl From<AdmitError> for Refusal {
    fn from(error: AdmitError) -> Self {
        Self::new(error.class(), error.to_string())
    }
}

const RETRY_AFTER_MIN_MS: u32 = 1_000;
const RETRY_AFTER_MAX_MS: u32 = 30_000;

/// The time at which a request asks to start, and the time that it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// The present, by the clock of the worker views.
    pub now_ms: u64,
    /// Milliseconds to the deadline.
    pub left_ms: u64,
}

/// Admits or refuses one more generation at this `moment`.
///
/// Predictions refuse only where workers measured their own speed, and only what comes too late
/// even if a prediction is as wrong as theirs usually are: an assumption turns no work away.
pub fn admit(
    need: &Need,
    views: &[WorkerView],
    inflight: usize,
    moment: Moment,
    limits: &AdmissionLimits,
) -> Result<(), AdmitError> {
    let Moment { now_ms, left_ms } = moment;
    if left_ms == 0 {
        return Err(AdmitError::Expired);
    }
    let ready = || views.iter().filter(|view| view.ready);
    if ready().next().is_none() {
        return Err(AdmitError::NoWorkers);
    }
    let fitting = || ready().filter(|view| view.can_hold(need));
    if fitting().next().is_none() {
        return Err(AdmitError::TooLong {
            prompt_tokens: need.tokens,
            output_tokens: need.output_tokens,
            tokens_max: tokens_max(views),
        });
    }
    let retry_after_ms = retry_after_ms(views, now_ms);
    let inflight_max = limits.inflight_max;
    if inflight_max <= inflight {
        return Err(AdmitError::Inflight { inflight, inflight_max, retry_after_ms });
    }
    let open = || fitting().filter(|view| view.queued_sequences < limits.queue_sequences_max);
    if open().next().is_none() {
        return Err(AdmitError::Full { workers: fitting().count(), retry_after_ms });
    }
    let first_tokens_ms = open().map(|view| view.certain_first_token_ms(need, now_ms) as u64);
    let predicted_ms = first_tokens_ms.min().unwrap_or(0);
    if left_ms < predicted_ms {
        return Err(AdmitError::TooLate { predicted_ms, left_ms, retry_after_ms });
    }
    Ok(())
}

/// Returns the length of the longest sequence that any ready worker can hold; 0 without one.
pub fn tokens_max(views: &[WorkerView]) -> u32 {
    let ready = views.iter().filter(|view| view.ready);
    let holds = ready.map(|view| {
        let pages = view.pages_total.saturating_mul(protocol::BLOCK_TOKENS as u32);
        view.context_tokens.min(pages)
    });
    holds.max().unwrap_or(0)
}

/// Returns the milliseconds until the shortest queue is empty, between a second and half a minute.
pub fn retry_after_ms(views: &[WorkerView], now_ms: u64) -> u32 {
    let none = Need { tokens: 1, cached_tokens: 0, output_tokens: 1 };
    let ready = views.iter().filter(|view| view.ready);
    let queues = ready.map(|view| view.first_token_ms(&none, now_ms).0 as u32);
    queues.min().unwrap_or(0).clamp(RETRY_AFTER_MIN_MS, RETRY_AFTER_MAX_MS)
}

#[cfg(test)]
mod tests {
    use protocol::{Role, Speed, StepCost};

    use super::*;

    const LIMITS: AdmissionLimits = AdmissionLimits { inflight_max: 4, queue_sequences_max: 8 };
    const NEED: Need = Need { tokens: 100, cached_tokens: 0, output_tokens: 20 };

    const COST: StepCost =
        StepCost { step_us: 1_000.0, item_us: 1_000.0, pair_us: 0.0, error: 0.0, steps: 100 };

    fn left(left_ms: u64) -> Moment {
        Moment { now_ms: 0, left_ms }
    }

    fn view(name: &str) -> WorkerView {
        WorkerView {
            worker: name.parse().unwrap(),
            role: Role::Prefill,
            ready: true,
            context_tokens: 1_024,
            step_tokens: 256,
            prefill_share: 1.0,
            queued_sequences: 0,
            queued_tokens: 0,
            queued_pairs: 0,
            queued_since_ms: 0,
            running_sequences: 0,
            running_tokens: 0,
            sequences_max: 8,
            pages_total: 64,
            pages_open: 64,
            speed: Speed { prefill: COST, decode: COST },
        }
    }

    #[test]
    fn an_idle_worker_admits() {
        assert_eq!(admit(&NEED, &[view("a")], 0, left(10_000), &LIMITS), Ok(()));
    }

    #[test]
    fn a_fleet_without_ready_workers_is_worth_a_retry() {
        let busy = WorkerView { ready: false, ..view("a") };
        let error = admit(&NEED, &[busy], 0, left(10_000), &LIMITS).unwrap_err();
        assert_eq!((error.class(), error.retry_after_ms()), (ErrorClass::Retry, Some(1_000)));
    }

    #[test]
    fn a_sequence_that_fits_nowhere_is_invalid_with_both_numbers() {
        let need = Need { tokens: 1_100, ..NEED };
        let error = admit(&need, &[view("a")], 0, left(10_000), &LIMITS).unwrap_err();
        assert_eq!(error.class(), ErrorClass::Invalid);
        assert!(error.to_string().contains("1100") && error.to_string().contains("1024"));
        let small_pool = WorkerView { pages_total: 7, ..view("a") };
        assert!(matches!(
            admit(&NEED, &[small_pool], 0, left(10_000), &LIMITS),
            Err(AdmitError::TooLong { tokens_max: 112, .. })
        ));
    }

    #[test]
    fn bounds_refuse_with_the_time_the_shortest_queue_needs() {
        let busy = WorkerView { queued_sequences: 8, queued_tokens: 5_000, ..view("a") };
        let busier = WorkerView { queued_sequences: 9, queued_tokens: 90_000, ..view("b") };
        let views = [busy, busier];
        let error = admit(&NEED, &views, 0, left(100_000), &LIMITS).unwrap_err();
        assert!(
            matches!(error, AdmitError::Full { workers: 2, retry_after_ms: 5_019 }),
            "{error:?}"
        );
        let error = admit(&NEED, &[view("a")], 4, left(10_000), &LIMITS).unwrap_err();
        assert!(matches!(error, AdmitError::Inflight { retry_after_ms: 1_000, .. }));
        assert_eq!(error.class(), ErrorClass::Overloaded);
    }

    #[test]
    fn what_cannot_meet_its_deadline_is_refused_but_never_on_assumed_speeds() {
        let busy = WorkerView { queued_tokens: 50_000, ..view("a") };
        let error =
            admit(&NEED, std::slice::from_ref(&busy), 0, left(10_000), &LIMITS).unwrap_err();
        assert!(matches!(error, AdmitError::TooLate { left_ms: 10_000, .. }));
        let with = |prefill| WorkerView { speed: Speed { prefill, decode: COST }, ..busy.clone() };
        let assumed = with(StepCost { steps: 0, ..COST });
        assert_eq!(admit(&NEED, &[assumed], 0, left(10_000), &LIMITS), Ok(()));
        let unsure = with(StepCost { error: 5.0, ..COST });
        assert_eq!(admit(&NEED, &[unsure], 0, left(10_000), &LIMITS), Ok(()));
        assert_eq!(admit(&NEED, &[view("a")], 0, left(0), &LIMITS), Err(AdmitError::Expired));
    }
}
