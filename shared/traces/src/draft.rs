//! A trace while it is read: its requests, collected under limits.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::error::{Problem, TraceError};
use super::oddity::{Oddities, Oddity};
use super::trace::{BlockSizes, Format, Record, Trace};

/// Largest number of requests in a trace. The largest published one, a week of Azure's
/// conversations, has 27 million.
pub const RECORDS_MAX: usize = 30_000_000;
/// Largest prompt or output, in tokens.
pub const TOKENS_MAX: u32 = 1 << 24;
/// Largest number of block references of all prompts together. The largest published trace, the
/// sessions of kv-cache-tester with their agents, has 214 million.
const BLOCK_REFS_MAX: usize = 400_000_000;

/// Scope of the blocks that fill up prompts. No other scope reaches it.
const FILLING: u32 = u32::MAX;

/// The order of a file's time stamps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// Ascending. Others are counted and sorted.
    Ascending,
    /// Each session has a clock of its own.
    PerSession,
}

/// Names of a format's fields, for errors.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Names {
    /// Field of the time stamp.
    pub(crate) time: &'static str,
    /// Field of the prompt's length.
    pub(crate) prompt: &'static str,
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
    /// Session that each session was joined to, itself for most.
    joined: Vec<u32>,
    refs: usize,
    named_prompts: usize,
    order: Order,
    names: Names,
    above_ns: i64,
    digests: Vec<[u8; 32]>,
    strict: bool,
    path: PathBuf,
    oddities: Oddities,
    /// Number of the current line, from 1; 0 before the first.
    pub(crate) line: u64,
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
    /// Creates an empty trace. If `strict`, oddities are errors.
    pub(crate) fn new(order: Order, names: Names, strict: bool) -> Self {
        Self {
            arrivals: Vec::new(),
            interner: Interner::default(),
            sessions: HashMap::new(),
            joined: Vec::new(),
            refs: 0,
            named_prompts: 0,
            order,
            names,
            above_ns: i64::MIN,
            digests: Vec::new(),
            strict,
            path: PathBuf::new(),
            oddities: Oddities::default(),
            line: 0,
            sizes: BlockSizes::None,
            timed: true,
            generated: false,
            notes: Vec::new(),
        }
    }

    /// Begins the file at `path`.
    pub(crate) fn begin_file(&mut self, path: &Path) {
        path.clone_into(&mut self.path);
        self.line = 0;
    }

    /// Locates a problem at the current line.
    pub(crate) fn locate(&self, problem: Problem) -> TraceError {
        problem.at(&self.path, self.line.max(1))
    }

    /// Returns the error of reading the current file.
    pub(crate) fn io_error(&self, source: std::io::Error) -> TraceError {
        TraceError::Io { path: self.path.clone(), source }
    }

    /// Counts an oddity of the current line, or fails with `problem` if the reader is strict.
    pub(crate) fn odd(&mut self, oddity: Oddity, problem: Problem) -> Result<(), Problem> {
        if self.strict {
            return Err(problem);
        }
        self.oddities.add(oddity, &self.path, self.line.max(1), problem);
        Ok(())
    }

    /// Counts a byte-order mark that was skipped.
    pub(crate) fn skipped_mark(&mut self) -> Result<(), Problem> {
        let problem = Problem::new("the line", "behind a byte-order mark", "text without one");
        self.odd(Oddity::ByteOrderMark, problem)
    }

    /// Returns a value that no request needs. Without `value`, its problem is an oddity.
    pub(crate) fn optional<T>(
        &mut self,
        field: &str,
        value: Result<T, Problem>,
    ) -> Result<Option<T>, Problem> {
        match value {
            Ok(value) => Ok(Some(value)),
            Err(problem) => {
                self.odd(Oddity::UnusableValue(field.to_owned()), problem)?;
                Ok(None)
            }
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

    /// Checks that `ids` block ids cover a prompt of blocks of `block_tokens` exactly. `field` names
    /// the list. An empty prompt is not checked: `push` leaves it out.
    pub(crate) fn check_coverage(
        &mut self,
        field: &str,
        ids: usize,
        input_tokens: u32,
        block_tokens: u32,
    ) -> Result<(), Problem> {
        let blocks = input_tokens.div_ceil(block_tokens) as usize;
        self.named_prompts += usize::from(ids > 0);
        if ids == blocks || input_tokens == 0 {
            return Ok(());
        }
        let oddity = match ids {
            0 => Oddity::NoBlockIds,
            _ if ids == (input_tokens / block_tokens) as usize => Oddity::PartialBlock,
            _ => Oddity::Coverage,
        };
        let expected = format!(
            "{blocks}, for {input_tokens} tokens in blocks of {block_tokens} (another size: \
             --trace-block)"
        );
        self.odd(oddity, Problem::new(field, format!("a list of {ids} ids"), expected))
    }

    /// Creates a session without a name.
    pub(crate) fn new_session(&mut self) -> u32 {
        let session = self.joined.len() as u32;
        self.joined.push(session);
        session
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

    /// Makes two sessions one.
    pub(crate) fn join(&mut self, one: u32, other: u32) {
        let (one, other) = (root(&self.joined, one), root(&self.joined, other));
        self.joined[one.max(other) as usize] = one.min(other);
    }

    /// Counts a request as out of order if `at_ns` is before `above_ns`, the time stamp above it.
    /// `within` is the path of its fields in errors.
    pub(crate) fn check_order(
        &mut self,
        within: &str,
        at_ns: i64,
        above_ns: i64,
    ) -> Result<(), Problem> {
        if at_ns >= above_ns {
            return Ok(());
        }
        let back_s = above_ns.saturating_sub(at_ns) as f64 / 1e9;
        let field = format!("{within}{}", self.names.time);
        let value = format!("{back_s:.3} s before the time stamp above");
        self.odd(Oddity::OutOfOrder, Problem::new(field, value, "time stamps in ascending order"))
    }

    /// Adds a request, unless its prompt is empty. `within` is the path of its fields in errors.
    pub(crate) fn push(&mut self, arrival: Arrival, within: &str) -> Result<(), Problem> {
        let blocks = match self.sizes.uniform() {
            Some(block_tokens) => arrival.input_tokens.div_ceil(block_tokens) as usize,
            None => arrival.blocks.len(),
        };
        self.refs += blocks;
        if self.arrivals.len() == RECORDS_MAX || self.refs > BLOCK_REFS_MAX {
            let expected = format!("at most {RECORDS_MAX} and {BLOCK_REFS_MAX} (see --window)");
            let value = format!("{} requests of {} blocks", self.arrivals.len() + 1, self.refs);
            return Err(Problem::new("the trace", value, expected));
        }
        if self.order == Order::Ascending {
            self.check_order(within, arrival.at_ns, self.above_ns)?;
            self.above_ns = arrival.at_ns;
        }
        if arrival.input_tokens == 0 {
            let field = format!("{within}{}", self.names.prompt);
            let expected = format!("tokens from 1 to {TOKENS_MAX}");
            return self.odd(Oddity::EmptyPrompt, Problem::new(field, 0, expected));
        }
        self.arrivals.push(arrival);
        Ok(())
    }

    /// Adds the digest of one more file.
    pub(crate) fn add_digest(&mut self, digest: [u8; 32]) {
        self.digests.push(digest);
    }

    /// Returns the trace that was read from `path`.
    pub(crate) fn finish(mut self, path: &Path, format: Format) -> Result<Trace, TraceError> {
        if self.arrivals.is_empty() {
            return Err(TraceError::Empty { path: path.to_owned() });
        }
        self.check_block_size()?;
        self.arrivals.sort_by_key(|arrival| arrival.at_ns);
        self.renumber();
        self.fill().map_err(|problem| self.locate(problem))?;
        let start_ns = self.arrivals.first().map_or(0, |first| first.at_ns);
        let mut sessions = vec![Progress::default(); self.joined.len()];
        let records = std::mem::take(&mut self.arrivals).into_iter().map(|arrival| {
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
        let records = records.collect();
        let whole = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        Ok(Trace {
            name: whole.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            format,
            records,
            digest: self.digest(),
            block_ids: self.interner.ids,
            timed: self.timed,
            generated: self.generated,
            oddities: self.oddities,
            sizes: self.sizes,
            notes: self.notes,
        })
    }

    /// Refuses a block size that does not suit most prompts: it is not the size of this trace.
    fn check_block_size(&self) -> Result<(), TraceError> {
        let wrong = self.oddities.count(&Oddity::Coverage);
        match self.oddities.refuse(&Oddity::Coverage) {
            Some(error) if self.sizes.uniform().is_some() && wrong * 2 > self.named_prompts => {
                Err(error)
            }
            _ => Ok(()),
        }
    }

    /// Numbers sessions and blocks by their first appearance in the order of time, as in a file
    /// without records out of order.
    fn renumber(&mut self) {
        for session in self.arrivals.iter_mut().filter_map(|arrival| arrival.session.as_mut()) {
            *session = root(&self.joined, *session);
        }
        if self.order == Order::PerSession || self.oddities.count(&Oddity::OutOfOrder) == 0 {
            return;
        }
        let mut sessions = Renumbering::new(self.joined.len());
        let mut blocks = Renumbering::new(self.interner.ids.len());
        for arrival in &mut self.arrivals {
            arrival.session = arrival.session.map(|session| sessions.of(session));
            arrival.blocks.iter_mut().for_each(|block| *block = blocks.of(*block));
        }
        self.interner.ids = blocks.pick(&self.interner.ids);
        if let BlockSizes::Each(tokens) = &mut self.sizes {
            *tokens = blocks.pick(tokens);
        }
    }

    /// Fills prompts whose blocks do not reach their length with blocks that no other prompt has,
    /// and cuts off what is over.
    fn fill(&mut self) -> Result<(), Problem> {
        if self.arrivals.iter().all(|arrival| arrival.blocks.is_empty()) {
            self.sizes = BlockSizes::None;
        }
        let mut fillers = 0;
        for arrival in &mut self.arrivals {
            match &mut self.sizes {
                BlockSizes::None => {}
                BlockSizes::Uniform(block_tokens) => {
                    let blocks = arrival.input_tokens.div_ceil(*block_tokens) as usize;
                    arrival.blocks.truncate(blocks);
                    while arrival.blocks.len() < blocks {
                        fillers += 1;
                        arrival.blocks.push(self.interner.intern(FILLING, fillers)?);
                    }
                }
                BlockSizes::Each(tokens) => {
                    let sum = arrival.blocks.iter().map(|b| u64::from(tokens[*b as usize])).sum();
                    let missing = u64::from(arrival.input_tokens).saturating_sub(sum);
                    if missing > 0 {
                        fillers += 1;
                        arrival.blocks.push(self.interner.intern(FILLING, fillers)?);
                        tokens.push(missing as u32);
                    }
                }
            }
        }
        Ok(())
    }

    /// Returns the digest of all files.
    fn digest(&self) -> [u8; 32] {
        match self.digests[..] {
            [only] => only,
            _ => *blake3::hash(self.digests.as_flattened()).as_bytes(),
        }
    }
}

/// Returns the session that `session` is a part of, after all joins.
fn root(joined: &[u32], mut session: u32) -> u32 {
    while joined[session as usize] != session {
        session = joined[session as usize];
    }
    session
}

/// New numbers in order of first use.
struct Renumbering {
    /// New number by old number.
    new: Vec<Option<u32>>,
    /// Old numbers in their new order.
    old: Vec<u32>,
}

impl Renumbering {
    fn new(count: usize) -> Self {
        Self { new: vec![None; count], old: Vec::new() }
    }

    fn of(&mut self, old: u32) -> u32 {
        let next = self.old.len() as u32;
        *self.new[old as usize].get_or_insert_with(|| {
            self.old.push(old);
            next
        })
    }

    /// Returns the values of the old numbers in their new order.
    fn pick<T: Copy>(&self, values: &[T]) -> Vec<T> {
        self.old.iter().map(|old| values[*old as usize]).collect()
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
