//! The plan of a run: every request with its absolute send time, fixed before anything is sent.

pub mod args;
pub mod arrivals;
pub mod body;
pub mod messages;
pub mod prompt;
pub mod schedule;
pub mod series;
pub mod vocabulary;
pub mod workload;

use serde::{Deserialize, Serialize};
use traces::Trace;
use traces::prefix::{Chains, InfiniteCache};
use traces::random::{RngStream, Stream};
use traces::shape::Shaped;
use traces::units::{Nanos, Range};

use self::prompt::Block;

/// Part of a run that a request belongs to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Sent to fill the server's caches; not in any figure.
    Warmup,
    /// Measured.
    #[default]
    Measured,
    /// Sent to keep up the load while measured requests are in flight; not in any figure.
    Cooldown,
}

/// Rule for the times of the later turns of a session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Turns {
    /// At their planned times, whatever the earlier turns did.
    #[default]
    Open,
    /// Their think time after the end of the session's preceding request. The planned time of such
    /// a turn only sets its position in the plan.
    AfterPrevious,
}

/// A request of a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedRequest {
    /// Intended time, from the start of the run.
    pub intended_ns: i64,
    /// Session that the request is a turn of.
    pub session: Option<u32>,
    /// Index of the turn in its session, from 0.
    pub turn: u32,
    /// Time from the end of the session's preceding request, for `Turns::AfterPrevious`.
    pub think_ns: i64,
    /// Part of the run.
    pub phase: Phase,
    /// Prompt tokens.
    pub input_tokens: u32,
    /// Output tokens, at least 1.
    pub output_tokens: u32,
    /// Blocks of the prompt. Their tokens sum to `input_tokens`.
    pub blocks: Vec<Block>,
}

/// Treatment of requests that exceed the server's context.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum OnTooLong {
    /// Leave them out and count them.
    Skip,
    /// Refuse to start the run.
    Error,
    /// Shorten the output, then the prompt, until the request fits, and count it.
    Truncate,
}

/// A plan that the server's context does not allow.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the message of a variant names its fields")]
pub enum PlanError {
    /// A request exceeds the context, under `OnTooLong::Error`.
    #[error(
        "request {index} needs {input_tokens} + {output_tokens} tokens, the server's context \
         holds {context_tokens} (see --on-too-long)"
    )]
    TooLong { index: usize, input_tokens: u32, output_tokens: u32, context_tokens: u32 },
    /// Every request exceeds the context.
    #[error("all {0} requests exceed the server's context of {1} tokens; try --scale")]
    NothingFits(usize, u32),
}

/// Requests of a run with their times.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Requests, by intended time.
    pub requests: Vec<PlannedRequest>,
    /// Requests left out because they exceed the context.
    pub refused_too_long: usize,
    /// Requests shortened to fit the context.
    pub truncated: usize,
    /// Rule for the times of later turns.
    pub turns: Turns,
    /// End of the run for turns of `Turns::AfterPrevious`: none starts at or after this time.
    pub until_ns: Option<i64>,
    /// Source of the content of the prompts, together with the ids of blocks.
    pub origin: Origin,
}

/// Origin of a plan. With equal origins, equal blocks have equal content.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// Description for people.
    pub source: String,
    /// Digest of the trace, or of the flags of a synthetic load.
    pub digest: [u8; 32],
    /// Seed of every random choice.
    pub seed: u64,
    /// Number of blocks of the whole origin, including those outside of the plan.
    pub blocks: usize,
}

/// Users of a closed loop, who send the next request some time after the last response.
#[derive(Clone, Copy, Debug)]
pub struct Users {
    /// Number of users.
    pub count: usize,
    /// Mean think time.
    pub think: Nanos,
    /// True for constant think times, false for exponential ones.
    pub steady: bool,
    /// Requests of all users together.
    pub requests: usize,
    /// End of the load: no request starts at or after this time.
    pub until: Option<Nanos>,
}

/// Hit rates of a plan with an infinite cache that stores at once.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct IdealHits {
    /// Share of the blocks.
    pub block_hit: f64,
    /// Share of the prompt tokens.
    pub token_hit: f64,
    /// Share of the prompt tokens for a server that stores blocks of its own size and always
    /// computes the last token.
    pub server_token_hit: f64,
}

impl Plan {
    /// Creates a plan of unique prompts at `times`.
    pub fn synthetic(times: &[i64], input: Range, output: Range, seed: u64) -> Self {
        let mut inputs = Stream::new(seed, RngStream::InputLengths);
        let mut outputs = Stream::new(seed, RngStream::OutputLengths);
        let requests = times
            .iter()
            .enumerate()
            .map(|(index, at)| {
                let input_tokens = inputs.between(input.lo, input.hi).max(1);
                let output_tokens = outputs.between(output.lo, output.hi);
                unique(index, *at, input_tokens, output_tokens)
            })
            .collect();
        Self { requests, ..Self::default() }
    }

    /// Creates a closed loop: every user is a session whose turns follow each other. The users
    /// start at random times within one think time, so that they do not run in step.
    pub fn closed_loop(users: &Users, input: Range, output: Range, seed: u64) -> Self {
        let mut thinking = Stream::new(seed, RngStream::ThinkTimes);
        let mut starts = Stream::new(seed, RngStream::SessionStarts);
        let think = users.think.0 as f64;
        let mut at: Vec<f64> = (0..users.count).map(|_| starts.unit() * think).collect();
        at.sort_unstable_by(f64::total_cmp);
        let times = vec![0; users.requests];
        let mut plan = Self::synthetic(&times, input, output, seed);
        for (index, request) in plan.requests.iter_mut().enumerate() {
            let user = index % users.count.max(1);
            request.session = Some(user as u32);
            request.turn = (index / users.count.max(1)) as u32;
            if request.turn > 0 {
                let part = if users.steady { 1.0 } else { thinking.exponential() };
                request.think_ns = (part * think).round() as i64;
                at[user] += request.think_ns as f64;
            }
            request.intended_ns = at[user].round() as i64;
        }
        plan.requests.sort_by_key(|request| request.intended_ns);
        Self { turns: Turns::AfterPrevious, until_ns: users.until.map(|at| at.0), ..plan }
    }

    /// Creates a plan that replays a trace.
    pub fn replay(trace: &Trace, shaped: &Shaped) -> Self {
        let requests = shaped.records.iter().enumerate().map(|(index, record)| {
            let alone = unique(index, record.at_ns, record.input_tokens, record.output_tokens);
            let blocks = match record.blocks[..] {
                [] => alone.blocks,
                _ => shaped
                    .sizes
                    .split(record)
                    .map(|(number, tokens)| Block {
                        number,
                        tokens,
                        id: trace.block_ids[number as usize],
                    })
                    .collect(),
            };
            let (session, turn, think_ns) = (record.session, record.turn, record.think_ns);
            PlannedRequest { session, turn, think_ns, blocks, ..alone }
        });
        Self { requests: requests.collect(), ..Self::default() }
    }

    /// Applies `on_too_long` to the requests that exceed `context_tokens`.
    pub fn fit(mut self, context_tokens: u32, on_too_long: OnTooLong) -> Result<Self, PlanError> {
        let before = self.requests.len();
        let context = u64::from(context_tokens);
        let mut kept = Vec::with_capacity(before);
        for (index, mut request) in self.requests.into_iter().enumerate() {
            let needs = u64::from(request.input_tokens) + u64::from(request.output_tokens);
            if needs > context {
                match on_too_long {
                    OnTooLong::Error => {
                        return Err(PlanError::TooLong {
                            index,
                            input_tokens: request.input_tokens,
                            output_tokens: request.output_tokens,
                            context_tokens,
                        });
                    }
                    OnTooLong::Skip => {
                        self.refused_too_long += 1;
                        continue;
                    }
                    OnTooLong::Truncate => {
                        self.truncated += 1;
                        shorten(&mut request, context_tokens.max(2));
                    }
                }
            }
            kept.push(request);
        }
        if kept.is_empty() {
            return Err(PlanError::NothingFits(before, context_tokens));
        }
        self.requests = kept;
        Ok(self)
    }
}

/// Computes the hit rates of `requests` with an ideal cache, by blocks of the trace and by server
/// blocks of `server_block` tokens.
pub fn ideal_hits(requests: &[PlannedRequest], server_block: u32) -> IdealHits {
    let (mut cache, mut chains) = (InfiniteCache::default(), Chains::default());
    let (mut blocks, mut tokens, mut hit_blocks, mut hit_tokens) = (0, 0, 0, 0);
    let mut server_tokens = 0;
    let granule = u64::from(server_block.max(1));
    for request in requests {
        let prompt = chains.of(request.blocks.iter().map(|b| (b.number, b.tokens)));
        let hit = cache.admit(prompt.into_iter());
        if request.phase != Phase::Measured {
            continue;
        }
        blocks += request.blocks.len();
        tokens += u64::from(request.input_tokens);
        hit_blocks += hit.blocks;
        hit_tokens += hit.tokens;
        let reusable = hit.tokens.min(u64::from(request.input_tokens).saturating_sub(1));
        server_tokens += reusable / granule * granule;
    }
    let part = |hit: f64, all: f64| if all > 0.0 { hit / all } else { 0.0 };
    IdealHits {
        block_hit: part(hit_blocks as f64, blocks as f64),
        token_hit: part(hit_tokens as f64, tokens as f64),
        server_token_hit: part(server_tokens as f64, tokens as f64),
    }
}

/// Creates a request whose prompt is one unique block.
fn unique(index: usize, at_ns: i64, input_tokens: u32, output_tokens: u32) -> PlannedRequest {
    PlannedRequest {
        intended_ns: at_ns,
        session: None,
        turn: 0,
        think_ns: 0,
        phase: Phase::Measured,
        input_tokens,
        output_tokens: output_tokens.max(1),
        blocks: vec![Block { number: index as u32, tokens: input_tokens, id: index as u64 }],
    }
}

fn shorten(request: &mut PlannedRequest, context_tokens: u32) {
    request.input_tokens = request.input_tokens.min(context_tokens - 1);
    request.output_tokens = request.output_tokens.min(context_tokens - request.input_tokens);
    let mut left = request.input_tokens;
    request.blocks.retain_mut(|block| {
        block.tokens = block.tokens.min(left);
        left -= block.tokens;
        block.tokens > 0
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> Plan {
        let lengths = Range { lo: 10, hi: 200 };
        Plan::synthetic(&[0, 5, 9, 9, 30], lengths, Range { lo: 0, hi: 50 }, 4)
    }

    fn shared(numbers: &[u32], input_tokens: u32) -> PlannedRequest {
        let blocks = numbers.iter().map(|n| Block { number: *n, tokens: 8, id: u64::from(*n) });
        PlannedRequest { blocks: blocks.collect(), ..unique(0, 0, input_tokens, 8) }
    }

    #[test]
    fn lengths_lie_in_their_ranges_and_follow_the_seed() {
        assert_eq!(plan(), plan());
        assert!(plan().requests.iter().all(|r| r.output_tokens >= 1 && r.input_tokens >= 10));
    }

    #[test]
    fn a_closed_loop_is_a_session_for_each_user() {
        let one = Range { lo: 8, hi: 8 };
        let users = |steady| Users {
            count: 3,
            think: Nanos(1_000),
            steady,
            requests: 3_000,
            until: Some(Nanos(9)),
        };
        let plan = Plan::closed_loop(&users(false), one, one, 1);
        assert_eq!(plan, Plan::closed_loop(&users(false), one, one, 1));
        assert_eq!((plan.turns, plan.until_ns), (Turns::AfterPrevious, Some(9)));
        for user in 0..3 {
            let turns: Vec<&PlannedRequest> =
                plan.requests.iter().filter(|r| r.session == Some(user)).collect();
            assert!(turns.iter().enumerate().all(|(at, r)| r.turn as usize == at));
            assert_eq!(turns.len(), 1_000);
            assert!(turns[0].intended_ns < 1_000 && turns[0].think_ns == 0);
        }
        let thinking: Vec<f64> = plan.requests.iter().map(|r| r.think_ns as f64).collect();
        let mean = thinking.iter().sum::<f64>() / 2_997.0;
        assert!((mean / 1_000.0 - 1.0).abs() < 0.05, "{mean}");
        let steady = Plan::closed_loop(&users(true), one, one, 1);
        assert!(steady.requests.iter().all(|r| r.turn == 0 || r.think_ns == 1_000));
    }

    #[test]
    fn what_does_not_fit_is_left_out_refused_or_shortened_and_always_counted() {
        let long =
            Plan { requests: vec![shared(&[0, 1, 2], 24), shared(&[0], 8)], ..Plan::default() };
        let kept = long.clone().fit(20, OnTooLong::Skip).unwrap();
        assert_eq!((kept.requests.len(), kept.refused_too_long), (1, 1));
        let error = long.clone().fit(20, OnTooLong::Error).unwrap_err();
        assert!(error.to_string().contains("request 0 needs 24 + 8 tokens"), "{error}");
        let cut = long.clone().fit(20, OnTooLong::Truncate).unwrap();
        assert_eq!((cut.requests.len(), cut.truncated), (2, 1));
        assert_eq!((cut.requests[0].input_tokens, cut.requests[0].output_tokens), (19, 1));
        assert_eq!(cut.requests[0].blocks.len(), 3);
        assert!(matches!(long.fit(1, OnTooLong::Skip), Err(PlanError::NothingFits(2, 1))));
    }

    #[test]
    fn a_server_reuses_whole_blocks_of_its_own_and_computes_the_last_token() {
        let requests = vec![shared(&[0, 1, 2], 24), shared(&[0, 1, 2], 24), shared(&[0, 9], 16)];
        let ideal = ideal_hits(&requests, 16);
        assert_eq!(ideal.token_hit, 32.0 / 64.0);
        assert_eq!(ideal.block_hit, 4.0 / 8.0);
        // 24 hit tokens hold one block of 16, 8 hit tokens none.
        assert_eq!(ideal.server_token_hit, 16.0 / 64.0);
        assert_eq!(ideal_hits(&requests, 8).server_token_hit, 24.0 / 64.0);
    }
}
