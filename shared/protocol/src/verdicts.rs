//! What a gateway decided about the traces of requests that have ended.

use serde::{Deserialize, Serialize};

/// Most traces of one message.
pub const VERDICTS_MAX: usize = 8_192;

/// Gateway → everyone: of these traces the spans held so far are wanted, or not. What is lost is
/// not repeated: spans of undecided traces go when room is needed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceVerdicts {
    /// Ids of traces to export.
    pub keep: Vec<[u8; 16]>,
    /// Ids of traces to forget.
    pub forget: Vec<[u8; 16]>,
}
