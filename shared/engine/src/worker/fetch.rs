//! Brings stored blocks into an admitted sequence's pages: the same pull for a prefix that is
//! reused and for a prompt that another worker computes right now.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bus::PullError;
use protocol::{BLOCK_TOKENS, BlockHash, Leg, Lookup, PromptDone, RequestKey};
use scheduling::planner::Admitted;

use super::Worker;

/// A lookup that takes longer is worth less than computing.
const LOOKUP_TIMEOUT: Duration = Duration::from_millis(500);
/// How long found blocks may take to arrive before the rest is computed.
const REUSE_TIMEOUT: Duration = Duration::from_secs(3);
/// How long blocks may take after the prefill worker said that they are all stored.
const HANDOVER_GRACE: Duration = Duration::from_secs(2);
/// How long the store keeps what a request is about to read.
const LEASE_MS: u32 = 10_000;

/// Fetches for one admitted sequence and starts it.
pub(super) async fn run(worker: Arc<Worker>, admitted: Admitted) {
    let key = admitted.key;
    let Some((leg, deadline, tokens)) =
        worker.registry().get(&key).map(|entry| (entry.leg.clone(), entry.deadline, entry.tokens))
    else {
        return;
    };
    let started = if admitted.awaited {
        handed_over(&worker, &admitted, tokens, deadline).await
    } else {
        reused(&worker, &admitted, &leg).await
    };
    if let Err(error) = started {
        tracing::warn!(request = %key.request, %error, "sequence not started");
    }
}

/// Reuses a stored prefix, if there is one longer than the worker's own.
async fn reused(worker: &Worker, admitted: &Admitted, leg: &Leg) -> anyhow::Result<()> {
    let key = admitted.key;
    let local = admitted.first_block;
    let handed_on = matches!(leg, Leg::Prefill { .. });
    let stored = match admitted.names.is_empty() || (admitted.missing.is_empty() && !handed_on) {
        true => 0,
        false => lookup(worker, key, admitted.names.clone()).await,
    };
    if handed_on && stored < local {
        // The store has lost (or never had) blocks that are here; decode needs them.
        worker.engine.export(key, stored, local).await?;
    }
    let wanted = admitted.missing.get(..stored.saturating_sub(local)).unwrap_or_default();
    let mut arrivals = Arrivals::new(local, wanted);
    if !wanted.is_empty() {
        let until = Instant::now() + REUSE_TIMEOUT;
        pull(worker, key, &mut arrivals, std::future::pending(), until).await?;
    }
    finish(worker, key, arrivals.prefix_blocks() * BLOCK_TOKENS).await
}

/// Waits for the blocks of a prompt that another worker computes, then for its first token.
async fn handed_over(
    worker: &Worker,
    admitted: &Admitted,
    tokens: usize,
    deadline: Instant,
) -> anyhow::Result<()> {
    let key = admitted.key;
    let Some(mut handover) = worker.registry().get(&key).map(|entry| entry.handover.subscribe())
    else {
        return Ok(());
    };
    let mut arrivals = Arrivals::new(admitted.first_block, &admitted.missing);
    if !admitted.missing.is_empty() {
        let mut said = handover.clone();
        let told = async move {
            let done = wait_for(&mut said).await;
            match done.as_ref().is_some_and(|done| done.finished || !done.unstored.is_empty()) {
                true => Duration::ZERO,
                false => HANDOVER_GRACE,
            }
        };
        pull(worker, key, &mut arrivals, told, deadline).await?;
    }
    let blocks = arrivals.prefix_blocks();
    let here = (blocks * BLOCK_TOKENS).min(tokens);
    let left = deadline.saturating_duration_since(Instant::now());
    let done = tokio::time::timeout(left, wait_for(&mut handover)).await.ok().flatten();
    // Without a hand-over the sequence waits in the planner until its deadline or lease ends.
    let Some(done) = done else { return Ok(()) };
    let Some(token) = done.first_token.filter(|_| !done.finished) else {
        worker.engine.cancel(&key);
        worker.registry().end(&key, Instant::now());
        return Ok(());
    };
    if here < tokens {
        worker.metrics.recomputed((tokens - here) as u64);
        tracing::warn!(request = %key.request, missing = tokens - here, "computing what did not come");
    }
    finish(worker, key, here).await?;
    worker.engine.first_token(key, token).await?;
    Ok(())
}

async fn wait_for(
    handover: &mut tokio::sync::watch::Receiver<Option<PromptDone>>,
) -> Option<PromptDone> {
    handover.wait_for(Option::is_some).await.ok().and_then(|done| done.clone())
}

async fn finish(worker: &Worker, key: RequestKey, tokens: usize) -> anyhow::Result<()> {
    if let Some(entry) = worker.registry().get_mut(&key) {
        entry.marks.fetched = Some(SystemTime::now());
    }
    worker.engine.fetched(key, tokens).await?;
    Ok(())
}

/// How many of `blocks`, from the first on, the store has. A store that does not answer has none.
async fn lookup(worker: &Worker, key: RequestKey, blocks: Vec<BlockHash>) -> usize {
    let context = worker.context(&key);
    let fingerprint = worker.fingerprint;
    let asked = blocks.len();
    let question = Lookup { fingerprint, blocks, key, lease_ms: LEASE_MS };
    match worker.bus.ask_store(&question, &context, LOOKUP_TIMEOUT).await {
        Ok(reply) => {
            worker.metrics.looked_up(asked as u64, u64::from(reply.stored));
            (reply.stored as usize).min(asked)
        }
        Err(error) => {
            worker.metrics.lookup_failed();
            tracing::warn!(request = %key.request, %error, "store lookup failed: nothing is reused");
            0
        }
    }
}

/// Pulls what `arrivals` wants. Ends when all is in, at `until`, or some time after `told`
/// resolves: that time is what it resolves to.
async fn pull(
    worker: &Worker,
    key: RequestKey,
    arrivals: &mut Arrivals,
    told: impl Future<Output = Duration>,
    until: Instant,
) -> anyhow::Result<()> {
    let mut pull = match worker.blocks.pull(arrivals.missing()).await {
        Ok(pull) => pull,
        Err(error) => {
            tracing::warn!(request = %key.request, %error, "blocks not pulled");
            worker.metrics.pull_failed();
            told.await;
            return Ok(());
        }
    };
    tokio::pin!(told);
    let mut until = tokio::time::Instant::from_std(until);
    let mut was_told = false;
    while !arrivals.settled() {
        tokio::select! {
            block = pull.next() => match block {
                Some(Ok(block)) if block.bytes.len() == worker.block_bytes => {
                    let Some(index) = arrivals.arrived(&block.hash) else { continue };
                    worker.metrics.pulled(block.bytes.len() as u64);
                    worker.engine.import(key, index, block.bytes).await?;
                }
                Some(Ok(block)) => {
                    let bytes = block.bytes.len();
                    tracing::warn!(name = %block.hash, bytes, "block of a wrong size: computed here");
                    worker.metrics.damaged();
                    arrivals.lost(&block.hash);
                }
                Some(Err(PullError::Damaged { block, why })) => {
                    tracing::warn!(request = %key.request, name = %block, why, "damaged block: computed here");
                    worker.metrics.damaged();
                    arrivals.lost(&block);
                }
                Some(Err(error)) => {
                    tracing::warn!(request = %key.request, %error, "pull ended early");
                    worker.metrics.pull_failed();
                    break;
                }
                None => break,
            },
            grace = &mut told, if !was_told => {
                was_told = true;
                until = until.min(tokio::time::Instant::now() + grace);
            }
            () = tokio::time::sleep_until(until) => break,
        }
    }
    Ok(())
}

/// Which of a sequence's missing blocks are in.
struct Arrivals {
    first_block: usize,
    wanted: Vec<BlockHash>,
    fates: Vec<Fate>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Awaited,
    Here,
    /// What came cannot be used.
    Lost,
}

impl Arrivals {
    fn new(first_block: usize, wanted: &[BlockHash]) -> Self {
        let fates = vec![Fate::Awaited; wanted.len()];
        Self { first_block, wanted: wanted.to_vec(), fates }
    }

    fn missing(&self) -> Vec<BlockHash> {
        self.wanted.clone()
    }

    /// The index in the sequence of a block that came, the first time it comes.
    fn arrived(&mut self, name: &BlockHash) -> Option<usize> {
        self.settle(name, Fate::Here)
    }

    fn lost(&mut self, name: &BlockHash) {
        self.settle(name, Fate::Lost);
    }

    fn settle(&mut self, name: &BlockHash, fate: Fate) -> Option<usize> {
        let at = self.wanted.iter().position(|wanted| wanted == name)?;
        let before = std::mem::replace(&mut self.fates[at], fate);
        (before == Fate::Awaited).then_some(self.first_block + at)
    }

    fn settled(&self) -> bool {
        !self.fates.contains(&Fate::Awaited)
    }

    /// Blocks from the sequence's beginning on that are in its pages.
    fn prefix_blocks(&self) -> usize {
        self.first_block + self.fates.iter().take_while(|fate| **fate == Fate::Here).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_unbroken_prefix_counts() {
        let names: Vec<BlockHash> = (0..3).map(|of| BlockHash([of; 16])).collect();
        let mut arrivals = Arrivals::new(2, &names);
        assert_eq!(arrivals.arrived(&names[1]), Some(3));
        assert_eq!(arrivals.prefix_blocks(), 2);
        assert_eq!(arrivals.arrived(&names[0]), Some(2));
        assert_eq!(arrivals.arrived(&names[0]), None, "a repetition is not imported again");
        assert_eq!(arrivals.prefix_blocks(), 4);
        assert!(!arrivals.settled());
        arrivals.lost(&names[2]);
        assert!(arrivals.settled());
        assert_eq!(arrivals.prefix_blocks(), 4, "a lost block ends the prefix");
    }
}
