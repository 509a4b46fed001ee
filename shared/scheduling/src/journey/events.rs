//! What a journey is told and what it asks for.

use protocol::control::MissedReply;
use protocol::{
    Answer, Attempt, CancelReason, Event, Leg, Refusal, RequestKey, TokenEvent, WorkerId,
};

use crate::route::Choice;

/// Bounds of a journey.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JourneyLimits {
    /// Times a request is sent out at most.
    pub attempts_max: u32,
    /// How long a gap may be mere reordering.
    pub gap_ms: u64,
    /// Between two questions for the same missed events.
    pub missed_ms: u64,
    /// Questions for the same missed events before the attempt is given up.
    pub missed_max: u32,
    /// Events held back behind a gap; more are dropped and asked for later.
    pub held_max: usize,
}

impl Default for JourneyLimits {
    fn default() -> Self {
        Self { attempts_max: 3, gap_ms: 40, missed_ms: 250, missed_max: 8, held_max: 512 }
    }
}

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    /// The router's answer to [`Action::Place`].
    Placed(Choice),
    /// The router found no place.
    Unplaceable(Refusal),
    /// A worker's answer to a job.
    Answered {
        /// Who.
        worker: WorkerId,
        /// To which attempt.
        attempt: Attempt,
        /// What.
        answer: Answer,
    },
    /// No answer to a job: it may or may not have arrived.
    Unanswered {
        /// Who was asked.
        worker: WorkerId,
        /// For which attempt.
        attempt: Attempt,
        /// Why there is no answer.
        refusal: Refusal,
    },
    /// A token or failure from a worker.
    Event {
        /// Who.
        worker: WorkerId,
        /// What.
        event: Event,
    },
    /// A worker's process is gone.
    Gone {
        /// Which.
        worker: WorkerId,
    },
    /// A worker does not know the request any more: finished or forgotten.
    Unknown {
        /// Which worker.
        worker: WorkerId,
        /// Of which attempt.
        key: RequestKey,
    },
    /// The answer to [`Action::AskMissed`].
    Missed {
        /// Who.
        worker: WorkerId,
        /// About which attempt.
        attempt: Attempt,
        /// What it remembers.
        reply: MissedReply,
    },
    /// Time passed: see [`Journey::wake_ms`](super::Journey::wake_ms).
    Tick,
    /// Nobody wants the rest.
    Stop(CancelReason),
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Ask the router, without the workers of [`Journey::avoid`](super::Journey::avoid); answer with [`Input::Placed`] or
    /// [`Input::Unplaceable`].
    Place,
    /// Send a job of the current attempt, with [`Journey::output`](super::Journey::output).
    Send {
        /// To whom.
        worker: WorkerId,
        /// Which part.
        leg: Leg,
    },
    /// Every leg of an attempt was taken for the first time.
    Started,
    /// Give the next token to the client.
    Deliver(TokenEvent),
    /// Ask for events that did not arrive.
    AskMissed {
        /// Whom.
        worker: WorkerId,
        /// Of which attempt.
        key: RequestKey,
        /// First index wanted.
        from: u32,
    },
    /// Tell a worker to stop and free everything.
    Cancel {
        /// Whom.
        worker: WorkerId,
        /// Every attempt up to this one.
        key: RequestKey,
        /// Why.
        reason: CancelReason,
    },
    /// It is over.
    End(End),
}

/// How a journey ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The last token was delivered.
    Finished,
    /// No answer; tokens delivered before stay valid.
    Failed(Refusal),
    /// Somebody gave it up.
    Stopped(CancelReason),
}

/// What counters want to know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Events of older attempts or of workers that have no leg.
    pub fenced: u64,
    /// Events that had been delivered before.
    pub repeated: u64,
    /// Gaps in the numbering that lasted.
    pub gaps: u64,
}
