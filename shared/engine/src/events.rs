//! Events of the step loop for the shell.

use std::sync::mpsc::SyncSender;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use protocol::{BlockHash, Finish, Opening, Refusal, RequestKey, TokenId, TokenLogprob};
use scheduling::planner::Admitted;

/// The events of one step. Their list goes back to the step loop when this is dropped.
#[derive(Debug)]
pub struct Events {
    list: Vec<StepEvent>,
    home: SyncSender<Vec<StepEvent>>,
}

impl Events {
    pub(crate) fn new(list: Vec<StepEvent>, home: SyncSender<Vec<StepEvent>>) -> Self {
        Self { list, home }
    }

    /// Drains the events, in order.
    pub fn drain(&mut self) -> std::vec::Drain<'_, StepEvent> {
        self.list.drain(..)
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.list.clear();
        // With enough lists on their way back, this one is freed.
        let _ = self.home.try_send(std::mem::take(&mut self.list));
    }
}

/// An event of the step loop that the shell turns into messages and stages.
#[derive(Debug)]
pub enum StepEvent {
    /// A sequence got its pages: fetch what is stored, then say [`crate::EngineHandle::fetched`].
    Admitted {
        /// The sequence, with its missing blocks.
        admitted: Admitted,
        /// The time of admission.
        at: SystemTime,
    },
    /// A token was chosen, or the sequence ended without one.
    Token(StepToken),
    /// A step that computed something for a request whose trace is recorded.
    Stepped(Box<StepRecord>),
    /// A sequence failed on this worker.
    Failed {
        /// The request and attempt.
        key: RequestKey,
        /// The failure.
        refusal: Refusal,
    },
}

/// A token of one sequence.
#[derive(Debug)]
pub struct StepToken {
    /// The request and attempt.
    pub key: RequestKey,
    /// The index of the token in the output.
    pub index: u32,
    /// The token; `None` when a prompt was only scored.
    pub token: Option<TokenId>,
    /// Present if the request asked for it.
    pub logprob: Option<TokenLogprob>,
    /// Present on the last token.
    pub finish: Option<Finish>,
    /// Present on the first token of the leg that computed the prompt.
    pub opening: Option<Box<Opening>>,
    /// Prefill chunks of the prompt, with this step's.
    pub chunks: u32,
    /// Preemptions of the sequence.
    pub preemptions: u32,
}

/// One step, for the trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepRecord {
    /// From draining the commands until the model was done.
    pub time: std::ops::Range<SystemTime>,
    /// The share of that time inside the model.
    pub forward: Duration,
    /// Sequences in the step.
    pub sequences: u32,
    /// Prompt tokens computed.
    pub prefill_tokens: u32,
    /// Sequences that generated a token.
    pub decode_sequences: u32,
    /// Steps of recorded requests that were left out since the last record.
    pub unrecorded: u32,
    /// The recorded requests in the step.
    pub keys: Vec<RequestKey>,
}

/// An event about a block on its way into the store. Blocks have a channel of their own, so that
/// tokens never wait for them.
#[derive(Debug)]
pub enum BlockEvent {
    /// A block is complete.
    Sealed {
        /// The request and attempt.
        key: RequestKey,
        /// Its hash.
        hash: BlockHash,
        /// Tokens in the block: fewer than 16 in a tail.
        tokens: u32,
        /// Its KV.
        bytes: Bytes,
    },
    /// A block that should be stored was dropped: its export failed, or the queue was full.
    Dropped {
        /// The request and attempt.
        key: RequestKey,
        /// Its hash.
        hash: BlockHash,
    },
    /// No more blocks of this sequence follow.
    Complete {
        /// The request and attempt.
        key: RequestKey,
    },
}
