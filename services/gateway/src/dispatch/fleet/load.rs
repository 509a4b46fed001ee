//! The load that a placement puts on workers.

use protocol::{BLOCK_TOKENS, WorkerId};
use scheduling::route::{Choice, Need, Pending};

/// PreparedRequest that this gateway gave to a worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Load {
    /// The worker.
    pub worker: WorkerId,
    /// The work that is pending there.
    pub pending: Pending,
}

impl Load {
    /// Returns the rest of a load whose prompt is computed: generating, if it `generates`.
    pub fn after_prompt(&self, generates: bool) -> Option<Self> {
        let pages = self.pending.pages;
        // The last page is for the next tokens.
        let decode_tokens = u64::from(pages.saturating_sub(1)) * BLOCK_TOKENS as u64;
        let pending = Pending { decodes: 1, decode_tokens, pages, ..Pending::default() };
        generates.then(|| Self { worker: self.worker.clone(), pending })
    }
}

pub(super) fn loads(choice: &Choice, need: &Need) -> Vec<Load> {
    let load = |worker: &WorkerId, pending| Load { worker: worker.clone(), pending };
    match choice {
        Choice::Split { prefill, decode } => {
            vec![load(prefill, need.prompt()), load(decode, need.generation())]
        }
        Choice::Whole { worker } => vec![load(worker, need.prompt())],
    }
}
