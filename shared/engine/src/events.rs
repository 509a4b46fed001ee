//! What the step loop tells the shell.

use std::sync::mpsc::SyncSender;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use protocol::{BlockHash, Finish, Opening, Refusal, RequestKey, TokenId, TokenLogprob};
use scheduling::planner::Admitted;

/// What happened in one step. Its list goes back to the step loop when it is dropped.
#[derive(Debug)]
pub struct Events {
    list: Vec<StepEvent>,
    home: SyncSender<Vec<StepEvent>>,
}

impl Events {
    pub(crate) fn new(list: Vec<StepEvent>, home: SyncSender<Vec<StepEvent>>) -> Self {
        Self { list, home }
    }

    /// Takes the events out, in order.
    pub fn drain(&mut self) -> std::vec::Drain<'_, StepEvent> {
        self.list.drain(..)
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.list.clear();
        // With enough lists under way already, this one is let go.
        let _ = self.home.try_send(std::mem::take(&mut self.list));
    }
}

/// Happenings of the step loop that the shell turns into messages and stages.
#[derive(Debug)]
pub enum StepEvent {
    /// A sequence got its pages: fetch what is stored, then say [`crate::EngineHandle::fetched`].
    Admitted {
        /// Whose, and what is missing.
        admitted: Admitted,
        /// When.
        at: SystemTime,
    },
    /// A token was chosen, or the sequence ended without one.
    Token {
        /// Whose.
        key: RequestKey,
        /// Its place in the output.
        index: u32,
        /// The token; `None` when a prompt was only scored.
        token: Option<TokenId>,
        /// Present when asked for.
        logprob: Option<TokenLogprob>,
        /// Present on the last token.
        finish: Option<Finish>,
        /// Present on the first token of the leg that computed the prompt.
        opening: Option<Box<Opening>>,
        /// Prefill chunks that the prompt took, with this step.
        chunks: u32,
        /// How often the sequence has lost its pages.
        preemptions: u32,
    },
    /// A step that computed something for a request whose trace is recorded.
    Stepped(Box<StepRecord>),
    /// A sequence was given up here.
    Failed {
        /// Whose.
        key: RequestKey,
        /// Why.
        refusal: Refusal,
    },
}

/// One step, for the trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepRecord {
    /// From reading the mail until the model was done.
    pub time: std::ops::Range<SystemTime>,
    /// The part of it inside the model.
    pub forward: Duration,
    /// All sequences in it.
    pub sequences: u32,
    /// Prompt tokens computed.
    pub prefill_tokens: u32,
    /// Sequences that generated.
    pub decode_sequences: u32,
    /// Steps for recorded requests that were not told since the last one that was.
    pub unrecorded: u32,
    /// The recorded requests in it.
    pub keys: Vec<RequestKey>,
}

/// Blocks on their way into the store, in a channel of their own: tokens never wait for them.
#[derive(Debug)]
pub enum BlockEvent {
    /// A block is complete.
    Sealed {
        /// Whose.
        key: RequestKey,
        /// Its name.
        name: BlockHash,
        /// Tokens in it: fewer than 16 in a tail.
        tokens: u32,
        /// Its KV.
        bytes: Bytes,
    },
    /// A block that should be stored could not be handed over.
    Unstored {
        /// Whose.
        key: RequestKey,
        /// Its name.
        name: BlockHash,
    },
    /// No more blocks of this sequence follow.
    Complete {
        /// Whose.
        key: RequestKey,
    },
}
