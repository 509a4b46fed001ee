//! A worker's blocks on their way: out of the store, into it, and from prefill to decode.

use protocol::{
    BLOCK_TOKENS, BlockHash, ErrorClass, Event, Failure, Leg, PromptDone, Refusal, RequestKey,
};

use super::Worker;
use crate::fabric::Fabric;
use crate::message::{Envelope, ToStore, ToWorker, WorkerTimer};

/// Before an unanswered message is sent again.
const AGAIN_US: u64 = 200_000;
const TRIES_MAX: u32 = 8;

impl Worker {
    /// Asks for what a sequence with fresh pages lacks: what is there now, or, where another
    /// worker computes it, what is there and what comes.
    pub(super) fn ask_store(&mut self, key: RequestKey, tries: u32, fabric: &mut Fabric) {
        let Some(fetch) = self.taken.get(&key).and_then(|taken| taken.fetch.as_ref()) else {
            return;
        };
        let missing = fetch.missing.iter().filter(|block| !fetch.arrived.contains(*block));
        let blocks: Vec<_> = missing.copied().collect();
        if fetch.awaited {
            self.join(key);
        } else if blocks.is_empty() || tries >= TRIES_MAX {
            self.found(key, 0);
        }
        let Some(fetch) = self.taken.get(&key).and_then(|taken| taken.fetch.as_ref()) else {
            return;
        };
        if blocks.is_empty() {
            return;
        }
        let from = self.id.clone();
        let (message, timer) = if fetch.awaited {
            (ToStore::Pull { from, key, blocks }, WorkerTimer::PullAgain(key, tries + 1))
        } else {
            (ToStore::Lookup { from, key, blocks }, WorkerTimer::LookupAgain(key, tries + 1))
        };
        fabric.send(Envelope::ToStore(message));
        self.later(AGAIN_US, timer, fabric);
    }

    pub(super) fn found(&mut self, key: RequestKey, stored: usize) {
        let Some(fetch) =
            self.taken.get_mut(&key).and_then(|taken| taken.fetch.take_if(|fetch| !fetch.awaited))
        else {
            return;
        };
        let until = fetch.first_block + stored.min(fetch.missing.len());
        for block in fetch.first_block..until {
            self.planner.imported(&key, block);
        }
        self.planner.fetched(&key, until * BLOCK_TOKENS);
    }

    pub(super) fn stored(&mut self, key: RequestKey, blocks: &[BlockHash]) {
        let Some(fetch) = self.taken.get_mut(&key).and_then(|taken| taken.fetch.as_mut()) else {
            return;
        };
        for block in blocks {
            let Some(at) = fetch.missing.iter().position(|missing| missing == block) else {
                continue;
            };
            if fetch.awaited && fetch.arrived.insert(*block) {
                self.planner.imported(&key, fetch.first_block + at);
            }
        }
        self.join(key);
    }

    pub(super) fn prompt_done(&mut self, done: PromptDone) {
        let key = done.key;
        match self.taken.get_mut(&key) {
            Some(taken) if matches!(taken.leg, Leg::Decode { .. }) && taken.done.is_none() => {
                taken.done = Some(done);
                self.join(key);
            }
            Some(_) => {}
            None => {
                self.early.insert(key, done);
            }
        }
    }

    /// The sequence goes on here when its blocks are in and its first token is known.
    fn join(&mut self, key: RequestKey) {
        let Some(taken) = self.taken.get_mut(&key) else { return };
        let (Some(fetch), Some(done)) = (&taken.fetch, &taken.done) else { return };
        let came = |block: &BlockHash| fetch.arrived.contains(block);
        let mut missing = fetch.missing.iter();
        if !fetch.awaited || !missing.all(|block| came(block) || done.unstored.contains(block)) {
            return;
        }
        let here = fetch.missing.iter().take_while(|block| came(block)).count();
        let tokens = if here == fetch.missing.len() {
            usize::MAX
        } else {
            (fetch.first_block + here) * BLOCK_TOKENS
        };
        let (first_token, finished) = (done.first_token, done.finished);
        taken.fetch = None;
        self.planner.fetched(&key, tokens);
        let ended = match first_token {
            Some(token) if !finished => self.planner.first_token(&key, token).is_some(),
            _ => true,
        };
        if ended {
            self.planner.retire(&key);
            self.taken.remove(&key);
        }
    }

    /// Sends all blocks of a request to the store; what a prefill leg owes is sent until it is
    /// taken.
    pub(super) fn put(&mut self, key: RequestKey, tries: u32, fabric: &mut Fabric) {
        let Some(taken) = self.taken.get(&key).filter(|taken| !taken.reported) else { return };
        if tries >= TRIES_MAX {
            self.taken.remove(&key);
            let refusal = Refusal::new(ErrorClass::Retry, "the store does not answer");
            return self.send_events(vec![Event::Failed(Failure { key, refusal })], fabric);
        }
        let (from, blocks) = (self.id.clone(), taken.put.clone());
        let owed = taken.done.is_some() && matches!(taken.leg, Leg::Prefill { .. });
        fabric.send(Envelope::ToStore(ToStore::Put { from, key, blocks }));
        if owed {
            self.later(AGAIN_US, WorkerTimer::PutAgain(key, tries + 1), fabric);
        }
    }

    pub(super) fn put_done(&mut self, key: RequestKey, blocks: usize, fabric: &mut Fabric) {
        let Some(taken) = self.taken.get_mut(&key) else { return };
        let prefill = matches!(taken.leg, Leg::Prefill { .. });
        if prefill && taken.done.is_some() && !taken.reported && blocks == taken.put.len() {
            taken.reported = true;
            self.tell_decode(key, 0, fabric);
        }
    }

    pub(super) fn tell_decode(&mut self, key: RequestKey, tries: u32, fabric: &mut Fabric) {
        let Some(taken) = self.taken.get(&key) else { return };
        let (Leg::Prefill { decode }, Some(done)) = (&taken.leg, &taken.done) else { return };
        if tries >= TRIES_MAX {
            let message = format!("worker {decode} does not take the prompt over");
            self.taken.remove(&key);
            let refusal = Refusal::new(ErrorClass::Retry, message);
            return self.send_events(vec![Event::Failed(Failure { key, refusal })], fabric);
        }
        let message = ToWorker::PromptDone { from: self.id.clone(), done: done.clone() };
        fabric.send(Envelope::ToWorker(decode.clone(), message));
        self.later(AGAIN_US, WorkerTimer::PromptDoneAgain(key, tries + 1), fabric);
    }
}
