//! Collects the requests of a trace under limits and makes a trace of them.

use std::collections::HashMap;

use super::error::Problem;
use super::trace::{BlockSizes, Record};

/// The most requests a trace may hold.
pub const MAX_RECORDS: usize = 10_000_000;
/// The longest prompt or output accepted.
pub const MAX_TOKENS: u32 = 1 << 24;
/// The most block names of all prompts together.
const MAX_BLOCK_REFS: usize = 200_000_000;

/// How far a time stamp may lie before the one above it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// Not at all.
    Ascending,
    /// By this much, in ns; such requests are counted and put in order.
    Within(i64),
    /// The clocks of several sessions are mixed.
    PerSession,
}

/// One request as a format gives it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Arrival {
    pub(crate) at_ns: i64,
    pub(crate) input_tokens: u32,
    pub(crate) output_tokens: u32,
    pub(crate) session: Option<u32>,
    /// From the end of the turn before, if the trace says.
    pub(crate) think_ns: Option<i64>,
    /// How long the recorded answer took, if the trace says.
    pub(crate) service_ns: Option<i64>,
    pub(crate) blocks: Vec<u32>,
}

/// A trace while it is read.
pub(crate) struct Draft {
    arrivals: Vec<Arrival>,
    interner: Interner,
    sessions: HashMap<String, u32>,
    session_count: u32,
    refs: usize,
    order: Order,
    latest_ns: i64,
    digests: Vec<[u8; 32]>,
    /// Requests whose time stamp lay before the one above.
    pub(crate) out_of_order: usize,
    /// Prompts whose blocks do not add up to their length.
    pub(crate) coverage_bad: usize,
    /// Tokens of the blocks.
    pub(crate) sizes: BlockSizes,
    /// Whether the trace says when requests arrive.
    pub(crate) timed: bool,
    /// Whether the requests were drawn, within the window asked for.
    pub(crate) generated: bool,
    /// What a reader of the figures must know.
    pub(crate) notes: Vec<String>,
}

impl Draft {
    pub(crate) fn new(order: Order) -> Self {
        Self {
            arrivals: Vec::new(),
            interner: Interner::default(),
            sessions: HashMap::new(),
            session_count: 0,
            refs: 0,
            order,
            latest_ns: i64::MIN,
            digests: Vec::new(),
            out_of_order: 0,
            coverage_bad: 0,
            sizes: BlockSizes::None,
            timed: true,
            generated: false,
            notes: Vec::new(),
        }
    }

    /// The dense number of a block; ids are told apart within `scope` only.
    pub(crate) fn block(&mut self, scope: u32, id: u64) -> Result<u32, Problem> {
        self.interner.intern(scope, id)
    }

    /// The dense numbers of blocks whose ids hold in the whole trace.
    pub(crate) fn blocks(&mut self, ids: &[u64]) -> Result<Vec<u32>, Problem> {
        ids.iter().map(|id| self.interner.intern(0, *id)).collect()
    }

    /// A session that no name leads to.
    pub(crate) fn new_session(&mut self) -> u32 {
        self.session_count += 1;
        self.session_count - 1
    }

    /// The session of this name.
    pub(crate) fn session(&mut self, name: &str) -> u32 {
        if let Some(session) = self.sessions.get(name) {
            return *session;
        }
        let session = self.new_session();
        self.sessions.insert(name.to_owned(), session);
        session
    }

    /// Adds one request; `field` is where its time stamp stands.
    pub(crate) fn push(&mut self, arrival: Arrival, field: &str) -> Result<(), Problem> {
        self.refs += arrival.blocks.len();
        if self.arrivals.len() == MAX_RECORDS || self.refs > MAX_BLOCK_REFS {
            let expected = format!("at most {MAX_RECORDS} and {MAX_BLOCK_REFS} (see --window)");
            let value = format!("{} requests of {} blocks", self.arrivals.len() + 1, self.refs);
            return Err(Problem::new("the trace", value, expected));
        }
        let back_ns = self.latest_ns.saturating_sub(arrival.at_ns).max(0);
        let allowed_ns = match self.order {
            Order::Ascending => 0,
            Order::Within(ns) => ns,
            Order::PerSession => i64::MAX,
        };
        if back_ns > allowed_ns {
            let value = format!("{:.3} s before the time stamp above", back_ns as f64 / 1e9);
            let expected = match self.order {
                Order::Within(ns) => format!("at most {} s back", ns as f64 / 1e9),
                _ => "time stamps in ascending order".to_owned(),
            };
            return Err(Problem::new(field, value, expected));
        }
        if self.order != Order::PerSession {
            self.out_of_order += usize::from(back_ns > 0);
        }
        self.latest_ns = if back_ns > 0 { self.latest_ns } else { arrival.at_ns };
        self.arrivals.push(arrival);
        Ok(())
    }

    /// Notes the content of one more file.
    pub(crate) fn absorb(&mut self, digest: [u8; 32]) {
        self.digests.push(digest);
    }

    /// How many requests there are so far.
    pub(crate) fn len(&self) -> usize {
        self.arrivals.len()
    }

    /// The records in order of time, and the ids behind the block numbers.
    pub(crate) fn finish(&mut self) -> (Vec<Record>, Vec<u64>) {
        let mut arrivals = std::mem::take(&mut self.arrivals);
        arrivals.sort_by_key(|arrival| arrival.at_ns);
        let start_ns = arrivals.first().map_or(0, |first| first.at_ns);
        let mut sessions = vec![Progress::default(); self.session_count as usize];
        let record = |arrival: Arrival| {
            let at_ns = arrival.at_ns - start_ns;
            let progress = arrival.session.map(|s| &mut sessions[s as usize]);
            let (turn, think_ns) = progress.map_or((0, 0), |p| p.step(at_ns, &arrival));
            Record {
                at_ns,
                input_tokens: arrival.input_tokens,
                output_tokens: arrival.output_tokens,
                session: arrival.session,
                turn,
                think_ns,
                blocks: arrival.blocks,
            }
        };
        let records = arrivals.into_iter().map(record).collect();
        (records, std::mem::take(&mut self.interner.ids))
    }

    /// Digest of all files.
    pub(crate) fn digest(&self) -> [u8; 32] {
        match self.digests[..] {
            [only] => only,
            _ => *blake3::hash(self.digests.as_flattened()).as_bytes(),
        }
    }
}

/// How far a session has come.
#[derive(Clone, Default)]
struct Progress {
    turns: u32,
    at_ns: i64,
    service_ns: i64,
}

impl Progress {
    /// The turn and the think time before it. Where the trace does not say how long the answer
    /// before took, the whole gap counts as thinking.
    fn step(&mut self, at_ns: i64, arrival: &Arrival) -> (u32, i64) {
        let turn = self.turns;
        let gap_ns = (at_ns - self.at_ns - self.service_ns).max(0);
        let think_ns = if turn == 0 { 0 } else { arrival.think_ns.unwrap_or(gap_ns) };
        *self = Self { turns: turn + 1, at_ns, service_ns: arrival.service_ns.unwrap_or(0).max(0) };
        (turn, think_ns)
    }
}

/// Gives 64-bit block names dense numbers in order of first appearance, exactly.
#[derive(Default)]
struct Interner {
    numbers: HashMap<(u32, u64), u32>,
    ids: Vec<u64>,
}

impl Interner {
    fn intern(&mut self, scope: u32, id: u64) -> Result<u32, Problem> {
        if let Some(number) = self.numbers.get(&(scope, id)) {
            return Ok(*number);
        }
        let number = u32::try_from(self.ids.len())
            .map_err(|_| Problem::new("the trace", "too many blocks", "fewer than 2^32"))?;
        self.numbers.insert((scope, id), number);
        // An id of a session is made one of the whole trace.
        let global = match scope {
            0 => id,
            _ => crate::random::mix(u64::from(scope) << 32 ^ crate::random::mix(id)),
        };
        self.ids.push(global);
        Ok(number)
    }
}
