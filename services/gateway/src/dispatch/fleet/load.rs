//! What a placement gives to workers.

use protocol::{BLOCK_TOKENS, WorkerId};
use scheduling::route::{Choice, Need, Pending};

/// Work that this gateway gave to a worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Load {
    /// To whom.
    pub worker: WorkerId,
    /// How much.
    pub pending: Pending,
}

impl Load {
    /// What is left of a load when its prompt is computed: it generates, if it is to.
    pub fn after_prompt(&self, generates: bool) -> Option<Self> {
        let pages = self.pending.pages;
        // The last page is for what comes.
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
