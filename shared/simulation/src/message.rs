//! Everything that happens: messages between the parties and timers of one.

use protocol::control::MissedReply;
use protocol::{
    Answer, BlockHash, Cancel, Event, Job, Keep, KeepReply, Missed, PromptDone, RequestId,
    RequestKey, WorkerId, WorkerState,
};

/// Something that is due.
#[derive(Clone, Debug)]
pub(crate) enum Envelope {
    ToWorker(WorkerId, ToWorker),
    ToGateway(WorkerId, ToGateway),
    ToStore(ToStore),
    /// A timer of a worker's process; `life` tells the process from its successor.
    WorkerTimer {
        worker: WorkerId,
        life: u64,
        timer: WorkerTimer,
    },
    GatewayTimer(GatewayTimer),
    Fault(usize),
    Arrival(usize),
}

#[derive(Clone, Debug)]
pub(crate) enum ToWorker {
    Job(Box<Job>),
    Cancel(Cancel),
    Keep(Keep),
    Missed(Missed),
    PromptDone {
        from: WorkerId,
        done: PromptDone,
    },
    /// The store took that many of a request's blocks.
    PutDone(RequestKey, usize),
    /// Blocks on their way out of the store.
    Stored {
        key: RequestKey,
        blocks: Vec<BlockHash>,
    },
    /// The store's answer to a lookup.
    Found {
        key: RequestKey,
        stored: usize,
    },
    PromptDoneTaken(RequestKey),
}

impl ToWorker {
    /// True for what a dead worker's absence answers at once: *no responders*.
    pub(crate) fn is_request_of_gateway(&self) -> bool {
        matches!(self, Self::Job(_) | Self::Cancel(_) | Self::Keep(_) | Self::Missed(_))
    }
}

#[derive(Clone, Debug)]
pub(crate) enum ToGateway {
    Answer(RequestKey, Answer),
    Tokens(Vec<Event>),
    Kept(KeepReply),
    MissedReply(RequestKey, MissedReply),
    Cancelled(RequestKey),
    Presence(Box<WorkerState>),
    NoResponders,
}

#[derive(Clone, Debug)]
pub(crate) enum ToStore {
    Put { from: WorkerId, key: RequestKey, blocks: Vec<BlockHash> },
    Lookup { from: WorkerId, key: RequestKey, blocks: Vec<BlockHash> },
    Pull { from: WorkerId, key: RequestKey, blocks: Vec<BlockHash> },
}

#[derive(Clone, Debug)]
pub(crate) enum WorkerTimer {
    StepDone,
    /// Presence and leases.
    Second,
    /// An unanswered message is sent again.
    PutAgain(RequestKey, u32),
    PromptDoneAgain(RequestKey, u32),
    LookupAgain(RequestKey, u32),
    PullAgain(RequestKey, u32),
}

#[derive(Clone, Debug)]
pub(crate) enum GatewayTimer {
    /// Keep-alive and presence.
    Second,
    /// A journey's own time has come.
    Wake(RequestId),
    /// A job's answer is late.
    JobLate(WorkerId, RequestKey),
    CancelAgain(WorkerId, Cancel, u32),
}
