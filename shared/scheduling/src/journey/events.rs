//! The inputs and actions of a journey.

use protocol::control::MissedReply;
use protocol::{
    Answer, Attempt, CancelReason, Event, Leg, Refusal, RequestKey, TokenEvent, WorkerId,
};

use crate::route::Choice;

/// Bounds of a journey.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JourneyLimits {
    /// Most attempts of a request.
    pub attempts_max: u32,
    /// Milliseconds for which a gap may be mere reordering.
    pub gap_ms: u64,
    /// Milliseconds between two requests for the same missed events.
    pub missed_ms: u64,
    /// Requests for the same missed events before the attempt is given up.
    pub missed_max: u32,
    /// Events held back behind a gap; more are dropped and asked for later.
    pub held_max: usize,
}

impl Default for JourneyLimits {
    fn default() -> Self {
        Self { attempts_max: 3, gap_ms: 40, missed_ms: 250, missed_max: 8, held_max: 512 }
    }
}

/// An event that a journey reacts to.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    /// The placement that the router found for [`Action::Place`].
    Placed(Choice),
    /// The router found no placement.
    Unplaceable(Refusal),
    /// A worker's reply to a job.
    Answered {
        /// The worker.
        worker: WorkerId,
        /// The attempt that the job was part of.
        attempt: Attempt,
        /// Its reply.
        answer: Answer,
    },
    /// A job without a reply: it may or may not have arrived.
    Unanswered {
        /// The worker that the job was sent to.
        worker: WorkerId,
        /// The attempt that the job was part of.
        attempt: Attempt,
        /// The reason for the missing reply.
        refusal: Refusal,
    },
    /// A token or failure from a worker.
    Event {
        /// The sender.
        worker: WorkerId,
        /// The token or failure.
        event: Event,
    },
    /// A worker's process is gone.
    Gone {
        /// The worker.
        worker: WorkerId,
    },
    /// A worker no longer has the request: it finished or forgot it.
    Unknown {
        /// The worker.
        worker: WorkerId,
        /// The request and its attempt.
        key: RequestKey,
    },
    /// The reply to [`Action::AskMissed`].
    Missed {
        /// The worker.
        worker: WorkerId,
        /// The attempt in question.
        attempt: Attempt,
        /// The events that it still has.
        reply: MissedReply,
    },
    /// Time passed: see [`Journey::wake_ms`](super::Journey::wake_ms).
    Tick,
    /// The client no longer needs the rest.
    Stop(CancelReason),
}

/// Something to do for the owner of a journey.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Ask the router, without the workers of [`Journey::avoid`](super::Journey::avoid); answer with [`Input::Placed`] or
    /// [`Input::Unplaceable`].
    Place,
    /// Send a job of the current attempt, with [`Journey::output`](super::Journey::output).
    Send {
        /// The receiver.
        worker: WorkerId,
        /// The part of the attempt that it does.
        leg: Leg,
    },
    /// For the first time, every leg of an attempt was accepted.
    Started,
    /// Give the next token to the client.
    Deliver(TokenEvent),
    /// Ask for events that did not arrive.
    AskMissed {
        /// The worker to ask.
        worker: WorkerId,
        /// The request and its attempt.
        key: RequestKey,
        /// Index of the first missing event.
        from: u32,
    },
    /// Tell a worker to stop and free everything.
    Cancel {
        /// The worker.
        worker: WorkerId,
        /// The request, with every attempt up to this one.
        key: RequestKey,
        /// The reason.
        reason: CancelReason,
    },
    /// The journey has ended.
    End(End),
}

/// The end of a journey.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The last token was delivered.
    Finished,
    /// The request failed; tokens delivered before stay valid.
    Failed(Refusal),
    /// The client or the gateway gave it up.
    Stopped(CancelReason),
}

/// Counts of unusual events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Events of stale attempts or of workers that have no leg.
    pub fenced: u64,
    /// Events that had been delivered before.
    pub repeated: u64,
    /// Gaps in the numbering that lasted.
    pub gaps: u64,
}
