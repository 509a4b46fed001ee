//! Chooses where a request runs: predicted milliseconds for every useful placement, cheapest wins.
//!
//! The cost of a (prefill, decode) pair is a part that depends on the prefill worker, one that
//! depends on the decode worker, and nothing else; so the few cheapest of each side hold the
//! cheapest pair, and a decision looks at each worker once.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::fmt;

use protocol::{BLOCK_TOKENS, ErrorClass, Refusal, Role, WorkerId};

pub use self::ledger::Ledger;
pub use self::prefixes::{Names, Prefixes};
use self::view::EXPECTED_OUTPUT_TOKENS;
pub use self::view::{Need, Pending, WorkerView};

mod ledger;
mod prefixes;
mod view;

/// Candidates kept per side; two would do for `prefill != decode`, the rest explain the choice.
const KEPT: usize = 3;
/// Microseconds to hand one block over, until workers measure it.
const TRANSFER_BLOCK_US: f32 = 1_500.0;

/// Policy for running prefill and decode on different workers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Disaggregate {
    /// Always, if there are both roles and the prompt fills a block.
    #[default]
    Always,
    /// If the prices are lower that way.
    Auto,
    /// Never.
    Never,
}

/// Placement of a request.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Choice {
    /// Prompt here, generation there.
    Split {
        /// Computes the prompt.
        prefill: WorkerId,
        /// Generates.
        decode: WorkerId,
    },
    /// Both on one worker.
    Whole {
        /// The worker.
        worker: WorkerId,
    },
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Split { prefill, decode } => write!(f, "{prefill}>{decode}"),
            Self::Whole { worker } => write!(f, "{worker}"),
        }
    }
}

/// Predicted milliseconds of a placement, by cause.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Price {
    /// Until the prompt begins.
    pub queue_ms: f32,
    /// Computing the uncached part of the prompt.
    pub prefill_ms: f32,
    /// Handing the blocks over, as far as computing does not hide it.
    pub transfer_ms: f32,
    /// Until decode has room, and generating.
    pub decode_ms: f32,
    /// Time that others lose, summed over them.
    pub harm_ms: f32,
    /// Of each token while it generates; part of `decode_ms`.
    pub token_ms: f32,
}

impl Price {
    /// Returns the milliseconds that the router compares.
    pub fn total_ms(&self) -> f32 {
        self.queue_ms + self.prefill_ms + self.transfer_ms + self.decode_ms + self.harm_ms
    }

    /// Returns the predicted time from the first token to the last of `tokens` more, where decode has room.
    pub fn generation_ms(&self, tokens: u32) -> f32 {
        self.transfer_ms + self.token_ms * tokens as f32
    }

    /// Returns the predicted time to first token.
    pub fn ttft_ms(&self) -> f32 {
        self.queue_ms + self.prefill_ms
    }
}

impl fmt::Display for Price {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { queue_ms, prefill_ms, transfer_ms, decode_ms, harm_ms, .. } = self;
        write!(
            f,
            "queue {queue_ms:.1} + prefill {prefill_ms:.1} + transfer {transfer_ms:.1} + decode \
             {decode_ms:.1} + harm {harm_ms:.1} = {:.1} ms",
            self.total_ms()
        )
    }
}

/// One placement and its price.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// The placement.
    pub choice: Choice,
    /// Its price.
    pub price: Price,
}

impl fmt::Display for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.choice, self.price)
    }
}

/// A decision that explains itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Placement {
    /// The cheapest allowed placements, the chosen one first.
    pub candidates: Vec<Candidate>,
    /// Number of workers that could have taken part.
    pub considered: usize,
    /// Tokens of the prompt that the prices take for stored.
    pub cached_tokens: u32,
}

impl Placement {
    /// Returns the chosen candidate.
    pub fn chosen(&self) -> &Candidate {
        &self.candidates[0]
    }
}

/// Reason for which a request has no placement.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// No worker of this model is ready.
    #[error("no worker is ready")]
    NoWorkers,
    /// Every ready worker has failed this request already.
    #[error("no other worker is ready: {excluded} already failed this request")]
    Excluded {
        /// Number of workers that failed it.
        excluded: usize,
    },
    /// No ready worker can ever hold the sequence.
    #[error("a sequence of {tokens} tokens fits on no worker: the largest holds {tokens_max}")]
    TooLong {
        /// Prompt and output.
        tokens: u32,
        /// Longest sequence that any worker can hold.
        tokens_max: u32,
    },
}

impl RouteError {
    /// Returns the class of the refusal that the client gets.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::NoWorkers | Self::Excluded { .. } => ErrorClass::Retry,
            Self::TooLong { .. } => ErrorClass::Invalid,
        }
    }
}

impl From<RouteError> for Refusal {
    fn from(error: RouteError) -> Self {
        Self::new(error.class(), error.to_string())
    }
}

/// Prices every useful placement of `need` on the workers that are ready and not in `avoid`, as it
/// is at `now_ms`, and takes the cheapest that `policy` allows; ties go to the lowest ids.
///
/// Roles are preferences: a request with nothing to generate runs whole on a prefill worker, and
/// where one role is missing the other does everything.
pub fn place(
    need: &Need,
    views: &[WorkerView],
    avoid: &BTreeSet<WorkerId>,
    policy: Disaggregate,
    now_ms: u64,
) -> Result<Placement, RouteError> {
    let fitting = || {
        let ready = views.iter().filter(|view| view.ready);
        let others = ready.filter(|view| avoid.is_empty() || !avoid.contains(&view.worker));
        others.filter(|view| view.can_hold(need))
    };
    let ask = Ask { need, now_ms };
    let whole = |role| whole(&ask, fitting(), role);
    let fills_a_block = need.tokens >= BLOCK_TOKENS as u32;
    let sides = Sides::of(&ask, fitting());
    if sides.considered == 0 {
        return Err(why_nowhere(need, views, avoid));
    }
    let mut candidates = if need.output_tokens <= 1 {
        whole(Some(Role::Prefill))
    } else if !sides.both() || policy == Disaggregate::Never {
        whole(None)
    } else if policy == Disaggregate::Auto {
        let mut all = sides.split();
        all.extend(whole(None));
        all
    } else if fills_a_block {
        sides.split()
    } else {
        whole(Some(Role::Decode))
    };
    candidates.sort_by(|a, b| {
        a.price.total_ms().total_cmp(&b.price.total_ms()).then_with(|| a.choice.cmp(&b.choice))
    });
    candidates.truncate(2 * KEPT);
    let (considered, cached_tokens) = (sides.considered, need.cached_tokens);
    Ok(Placement { candidates, considered, cached_tokens })
}

fn why_nowhere(need: &Need, views: &[WorkerView], avoid: &BTreeSet<WorkerId>) -> RouteError {
    let mut ready = views.iter().filter(|view| view.ready).peekable();
    if ready.peek().is_none() {
        return RouteError::NoWorkers;
    }
    if ready.clone().any(|view| view.can_hold(need)) {
        return RouteError::Excluded { excluded: avoid.len() };
    }
    let holds = ready
        .map(|view| view.context_tokens.min(view.pages_total.saturating_mul(BLOCK_TOKENS as u32)));
    let tokens = need.tokens.saturating_add(need.output_tokens);
    RouteError::TooLong { tokens, tokens_max: holds.max().unwrap_or(0) }
}

/// The request to place, and the time.
struct Ask<'a> {
    need: &'a Need,
    now_ms: u64,
}

/// The cheapest workers of each role for its part of the work, cheapest first.
#[derive(Default)]
struct Sides<'a> {
    considered: usize,
    prefill: Cheapest<'a>,
    decode: Cheapest<'a>,
}

impl<'a> Sides<'a> {
    fn of(ask: &Ask<'_>, views: impl Iterator<Item = &'a WorkerView>) -> Self {
        let mut sides = Self::default();
        for view in views {
            sides.considered += 1;
            match view.role {
                Role::Prefill => sides.prefill.offer(view, price_prompt(ask, view)),
                Role::Decode => sides.decode.offer(view, price_generation(ask.need, view)),
            }
        }
        sides
    }

    fn both(&self) -> bool {
        !self.prefill.is_empty() && !self.decode.is_empty()
    }

    fn split(&self) -> Vec<Candidate> {
        let prefills = self.prefill.0.iter();
        prefills
            .flat_map(|prefill| self.decode.0.iter().map(|decode| pair(prefill, decode)))
            .collect()
    }
}

fn pair(prefill: &Offer, decode: &Offer) -> Candidate {
    let (p, d) = (prefill.price, decode.price);
    let choice =
        Choice::Split { prefill: prefill.view.worker.clone(), decode: decode.view.worker.clone() };
    let harm_ms = p.harm_ms + d.harm_ms;
    let price = Price { decode_ms: d.decode_ms, token_ms: d.token_ms, harm_ms, ..p };
    Candidate { choice, price }
}

/// Returns the cheapest workers that would do all of it; those of `role` only, if there are any.
fn whole<'a>(
    ask: &Ask<'_>,
    views: impl Iterator<Item = &'a WorkerView>,
    role: Option<Role>,
) -> Vec<Candidate> {
    let (mut prefill, mut decode) = (Cheapest::default(), Cheapest::default());
    for view in views {
        let (prompt, generation) = (price_prompt(ask, view), price_generation(ask.need, view));
        let price = Price {
            decode_ms: generation.decode_ms,
            token_ms: generation.token_ms,
            harm_ms: prompt.harm_ms + generation.harm_ms,
            transfer_ms: 0.0,
            ..prompt
        };
        match view.role {
            Role::Prefill => prefill.offer(view, price),
            Role::Decode => decode.offer(view, price),
        }
    }
    let kept: Vec<Offer> = match role {
        Some(Role::Prefill) if !prefill.is_empty() => prefill.0,
        Some(Role::Decode) if !decode.is_empty() => decode.0,
        _ => prefill.0.into_iter().chain(decode.0).collect(),
    };
    let candidates = kept.into_iter().map(|offer| Candidate {
        choice: Choice::Whole { worker: offer.view.worker.clone() },
        price: offer.price,
    });
    candidates.collect()
}

/// A worker at its price.
struct Offer<'a> {
    view: &'a WorkerView,
    price: Price,
    total_ms: f32,
}

/// Up to [`KEPT`] workers by price, then id.
#[derive(Default)]
struct Cheapest<'a>(Vec<Offer<'a>>);

impl<'a> Cheapest<'a> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn offer(&mut self, view: &'a WorkerView, price: Price) {
        let total_ms = price.total_ms();
        // Nearly every worker of a large fleet ends here.
        if self.0.get(KEPT - 1).is_some_and(|last| last.total_ms < total_ms) {
            return;
        }
        let at = self.0.partition_point(|other| {
            let by_price = other.total_ms.total_cmp(&total_ms);
            by_price.then_with(|| other.view.worker.cmp(&view.worker)) == Ordering::Less
        });
        if at < KEPT {
            self.0.truncate(KEPT - 1);
            self.0.insert(at, Offer { view, price, total_ms });
        }
    }
}

/// Prices the prefill side, with the part of the transfer that computing does not hide.
fn price_prompt(ask: &Ask<'_>, view: &WorkerView) -> Price {
    let (queue_ms, prefill_ms) = view.first_token_ms(ask.need, ask.now_ms);
    let block_ms = TRANSFER_BLOCK_US / 1_000.0;
    let transfer_ms = (ask.need.blocks() * block_ms - prefill_ms).max(block_ms);
    let harm_ms = view.running_sequences as f32 * prefill_ms;
    Price { queue_ms, prefill_ms, transfer_ms, harm_ms, ..Price::default() }
}

fn price_generation(need: &Need, view: &WorkerView) -> Price {
    let others = view.running_sequences as f32;
    let tokens = need.expected_output();
    let token_ms = view.token_ms(need);
    let sequences = view.running_sequences.saturating_add(view.queued_sequences);
    let above = (sequences + 1).saturating_sub(view.sequences_max) as f32;
    let mut waits = above / view.sequences_max as f32;
    if view.pages_open < need.pages_max(view) {
        waits += 1.0;
    }
    let decode_ms = token_ms * (tokens + waits * EXPECTED_OUTPUT_TOKENS as f32);
    let harm_ms = others * tokens * view.token_harm_ms(need);
    Price { decode_ms, token_ms, harm_ms, ..Price::default() }
}
