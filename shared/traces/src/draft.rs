//! A trace while it is read: its requests, collected under limits.

use std::collections::HashMap;

use super::error::Problem;
use super::trace::{BlockSizes, Record};

/// Largest number of requests in a trace.
pub const RECORDS_MAX: usize = 10_000_000;
/// Largest prompt or output, in tokens.
pub const TOKENS_MAX: u32 = 1 << 24;
/// Largest number of block references of all prompts together.
const BLOCK_REFS_MAX: usize = 200_000_000;

/// The most that a time stamp may go back behind an earlier one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// Never.
    Ascending,
    /// By up to this many nanoseconds. Such requests are counted and sorted.
    Within(i64),
    /// By any amount: each session has a clock of its own.
    PerSession,
}

/// A request as a format gives it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Arrival {
    pub(crate) at_ns: i64,
    pub(crate) input_tokens: u32,
    pub(crate) output_tokens: u32,
    pub(crate) session: Option<u32>,
    /// Time from the end of the preceding turn, if the trace has it.
    pub(crate) think_ns: Option<i64>,
    /// Duration of the recorded response, if the trace has it.
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
    /// Requests whose time stamp is earlier than the one before it.
    pub(crate) out_of_order: usize,
    /// Prompts whose blocks do not add up to the prompt's length.
    pub(crate) coverage_bad: usize,
    /// Tokens per block.
    pub(crate) sizes: BlockSizes,
    /// True if the trace has arrival times.
    pub(crate) timed: bool,
    /// True if the requests were drawn by a generator, within the requested window.
    pub(crate) generated: bool,
    /// Notes for a reader of the figures.
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

    /// Returns the dense number of a block. An `id` is unique within its `scope`.
    pub(crate) fn block(&mut self, scope: u32, id: u64) -> Result<u32, Problem> {
        self.interner.intern(scope, id)
    }

    /// Returns the dense numbers of blocks whose ids are unique in the whole trace.
    pub(crate) fn blocks(&mut self, ids: &[u64]) -> Result<Vec<u32>, Problem> {
        ids.iter().map(|id| self.interner.intern(0, *id)).collect()
    }

    /// Creates a session without a name.
    pub(crate) fn new_session(&mut self) -> u32 {
        self.session_count += 1;
        self.session_count - 1
    }

    /// Returns the session with this name, creating it if needed.
    pub(crate) fn session(&mut self, name: &str) -> u32 {
        if let Some(session) = self.sessions.get(name) {
            return *session;
        }
        let session = self.new_session();
        self.sessions.insert(name.to_owned(), session);
        session
    }

    /// Adds a request. `field` names its time stamp in errors.
    pub(crate) fn push(&mut self, arrival: Arrival, field: &str) -> Result<(), Problem> {
        self.refs += arrival.blocks.len();
        if self.arrivals.len() == RECORDS_MAX || self.refs > BLOCK_REFS_MAX {
            let expected = format!("at most {RECORDS_MAX} and {BLOCK_REFS_MAX} (see --window)");
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

    /// Adds the digest of one more file.
    pub(crate) fn add_digest(&mut self, digest: [u8; 32]) {
        self.digests.push(digest);
    }

    /// Returns the number of requests so far.
    pub(crate) fn len(&self) -> usize {
        self.arrivals.len()
    }

    /// Returns the records in order of time, and the ids by block number.
    pub(crate) fn finish(&mut self) -> (Vec<Record>, Vec<u64>) {
        let mut arrivals = std::mem::take(&mut self.arrivals);
        arrivals.sort_by_key(|arrival| arrival.at_ns);
        let start_ns = arrivals.first().map_or(0, |first| first.at_ns);
        let mut sessions = vec![Progress::default(); self.session_count as usize];
        let records = arrivals.into_iter().map(|arrival| {
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
        });
        (records.collect(), std::mem::take(&mut self.interner.ids))
    }

    /// Returns the digest of all files.
    pub(crate) fn digest(&self) -> [u8; 32] {
        match self.digests[..] {
            [only] => only,
            _ => *blake3::hash(self.digests.as_flattened()).as_bytes(),
        }
    }
}

/// State of a session after its latest turn.
#[derive(Clone, Default)]
struct Progress {
    turns: u32,
    at_ns: i64,
    service_ns: i64,
}

impl Progress {
    /// Returns the turn's index and the think time before it. Without a duration of the preceding
    /// response, the whole gap counts as think time.
    fn step(&mut self, at_ns: i64, arrival: &Arrival) -> (u32, i64) {
        let turn = self.turns;
        let gap_ns = (at_ns - self.at_ns - self.service_ns).max(0);
        let think_ns = if turn == 0 { 0 } else { arrival.think_ns.unwrap_or(gap_ns) };
        *self = Self { turns: turn + 1, at_ns, service_ns: arrival.service_ns.unwrap_or(0).max(0) };
        (turn, think_ns)
    }
}

/// Dense numbers for 64-bit block ids, in order of first appearance.
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
        // An id of a session becomes an id of the whole trace.
        let global = match scope {
            0 => id,
            _ => crate::random::mix(u64::from(scope) << 32 ^ crate::random::mix(id)),
        };
        self.ids.push(global);
        Ok(number)
    }
}
