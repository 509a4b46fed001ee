//! Brings blocks into an admitted sequence's pages: those of a stored prefix, and those of a prompt
//! that another worker is computing.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bus::{PullError, PulledBlock};
use chassis::telemetry::OpenSpan;
use protocol::{BLOCK_TOKENS, BlockHash, Leg, Lookup, PromptDone, RequestKey};
use scheduling::planner::Admitted;
use tokio::sync::watch;

use super::registry::Transfer;
use super::{Worker, spans};

/// Longest lookup: after that, computing is cheaper.
const LOOKUP_TIMEOUT: Duration = Duration::from_millis(500);
/// Longest wait for found blocks before the rest is computed.
const REUSE_TIMEOUT: Duration = Duration::from_secs(3);
/// Longest wait for blocks after the prefill worker reported that all are stored.
const HANDOVER_GRACE: Duration = Duration::from_secs(2);
/// Longest wait for listened blocks after the prefill worker reported that all are stored, before
/// they are fetched. Short once the last block is here: the missing ones lie before it, and the
/// prefill worker did not put the blocks that it reused.
const LISTEN_GRACE: Duration = Duration::from_millis(20);
const LISTEN_GRACE_SHORT: Duration = Duration::from_millis(2);
/// Lease on the blocks that a request is about to read.
const LEASE_MS: u32 = 10_000;

/// Fetches the blocks of one admitted sequence and starts it.
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
        let trace_id = worker.trace_id(&key);
        tracing::warn!(request = %key.request, trace_id, %error, "failed to start a sequence");
    }
}

/// Reuses a stored prefix if it is longer than the worker's own.
async fn reused(worker: &Worker, admitted: &Admitted, leg: &Leg) -> anyhow::Result<()> {
    let key = admitted.key;
    let local = admitted.first_block;
    let handed_on = matches!(leg, Leg::Prefill { .. });
    let stored = if admitted.names.is_empty() || (admitted.missing.is_empty() && !handed_on) {
        0
    } else {
        lookup(worker, key, admitted.names.clone()).await
    };
    if handed_on && stored < local {
        // The store lacks blocks of this pool, and the decode worker needs them.
        worker.engine.export(key, stored, local).await?;
    }
    // The last block may be stored and yet not needed: its last token is computed in any case.
    let wanted = stored.saturating_sub(local).min(admitted.missing.len());
    let wanted = &admitted.missing[..wanted];
    let mut arrivals = Arrivals::new(local, wanted);
    fetch(worker, key, &mut arrivals, Instant::now() + REUSE_TIMEOUT).await?;
    finish(worker, key, arrivals.prefix_blocks() * BLOCK_TOKENS, arrivals.transfer).await
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
    if worker.listens_for(tokens) {
        listen(worker, key, &mut arrivals, handover.clone(), deadline).await?;
    } else if !admitted.missing.is_empty() {
        let mut done = handover.clone();
        let grace = async move {
            let done = wait_for(&mut done).await;
            if done.is_some_and(|done| done.finished || !done.unstored.is_empty()) {
                Duration::ZERO
            } else {
                HANDOVER_GRACE
            }
        };
        pull(worker, key, &mut arrivals, grace, deadline).await?;
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
        let (trace_id, missing) = (worker.trace_id(&key), tokens - here);
        tracing::warn!(request = %key.request, trace_id, missing, "computing prompt tokens whose blocks did not arrive");
    }
    finish(worker, key, here, arrivals.transfer).await?;
    worker.engine.first_token(key, token).await?;
    Ok(())
}

async fn wait_for(handover: &mut watch::Receiver<Option<PromptDone>>) -> Option<PromptDone> {
    handover.wait_for(Option::is_some).await.ok().and_then(|done| done.clone())
}

async fn finish(
    worker: &Worker,
    key: RequestKey,
    tokens: usize,
    transfer: Transfer,
) -> anyhow::Result<()> {
    if let Some(entry) = worker.registry().get_mut(&key) {
        let now = SystemTime::now();
        let admitted = entry.stage_times.admitted.unwrap_or(now);
        let took = now.duration_since(admitted).unwrap_or_default();
        worker.metrics.times.transferred(&transfer, took, &entry.trace);
        entry.stage_times.fetched = Some(now);
        entry.trace_notes.transfer = transfer;
    }
    worker.engine.fetched(key, tokens).await?;
    Ok(())
}

/// Returns the length of the longest prefix of `blocks` that the store has; 0 if the lookup fails.
async fn lookup(worker: &Worker, key: RequestKey, blocks: Vec<BlockHash>) -> usize {
    let trace = worker.registry().get(&key).map(|entry| entry.trace.clone());
    let fingerprint = worker.fingerprint;
    let asked = blocks.len();
    let span = trace.as_ref().and_then(|trace| spans::lookup(trace, asked));
    let parent = span.as_ref().map(OpenSpan::context).or(trace);
    let context = parent.map(|parent| bus::Context::new(parent.traceparent())).unwrap_or_default();
    let request = Lookup { fingerprint, blocks, key, lease_ms: LEASE_MS };
    let answer = worker.bus.ask_store(&request, &context, LOOKUP_TIMEOUT).await;
    spans::looked_up(span, answer.as_ref().map(|reply| reply.stored));
    match answer {
        Ok(reply) => {
            worker.metrics.looked_up(asked as u64, u64::from(reply.stored));
            if let Some(entry) = worker.registry().get_mut(&key).filter(|_| reply.stored != 0) {
                entry.leased = true;
            }
            (reply.stored as usize).min(asked)
        }
        Err(error) => {
            worker.metrics.lookup_failed();
            let trace_id = worker.trace_id(&key);
            tracing::warn!(request = %key.request, trace_id, %error, "store lookup failed, reusing nothing");
            0
        }
    }
}

/// Pulls the blocks that `arrivals` awaits. Ends when all have arrived, at `until`, or after `grace`
/// and then the duration that it resolves to.
async fn pull(
    worker: &Worker,
    key: RequestKey,
    arrivals: &mut Arrivals,
    grace: impl Future<Output = Duration>,
    until: Instant,
) -> anyhow::Result<()> {
    arrivals.transfer.path = Some("pull");
    let mut pull = match worker.blocks.pull(arrivals.awaited()).await {
        Ok(pull) => pull,
        Err(error) => {
            let trace_id = worker.trace_id(&key);
            tracing::warn!(request = %key.request, trace_id, %error, "failed to pull blocks");
            worker.metrics.pull_failed();
            grace.await;
            return Ok(());
        }
    };
    tokio::pin!(grace);
    let until = tokio::time::Instant::from_std(until);
    pull.finish_by(until);
    let mut has_grace = false;
    while !arrivals.settled() {
        tokio::select! {
            block = pull.next() => {
                if import(worker, key, arrivals, block).await?.is_break() {
                    break;
                }
            }
            grace = &mut grace, if !has_grace => {
                has_grace = true;
                pull.finish_by(until.min(tokio::time::Instant::now() + grace));
            }
        }
    }
    Ok(())
}

/// Imports the blocks that the prefill worker puts for this one, as it puts them; then fetches from
/// the store those that did not arrive or were stored before.
async fn listen(
    worker: &Worker,
    key: RequestKey,
    arrivals: &mut Arrivals,
    mut handover: watch::Receiver<Option<PromptDone>>,
    deadline: Instant,
) -> anyhow::Result<()> {
    if arrivals.settled() {
        return Ok(());
    }
    arrivals.transfer.path = Some("listen");
    let mut expectation = worker.subscription.expect(arrivals.awaited());
    let mut until = tokio::time::Instant::from_std(deadline);
    let mut handed_over = false;
    while !arrivals.settled() {
        tokio::select! {
            block = expectation.next() => {
                let Some(block) = block else { break };
                take(worker, key, arrivals, block).await?;
                if handed_over {
                    until = tokio::time::Instant::now() + arrivals.grace();
                }
            }
            done = wait_for(&mut handover), if !handed_over => {
                handed_over = true;
                if done.is_none_or(|done| done.finished) {
                    return Ok(());
                }
                until = tokio::time::Instant::now() + arrivals.grace();
            }
            () = tokio::time::sleep_until(until) => break,
        }
    }
    drop(expectation);
    fetch(worker, key, arrivals, Instant::now() + HANDOVER_GRACE).await
}

/// Fetches the blocks that `arrivals` awaits and the store has now.
async fn fetch(
    worker: &Worker,
    key: RequestKey,
    arrivals: &mut Arrivals,
    until: Instant,
) -> anyhow::Result<()> {
    if arrivals.settled() {
        return Ok(());
    }
    arrivals.transfer.path = Some("fetch");
    let mut fetch = match worker.blocks.fetch(arrivals.awaited()).await {
        Ok(fetch) => fetch,
        Err(error) => {
            let trace_id = worker.trace_id(&key);
            tracing::warn!(request = %key.request, trace_id, %error, "failed to fetch blocks");
            worker.metrics.pull_failed();
            return Ok(());
        }
    };
    while !arrivals.settled() {
        let Ok(block) = tokio::time::timeout_at(until.into(), fetch.next()).await else { break };
        if import(worker, key, arrivals, block).await?.is_break() {
            break;
        }
    }
    Ok(())
}

/// Handles the outcome of a fetch or a pull. Breaks when no more blocks follow.
async fn import(
    worker: &Worker,
    key: RequestKey,
    arrivals: &mut Arrivals,
    block: Option<Result<PulledBlock, PullError>>,
) -> anyhow::Result<ControlFlow<()>> {
    match block {
        Some(Ok(block)) => take(worker, key, arrivals, block).await?,
        Some(Err(PullError::Damaged { hash, why })) => {
            let trace_id = worker.trace_id(&key);
            tracing::warn!(request = %key.request, trace_id, %hash, why, "received a damaged block, computing it");
            worker.metrics.damaged();
            arrivals.lost(&hash);
        }
        Some(Err(error)) => {
            let trace_id = worker.trace_id(&key);
            tracing::warn!(request = %key.request, trace_id, %error, "transfer of blocks ended early");
            worker.metrics.pull_failed();
            return Ok(ControlFlow::Break(()));
        }
        None => return Ok(ControlFlow::Break(())),
    }
    Ok(ControlFlow::Continue(()))
}

/// Hands a block to the engine, unless it arrived before.
async fn take(
    worker: &Worker,
    key: RequestKey,
    arrivals: &mut Arrivals,
    block: PulledBlock,
) -> anyhow::Result<()> {
    let bytes = block.bytes.len();
    if bytes != worker.block_bytes {
        let expected = worker.block_bytes;
        tracing::warn!(hash = %block.hash, bytes, expected, "received a block of a wrong size, computing it");
        worker.metrics.damaged();
        arrivals.lost(&block.hash);
        return Ok(());
    }
    let Some(index) = arrivals.arrived(&block.hash) else { return Ok(()) };
    arrivals.transfer.blocks += 1;
    arrivals.transfer.bytes += bytes as u64;
    worker.metrics.pulled(bytes as u64);
    worker.engine.import(key, index, block.bytes).await?;
    Ok(())
}

/// The missing blocks of a sequence, and which of them have arrived.
struct Arrivals {
    first_block: usize,
    wanted: Vec<BlockHash>,
    fates: Vec<Fate>,
    transfer: Transfer,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Awaited,
    Here,
    /// It arrived damaged.
    Lost,
}

impl Arrivals {
    fn new(first_block: usize, wanted: &[BlockHash]) -> Self {
        let fates = vec![Fate::Awaited; wanted.len()];
        Self { first_block, wanted: wanted.to_vec(), fates, transfer: Transfer::default() }
    }

    /// Returns the blocks that have not arrived.
    fn awaited(&self) -> Vec<BlockHash> {
        let fates = self.wanted.iter().zip(&self.fates);
        fates.filter(|(_, fate)| **fate == Fate::Awaited).map(|(hash, _)| *hash).collect()
    }

    /// Returns the index in the sequence of a block that arrives for the first time.
    fn arrived(&mut self, hash: &BlockHash) -> Option<usize> {
        self.settle(hash, Fate::Here)
    }

    fn lost(&mut self, hash: &BlockHash) {
        self.settle(hash, Fate::Lost);
    }

    fn settle(&mut self, hash: &BlockHash, fate: Fate) -> Option<usize> {
        let at = self.wanted.iter().position(|wanted| wanted == hash)?;
        let before = std::mem::replace(&mut self.fates[at], fate);
        (before == Fate::Awaited).then_some(self.first_block + at)
    }

    fn settled(&self) -> bool {
        !self.fates.contains(&Fate::Awaited)
    }

    /// Returns how long to listen for missing blocks, once all are reported as stored.
    fn grace(&self) -> Duration {
        match self.fates.last() {
            Some(Fate::Awaited) => LISTEN_GRACE,
            _ => LISTEN_GRACE_SHORT,
        }
    }

    /// Returns the number of blocks from the beginning of the sequence that are in its pages.
    fn prefix_blocks(&self) -> usize {
        self.first_block + self.fates.iter().take_while(|fate| **fate == Fate::Here).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_unbroken_prefix_counts() {
        let hashes: Vec<BlockHash> = (0..3).map(|of| BlockHash([of; 16])).collect();
        let mut arrivals = Arrivals::new(2, &hashes);
        assert_eq!(arrivals.arrived(&hashes[1]), Some(3));
        assert_eq!(arrivals.prefix_blocks(), 2);
        assert_eq!(arrivals.arrived(&hashes[0]), Some(2));
        assert_eq!(arrivals.arrived(&hashes[0]), None, "a repetition is not imported again");
        assert_eq!(arrivals.prefix_blocks(), 4);
        assert!(!arrivals.settled());
        arrivals.lost(&hashes[2]);
        assert!(arrivals.settled());
        assert_eq!(arrivals.prefix_blocks(), 4, "a lost block ends the prefix");
    }
}
