//! The plan of a run: every request with its absolute send time, made before anything is sent.

pub mod args;
pub mod arrivals;
pub mod body;
pub mod prompt;
pub mod schedule;
pub mod series;
pub mod vocabulary;
pub mod workload;

use serde::{Deserialize, Serialize};

use self::prompt::Block;
use traces::Trace;
use traces::prefix::{Chains, InfiniteCache};
use traces::random::{Cause, Stream};
use traces::shape::Shaped;
use traces::units::{Nanos, Range};

/// Whether a request is measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// It is sent to bring the server into its state, and is in no figure.
    Warmup,
    /// It counts.
    #[default]
    Measured,
    /// It keeps the load up while measured ones are in flight, and is in no figure.
    Cooldown,
}

/// When the later turns of a session are due.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Turns {
    /// At their planned times, whatever became of the turns before them.
    #[default]
    Open,
    /// Their think time after the session's preceding request in the plan was over; the planned time
    /// of such a turn only says where it stands in the plan.
    AfterPrevious,
}

/// One request to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedRequest {
    /// When, from the start of the run.
    pub intended_ns: i64,
    /// The session it is a turn of.
    pub session: Option<u32>,
    /// Its place in that session, from 0.
    pub turn: u32,
    /// From the end of the session's preceding request to this one, for `Turns::AfterPrevious`.
    pub think_ns: i64,
    /// Whether it is measured.
    pub phase: Phase,
    /// Prompt tokens.
    pub input_tokens: u32,
    /// Output tokens, at least 1.
    pub output_tokens: u32,
    /// The prompt's blocks; their tokens are `input_tokens` together.
    pub blocks: Vec<Block>,
}

/// What happens to requests that exceed the server's context.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum OnTooLong {
    /// They are left out and counted.
    Skip,
    /// The run does not start.
    Error,
    /// The output, then the prompt, is shortened until the request fits, and that is counted.
    Truncate,
}

/// Why a plan cannot be carried out.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// A request exceeds the context, and `OnTooLong::Error` was asked for.
    #[error(
        "request {index} needs {input_tokens} + {output_tokens} tokens, the server's context \
         holds {context_tokens} (see --on-too-long)"
    )]
    TooLong {
        /// Its place in the plan.
        index: usize,
        /// Its prompt tokens.
        input_tokens: u32,
        /// Its output tokens.
        output_tokens: u32,
        /// What the server can hold.
        context_tokens: u32,
    },
    /// Every request was left out.
    #[error("all {0} requests exceed the server's context of {1} tokens; try --scale")]
    NothingFits(usize, u32),
}

/// Everything that will be sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The requests, by intended time.
    pub requests: Vec<PlannedRequest>,
    /// Requests left out because they exceed the context.
    pub refused_too_long: usize,
    /// Requests shortened to fit the context.
    pub truncated: usize,
    /// When the later turns of sessions are due.
    pub turns: Turns,
    /// No turn of `Turns::AfterPrevious` is begun at or after this time.
    pub until_ns: Option<i64>,
    /// What the content of its prompts is drawn from, together with the names of blocks.
    pub origin: Origin,
}

/// Where a plan comes from: what makes the same prompts of the same blocks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// In words.
    pub source: String,
    /// Digest of the trace, or of what stands for it.
    pub digest: [u8; 32],
    /// The seed.
    pub seed: u64,
    /// How many blocks the whole of it names, those outside of the plan included.
    pub blocks: usize,
}

/// Users who send their next request some time after the answer to the one before.
#[derive(Clone, Copy, Debug)]
pub struct Users {
    /// How many.
    pub count: usize,
    /// How long they think, on average.
    pub think: Nanos,
    /// Whether they always think so long, or as long as a Poisson process has them wait.
    pub steady: bool,
    /// Requests of all of them together.
    pub requests: usize,
    /// No request is begun at or after this time.
    pub until: Option<Nanos>,
}

/// What an infinite cache that stores at once would hit in a plan.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct IdealHits {
    /// Part of the blocks.
    pub block_hit: f64,
    /// Part of the prompt tokens.
    pub token_hit: f64,
    /// Part of the prompt tokens that a server can reuse which stores blocks of its own size and
    /// always computes the last token.
    pub server_token_hit: f64,
}

impl Plan {
    /// A plan of unique prompts at `times`.
    pub fn synthetic(times: &[i64], input: Range, output: Range, seed: u64) -> Self {
        let mut inputs = Stream::new(seed, Cause::InputLengths);
        let mut outputs = Stream::new(seed, Cause::OutputLengths);
        let request = |(index, at): (usize, &i64)| {
            let input_tokens = inputs.between(input.lo, input.hi).max(1);
            let output_tokens = outputs.between(output.lo, output.hi);
            unique(index, *at, input_tokens, output_tokens)
        };
        let requests = times.iter().enumerate().map(request).collect();
        Self { requests, ..Self::default() }
    }

    /// A closed loop: every user is a session whose turns wait for each other. Users begin within
    /// one think time, so that they do not start in step.
    pub fn closed_loop(users: &Users, input: Range, output: Range, seed: u64) -> Self {
        let mut thinking = Stream::new(seed, Cause::ThinkTimes);
        let mut starts = Stream::new(seed, Cause::SessionStarts);
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

    /// A plan that replays a trace.
    pub fn replay(trace: &Trace, shaped: &Shaped) -> Self {
        let requests = shaped.records.iter().enumerate().map(|(index, record)| {
            let alone = unique(index, record.at_ns, record.input_tokens, record.output_tokens);
            let name = |(number, tokens): (u32, u32)| Block {
                number,
                tokens,
                id: trace.block_ids[number as usize],
            };
            let blocks = match record.blocks[..] {
                [] => alone.blocks,
                _ => shaped.sizes.split(record).map(name).collect(),
            };
            let (session, turn, think_ns) = (record.session, record.turn, record.think_ns);
            PlannedRequest { session, turn, think_ns, blocks, ..alone }
        });
        Self { requests: requests.collect(), ..Self::default() }
    }

    /// Deals with the requests that exceed `context_tokens`.
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

/// What an ideal cache would hit in `requests`, in all and with server blocks of `server_block`
/// tokens.
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

/// A request whose prompt is one block of its own.
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
        let block = |n: &u32| Block { number: *n, tokens: 8, id: u64::from(*n) };
        let blocks = numbers.iter().map(block).collect();
        PlannedRequest { blocks, ..unique(0, 0, input_tokens, 8) }
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
