//! What a placement gives to workers.

use protocol::WorkerId;
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
        let Pending { pages, prompt_tokens, .. } = self.pending;
        let pending =
            Pending { decodes: 1, decode_tokens: prompt_tokens, pages, ..Pending::default() };
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
