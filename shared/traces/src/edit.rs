//! Edits of traces that preserve what a replay depends on: order, sessions and shared prefixes.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::quantum::{Dequantize, quantum_of, spread};
use super::trace::{BlockSizes, Record, Trace};
use crate::random::{RngStream, Stream};
use crate::units::{Nanos, Window};

/// An edit that a trace does not allow.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the message of a variant names its fields")]
pub enum EditError {
    /// The speed-up is zero, negative or not finite.
    #[error("the speed-up must be a positive number, not {0}")]
    Speedup(f64),
    /// The scale does not divide the block size.
    #[error("--scale {scale} does not divide the block size {block_tokens}")]
    Scale { scale: u32, block_tokens: u32 },
    /// No request arrives in the window.
    #[error("no request arrives in the window {window}; the trace spans 0s..{span}")]
    EmptyWindow { window: Window, span: Nanos },
    /// The time stamps lie on no grid.
    #[error("--dequantize was asked for, but the time stamps lie on no grid")]
    NoQuantum,
    /// The share to keep is not in (0, 1].
    #[error("--keep is {0}: expected a part above 0, up to 1")]
    Keep(f64),
    /// Thinning removed every session.
    #[error("none of the {0} sessions was kept: try a larger --keep or another --seed")]
    NothingKept(usize),
    /// The trace has neither sessions nor blocks to group requests by.
    #[error("the trace names neither sessions nor blocks: whole sessions cannot be distinguished")]
    NoSessions,
}

/// Keeps the requests that arrive in `window`. The start of the window becomes time 0.
pub fn cut(trace: &mut Trace, window: Window) -> Result<(), EditError> {
    let span = Nanos(trace.records.last().map_or(0, |r| r.at_ns));
    trace.records.retain(|r| r.at_ns >= window.from.0 && window.to.is_none_or(|to| r.at_ns < to.0));
    if trace.records.is_empty() {
        return Err(EditError::EmptyWindow { window, span });
    }
    trace.records.iter_mut().for_each(|r| r.at_ns -= window.from.0);
    Ok(())
}

/// Divides lengths and block sizes by `scale`. Prompts share the same blocks afterwards.
pub fn scale(trace: &mut Trace, scale: u32) -> Result<(), EditError> {
    match &mut trace.sizes {
        BlockSizes::None => {}
        BlockSizes::Uniform(block_tokens) if block_tokens.is_multiple_of(scale) => {
            *block_tokens /= scale;
        }
        BlockSizes::Uniform(block_tokens) => {
            return Err(EditError::Scale { scale, block_tokens: *block_tokens });
        }
        BlockSizes::Each(tokens) => tokens.iter_mut().for_each(|n| *n = n.div_ceil(scale)),
    }
    let sizes = &trace.sizes;
    for record in &mut trace.records {
        record.input_tokens = match sizes {
            // Each block of unequal length is rounded up, and the prompt is their sum.
            BlockSizes::Each(tokens) if !record.blocks.is_empty() => {
                let whole = record.blocks.iter().map(|block| tokens[*block as usize]).sum::<u32>();
                whole.min(record.input_tokens).max(1)
            }
            _ => record.input_tokens.div_ceil(scale),
        };
        record.output_tokens = record.output_tokens.div_ceil(scale);
    }
    Ok(())
}

/// Spreads arrivals that share a coarse time stamp, in their order.
pub fn dequantize(trace: &mut Trace, how: Dequantize, seed: u64) -> Result<(), EditError> {
    let quantum = quantum_of(trace).ok_or(EditError::NoQuantum)?;
    let times: Vec<i64> = trace.records.iter().map(|r| r.at_ns).collect();
    let times = spread(&times, quantum.step_ns, how, seed);
    trace.records.iter_mut().zip(times).for_each(|(record, at_ns)| record.at_ns = at_ns);
    Ok(())
}

/// Returns the number of sessions. A request without one counts as a session.
pub fn session_count(trace: &Trace) -> usize {
    let sessions: HashSet<u32> = trace.records.iter().filter_map(|r| r.session).collect();
    sessions.len() + trace.records.iter().filter(|r| r.session.is_none()).count()
}

/// Moves the sessions to begin at `times`, in the order of their first requests. Later requests
/// keep their distance from the beginning of their session.
pub fn restart(trace: &mut Trace, times: &[i64]) {
    let mut times = times.iter().copied();
    let mut starts: HashMap<u32, (i64, i64)> = HashMap::new();
    for record in &mut trace.records {
        let mut next = || times.next().unwrap_or(i64::MAX / 4);
        record.at_ns = match record.session {
            None => next(),
            Some(session) => {
                let (was, is) = *starts.entry(session).or_insert_with(|| (record.at_ns, next()));
                is + (record.at_ns - was)
            }
        };
    }
    trace.records.sort_by_key(|record| record.at_ns);
}

/// Result of thinning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thinned {
    /// Sessions, or trees of prefixes, before thinning.
    pub groups: usize,
    /// Sessions, or trees of prefixes, that were kept.
    pub kept: usize,
}

/// Keeps each whole session, or each whole tree of prompts with a common prefix, with probability
/// `keep`.
pub fn thin(trace: &mut Trace, keep: f64, seed: u64) -> Result<Thinned, EditError> {
    if !(keep > 0.0 && keep <= 1.0) {
        return Err(EditError::Keep(keep));
    }
    let groups = groups(trace)?;
    let mut stream = Stream::new(seed, RngStream::Thinning);
    // In order of first appearance, so that the draw depends only on the trace and the seed.
    let mut kept: BTreeMap<usize, bool> = BTreeMap::new();
    for group in &groups {
        kept.entry(*group).or_insert_with(|| stream.unit() < keep);
    }
    let thinned = Thinned { groups: kept.len(), kept: kept.values().filter(|k| **k).count() };
    let mut of = groups.iter();
    trace.records.retain(|_| of.next().is_some_and(|group| kept[group]));
    if trace.records.is_empty() {
        return Err(EditError::NothingKept(thinned.groups));
    }
    let start_ns = trace.records[0].at_ns;
    trace.records.iter_mut().for_each(|r| r.at_ns -= start_ns);
    Ok(thinned)
}

/// Returns, for each record, the index of the first record of its group. A group is a session. In a
/// trace without sessions it is the prompts with a common prefix, beyond the prefix that half of
/// all prompts have.
fn groups(trace: &Trace) -> Result<Vec<usize>, EditError> {
    let mut firsts: HashMap<u64, usize> = HashMap::new();
    let records = trace.records.iter().enumerate();
    if trace.records.iter().any(|r| r.session.is_some()) {
        // A request without a session is a group of its own.
        let groups = records.map(|(at, r)| {
            let key = r.session.map_or(1 << 32 | at as u64, u64::from);
            *firsts.entry(key).or_insert(at)
        });
        return Ok(groups.collect());
    }
    if !trace.sizes.any() {
        return Err(EditError::NoSessions);
    }
    let shared = common_beginning(&trace.records);
    let groups = records.map(|(at, r)| {
        let key = r.blocks.get(shared).map_or(1 << 32 | at as u64, |block| u64::from(*block));
        *firsts.entry(key).or_insert(at)
    });
    Ok(groups.collect())
}

/// Counts the leading blocks that at least half of all prompts have in common.
fn common_beginning(records: &[Record]) -> usize {
    let mut shared = 0;
    loop {
        let mut counts: HashMap<u32, usize> = HashMap::new();
        records.iter().filter_map(|r| r.blocks.get(shared)).for_each(|block| {
            *counts.entry(*block).or_default() += 1;
        });
        let most = counts.into_values().max().unwrap_or(0);
        if most * 2 < records.len() || records.len() < 2 {
            return shared;
        }
        shared += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::super::stats::stats;
    use super::*;
    use crate::units::NS_PER_S;

    /// Forty trees of three growing prompts each, all with the same first block.
    fn trees() -> Trace {
        let records = (0..120_u32).map(|i| Record {
            at_ns: i64::from(i) * NS_PER_S,
            input_tokens: 8 * (2 + i / 40),
            output_tokens: 8,
            blocks: std::iter::once(0).chain((0..=i / 40).map(|b| 1 + i % 40 * 3 + b)).collect(),
            ..Record::default()
        });
        Trace::synthetic(BlockSizes::Uniform(8), records.collect(), (0..200).collect())
    }

    fn token_hit(trace: &Trace) -> f64 {
        stats(trace).reuse.unwrap().token_hit
    }

    #[test]
    fn thinning_keeps_whole_trees_and_so_the_hit_rate() {
        let mut thinned = trees();
        let done = thin(&mut thinned, 0.3, 5).unwrap();
        assert_eq!(done.groups, 40);
        assert!((5..20).contains(&done.kept), "{done:?}");
        assert_eq!(thinned.records.len(), done.kept * 3);
        assert!(thinned.records.is_sorted_by_key(|r| r.at_ns) && thinned.records[0].at_ns == 0);
        let mut roots: Vec<u32> = thinned.records.iter().map(|r| r.blocks[1]).collect();
        roots.sort_unstable();
        assert!(roots.chunk_by(|a, b| a == b).all(|tree| tree.len() == 3), "{roots:?}");
        assert!((token_hit(&thinned) - token_hit(&trees())).abs() < 0.02);
        let mut again = trees();
        thin(&mut again, 0.3, 5).unwrap();
        assert_eq!(again.records, thinned.records);
    }

    #[test]
    fn thinning_keeps_whole_sessions_where_there_are_some() {
        let mut sessions = trees();
        for (at, record) in sessions.records.iter_mut().enumerate() {
            record.session = (at % 4 > 0).then_some(at as u32 % 4);
        }
        let done = thin(&mut sessions, 0.5, 1).unwrap();
        assert_eq!(done.groups, 33);
        for session in 1..4 {
            let turns = sessions.records.iter().filter(|r| r.session == Some(session)).count();
            assert!(turns == 0 || turns == 30, "{turns}");
        }
        assert!(matches!(thin(&mut trees(), 0.0, 1), Err(EditError::Keep(_))));
        assert!(matches!(thin(&mut trees(), 1e-9, 1), Err(EditError::NothingKept(40))));
        let mut lengths = Trace { sizes: BlockSizes::None, ..trees() };
        lengths.records.iter_mut().for_each(|r| r.blocks.clear());
        assert!(matches!(thin(&mut lengths, 0.5, 1), Err(EditError::NoSessions)));
    }

    #[test]
    fn sessions_begin_at_the_times_given_and_keep_their_course() {
        let mut trace = trees();
        trace.records.truncate(4);
        for (record, session) in trace.records.iter_mut().zip([Some(0), Some(1), None, Some(0)]) {
            record.session = session;
        }
        assert_eq!(session_count(&trace), 3);
        restart(&mut trace, &[100, 50, 70]);
        let times: Vec<(i64, Option<u32>)> =
            trace.records.iter().map(|r| (r.at_ns, r.session)).collect();
        assert_eq!(
            times,
            [(50, Some(1)), (70, None), (100, Some(0)), (100 + 3 * NS_PER_S, Some(0))]
        );
    }

    #[test]
    fn blocks_of_unequal_length_are_scaled_each() {
        let mut trace = trees();
        trace.sizes = BlockSizes::Each(vec![8; 200]);
        scale(&mut trace, 3).unwrap();
        assert_eq!(trace.records[0].input_tokens, 6);
        assert_eq!(trace.sizes, BlockSizes::Each(vec![3; 200]));
        assert!(matches!(scale(&mut trees(), 3), Err(EditError::Scale { .. })));
    }
}
