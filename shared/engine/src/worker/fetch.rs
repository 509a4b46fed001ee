//! Brings stored blocks into an admitted sequence's pages: the same pull for a prefix that is
//! reused and for a prompt that another worker computes right now.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bus::{PullError, PulledBlock};
use chassis::telemetry::OpenSpan;
use protocol::{BLOCK_TOKENS, BlockHash, Leg, Lookup, PromptDone, RequestKey};
use scheduling::planner::Admitted;
use tokio::sync::watch;

use super::registry::Moved;
use super::{Worker, spans};

/// A lookup that takes longer is worth less than computing.
const LOOKUP_TIMEOUT: Duration = Duration::from_millis(500);
/// How long found blocks may take to arrive before the rest is computed.
const REUSE_TIMEOUT: Duration = Duration::from_secs(3);
/// How long blocks may take after the prefill worker said that they are all stored.
const HANDOVER_GRACE: Duration = Duration::from_secs(2);
/// How long the last blocks may be on their way after the prefill worker said that all are stored,
/// before they are fetched from there. Short when the last block is here: what the prefill worker
/// reused it did not put, and that lies before.
const LISTEN_GRACE: Duration = Duration::from_millis(20);
const LISTEN_GRACE_SHORT: Duration = Duration::from_millis(2);
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
        let trace_id = worker.trace_id(&key);
        tracing::warn!(request = %key.request, trace_id, %error, "sequence not started");
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
    // The last block may be stored and not wanted: its last token is computed in any case.
    let wanted = stored.saturating_sub(local).min(admitted.missing.len());
    let wanted = &admitted.missing[..wanted];
    let mut arrivals = Arrivals::new(local, wanted);
    fetch(worker, key, &mut arrivals, Instant::now() + REUSE_TIMEOUT).await?;
    finish(worker, key, arrivals.prefix_blocks() * BLOCK_TOKENS, arrivals.moved).await
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
        tracing::warn!(request = %key.request, trace_id = worker.trace_id(&key), missing = tokens - here, "computing what did not come");
    }
    finish(worker, key, here, arrivals.moved).await?;
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
    moved: Moved,
) -> anyhow::Result<()> {
    if let Some(entry) = worker.registry().get_mut(&key) {
        let now = SystemTime::now();
        let admitted = entry.marks.admitted.unwrap_or(now);
        let took = now.duration_since(admitted).unwrap_or_default();
        worker.metrics.times.moved(&moved, took, &entry.trace);
        entry.marks.fetched = Some(now);
        entry.notes.moved = moved;
    }
    worker.engine.fetched(key, tokens).await?;
    Ok(())
}

/// How many of `blocks`, from the first on, the store has. A store that does not answer has none.
async fn lookup(worker: &Worker, key: RequestKey, blocks: Vec<BlockHash>) -> usize {
    let trace = worker.registry().get(&key).map(|entry| entry.trace.clone());
    let fingerprint = worker.fingerprint;
    let asked = blocks.len();
    let span = trace.as_ref().and_then(|trace| spans::lookup(trace, asked));
    let place = span.as_ref().map(OpenSpan::context).or(trace);
    let context = place.map(|place| bus::Context::new(place.traceparent())).unwrap_or_default();
    let question = Lookup { fingerprint, blocks, key, lease_ms: LEASE_MS };
    let answer = worker.bus.ask_store(&question, &context, LOOKUP_TIMEOUT).await;
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
            tracing::warn!(request = %key.request, trace_id = worker.trace_id(&key), %error, "store lookup failed: nothing is reused");
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
    arrivals.moved.path = Some("pull");
    let mut pull = match worker.blocks.pull(arrivals.awaited()).await {
        Ok(pull) => pull,
        Err(error) => {
            tracing::warn!(request = %key.request, trace_id = worker.trace_id(&key), %error, "blocks not pulled");
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
            block = pull.next() => {
                if import(worker, key, arrivals, block).await?.is_break() {
                    break;
                }
            }
            grace = &mut told, if !was_told => {
                was_told = true;
                until = until.min(tokio::time::Instant::now() + grace);
            }
            () = tokio::time::sleep_until(until) => break,
        }
    }
    Ok(())
}

/// Takes the blocks that the prefill worker puts for this one, as it puts them; fetches from the
/// store what did not come this way, or was there before.
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
    arrivals.moved.path = Some("listen");
    let mut expected = worker.tap.expect(arrivals.awaited());
    let mut until = tokio::time::Instant::from_std(deadline);
    let mut told = false;
    while !arrivals.settled() {
        tokio::select! {
            block = expected.next() => {
                let Some(block) = block else { break };
                take(worker, key, arrivals, block).await?;
                if told {
                    until = tokio::time::Instant::now() + arrivals.grace();
                }
            }
            done = wait_for(&mut handover), if !told => {
                told = true;
                if done.is_none_or(|done| done.finished) {
                    return Ok(());
                }
                until = tokio::time::Instant::now() + arrivals.grace();
            }
            () = tokio::time::sleep_until(until) => break,
        }
    }
    drop(expected);
    fetch(worker, key, arrivals, Instant::now() + HANDOVER_GRACE).await
}

/// Brings what `arrivals` wants and the store has now.
async fn fetch(
    worker: &Worker,
    key: RequestKey,
    arrivals: &mut Arrivals,
    until: Instant,
) -> anyhow::Result<()> {
    if arrivals.settled() {
        return Ok(());
    }
    arrivals.moved.path = Some("fetch");
    let mut fetch = match worker.blocks.fetch(arrivals.awaited()).await {
        Ok(fetch) => fetch,
        Err(error) => {
            tracing::warn!(request = %key.request, trace_id = worker.trace_id(&key), %error, "blocks not fetched");
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

/// Deals with what a fetch or a pull brought. Breaks when it brings nothing more.
async fn import(
    worker: &Worker,
    key: RequestKey,
    arrivals: &mut Arrivals,
    block: Option<Result<PulledBlock, PullError>>,
) -> anyhow::Result<ControlFlow<()>> {
    match block {
        Some(Ok(block)) => take(worker, key, arrivals, block).await?,
        Some(Err(PullError::Damaged { block, why })) => {
            tracing::warn!(request = %key.request, trace_id = worker.trace_id(&key), name = %block, why, "damaged block: computed here");
            worker.metrics.damaged();
            arrivals.lost(&block);
        }
        Some(Err(error)) => {
            tracing::warn!(request = %key.request, trace_id = worker.trace_id(&key), %error, "pull ended early");
            worker.metrics.pull_failed();
            return Ok(ControlFlow::Break(()));
        }
        None => return Ok(ControlFlow::Break(())),
    }
    Ok(ControlFlow::Continue(()))
}

/// Hands a block to the engine, unless it came before.
async fn take(
    worker: &Worker,
    key: RequestKey,
    arrivals: &mut Arrivals,
    block: PulledBlock,
) -> anyhow::Result<()> {
    let bytes = block.bytes.len();
    if bytes != worker.block_bytes {
        tracing::warn!(name = %block.hash, bytes, "block of a wrong size: computed here");
        worker.metrics.damaged();
        arrivals.lost(&block.hash);
        return Ok(());
    }
    let Some(index) = arrivals.arrived(&block.hash) else { return Ok(()) };
    arrivals.moved.blocks += 1;
    arrivals.moved.bytes += bytes as u64;
    worker.metrics.pulled(bytes as u64);
    worker.engine.import(key, index, block.bytes).await?;
    Ok(())
}

/// Which of a sequence's missing blocks are in.
struct Arrivals {
    first_block: usize,
    wanted: Vec<BlockHash>,
    fates: Vec<Fate>,
    moved: Moved,
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
        Self { first_block, wanted: wanted.to_vec(), fates, moved: Moved::default() }
    }

    /// Those of which nothing is known yet.
    fn awaited(&self) -> Vec<BlockHash> {
        let fates = self.wanted.iter().zip(&self.fates);
        fates.filter(|(_, fate)| **fate == Fate::Awaited).map(|(name, _)| *name).collect()
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

    /// How long to listen for what has not come, once all is said to be stored.
    fn grace(&self) -> Duration {
        match self.fates.last() {
            Some(Fate::Awaited) => LISTEN_GRACE,
            _ => LISTEN_GRACE_SHORT,
        }
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
