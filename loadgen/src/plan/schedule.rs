//! Schedules: plans in files, written and read back without any loss.

use std::io::{self, BufRead, Write};

use serde::{Deserialize, Serialize};

use crate::plan::prompt::Block;
use crate::plan::{Origin, Phase, Plan, PlannedRequest, Turns};

/// Name and version of the format.
const SCHEMA: &str = "loadgen.schedule/1";
/// Longest line.
const LINE_BYTES_MAX: u64 = 16 << 20;

/// First line of a schedule.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    schema: String,
    source: String,
    digest: String,
    seed: u64,
    blocks: usize,
    turns: Turns,
    until_ns: Option<i64>,
    refused_too_long: usize,
    truncated: usize,
    requests: usize,
}

/// Line of one request. A block is its id, its dense number and its tokens in this prompt.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    intended_ns: i64,
    session: Option<u32>,
    turn: u32,
    think_ns: i64,
    phase: Phase,
    input_tokens: u32,
    output_tokens: u32,
    blocks: Vec<(u64, u32, u32)>,
}

/// A schedule that cannot be read. Lines count from 1.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the message of a variant names its fields")]
pub enum ScheduleError {
    /// The file could not be read.
    #[error("line {line}: {source}")]
    Io { line: usize, source: io::Error },
    /// A line violates the format.
    #[error("line {line}: {problem}: expected what --emit-schedule writes")]
    Line { line: usize, problem: String },
}

impl Plan {
    /// Returns a digest of the bytes that [`write`](Self::write) writes.
    pub fn digest(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        self.write(&mut hasher).expect("a hasher takes every byte");
        hasher.finalize().to_hex()[..32].to_owned()
    }

    /// Writes the plan, one JSON object per line.
    pub fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let head = Head {
            schema: SCHEMA.to_owned(),
            source: self.origin.source.clone(),
            digest: blake3::Hash::from(self.origin.digest).to_hex().to_string(),
            seed: self.origin.seed,
            blocks: self.origin.blocks,
            turns: self.turns,
            until_ns: self.until_ns,
            refused_too_long: self.refused_too_long,
            truncated: self.truncated,
            requests: self.requests.len(),
        };
        serde_json::to_writer(&mut *out, &head)?;
        writeln!(out)?;
        for request in &self.requests {
            let line = Line {
                intended_ns: request.intended_ns,
                session: request.session,
                turn: request.turn,
                think_ns: request.think_ns,
                phase: request.phase,
                input_tokens: request.input_tokens,
                output_tokens: request.output_tokens,
                blocks: request.blocks.iter().map(|b| (b.id, b.number, b.tokens)).collect(),
            };
            serde_json::to_writer(&mut *out, &line)?;
            writeln!(out)?;
        }
        Ok(())
    }

    /// Reads a plan that [`write`](Self::write) wrote.
    pub fn read(from: &mut impl BufRead) -> Result<Self, ScheduleError> {
        let mut number = 0;
        let mut buffer = Vec::new();
        let bad = |line, problem: String| ScheduleError::Line { line, problem };
        let head = next_line(from, &mut buffer, &mut number)?;
        let head: Head = serde_json::from_slice(head.unwrap_or_default())
            .map_err(|e| bad(1, format!("not the head of a schedule ({e})")))?;
        if head.schema != SCHEMA {
            return Err(bad(1, format!("schema is {:?}, not {SCHEMA:?}", head.schema)));
        }
        let digest = blake3::Hash::from_hex(&head.digest)
            .map_err(|e| bad(1, format!("digest is {:?} ({e})", head.digest)))?;
        let mut requests: Vec<PlannedRequest> = Vec::new();
        while let Some(text) = next_line(from, &mut buffer, &mut number)? {
            let line: Line = serde_json::from_slice(text)
                .map_err(|e| bad(number, format!("not a request ({e})")))?;
            let request = request(line).map_err(|problem| bad(number, problem))?;
            if requests.last().is_some_and(|before| before.intended_ns > request.intended_ns) {
                return Err(bad(number, "intended_ns is before that of the line above".to_owned()));
            }
            if requests.len() == head.requests {
                return Err(bad(number, format!("more than the {} requests", head.requests)));
            }
            requests.push(request);
        }
        if requests.len() != head.requests || requests.is_empty() {
            let problem = format!("ends after {} of {} requests", requests.len(), head.requests);
            return Err(bad(number, problem));
        }
        let origin = Origin {
            source: head.source,
            digest: *digest.as_bytes(),
            seed: head.seed,
            blocks: head.blocks,
        };
        Ok(Self {
            requests,
            refused_too_long: head.refused_too_long,
            truncated: head.truncated,
            turns: head.turns,
            until_ns: head.until_ns,
            origin,
        })
    }
}

fn request(line: Line) -> Result<PlannedRequest, String> {
    let sum: u64 = line.blocks.iter().map(|(_, _, tokens)| u64::from(*tokens)).sum();
    if line.input_tokens == 0 || sum != u64::from(line.input_tokens) {
        return Err(format!("blocks of {sum} tokens for a prompt of {}", line.input_tokens));
    }
    if line.output_tokens == 0 || line.intended_ns < 0 || line.think_ns < 0 {
        return Err("a time below 0 or an output of no token".to_owned());
    }
    Ok(PlannedRequest {
        intended_ns: line.intended_ns,
        session: line.session,
        turn: line.turn,
        think_ns: line.think_ns,
        phase: line.phase,
        input_tokens: line.input_tokens,
        output_tokens: line.output_tokens,
        blocks: line
            .blocks
            .into_iter()
            .map(|(id, number, tokens)| Block { number, tokens, id })
            .collect(),
    })
}

fn next_line<'b>(
    from: &mut impl BufRead,
    buffer: &'b mut Vec<u8>,
    number: &mut usize,
) -> Result<Option<&'b [u8]>, ScheduleError> {
    buffer.clear();
    *number += 1;
    let line = *number;
    let read = io::Read::take(&mut *from, LINE_BYTES_MAX + 1).read_until(b'\n', buffer);
    let read = read.map_err(|source| ScheduleError::Io { line, source })?;
    if read as u64 > LINE_BYTES_MAX {
        let problem = format!("longer than {LINE_BYTES_MAX} bytes");
        return Err(ScheduleError::Line { line, problem });
    }
    Ok((read > 0).then_some(buffer.as_slice()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn plan() -> Plan {
        let requests = (0..4).map(|at| PlannedRequest {
            intended_ns: at,
            session: (at > 1).then_some(7),
            turn: at as u32,
            think_ns: at * 5,
            phase: if at == 0 { Phase::Warmup } else { Phase::Measured },
            input_tokens: 12,
            output_tokens: 3,
            blocks: vec![
                Block { number: 0, tokens: 8, id: u64::MAX },
                Block { number: 1 + at as u32, tokens: 4, id: at as u64 },
            ],
        });
        Plan {
            requests: requests.collect(),
            refused_too_long: 2,
            truncated: 1,
            turns: Turns::AfterPrevious,
            until_ns: Some(99),
            origin: Origin {
                source: "a \"trace\"".to_owned(),
                digest: [9; 32],
                seed: 5,
                blocks: 7,
            },
        }
    }

    fn bytes(plan: &Plan) -> Vec<u8> {
        let mut out = Vec::new();
        plan.write(&mut out).unwrap();
        out
    }

    #[test]
    fn what_is_read_back_is_what_was_written() {
        let read = Plan::read(&mut bytes(&plan()).as_slice()).unwrap();
        assert_eq!(read, plan());
        assert_eq!(bytes(&read), bytes(&plan()));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        let good = String::from_utf8(bytes(&plan())).unwrap();
        for (bad, expected) in [
            (good.replace("schedule/1", "schedule/0"), "line 1: schema is"),
            (good.replace("0909", "09x9"), "line 1: digest is"),
            (good.replace("\"turn\":2", "\"turn\":-2"), "line 4: not a request"),
            (good.replace("\"think_ns\":10,", ""), "line 4: not a request"),
            (good.replace("\"intended_ns\":1,", "\"intended_ns\":9,"), "line 4: intended_ns"),
            (good.replace("[2,3,4]", "[2,3,5]"), "line 4: blocks of 13 tokens"),
            (good.lines().take(4).collect::<Vec<_>>().join("\n"), "ends after 3 of 4 requests"),
            (format!("{good}{}\n", good.lines().last().unwrap()), "line 6: more than the 4"),
            (String::new(), "line 1: not the head"),
        ] {
            let error = Plan::read(&mut bad.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(expected), "{expected}: {error}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_give_a_plan_or_an_error(at in 0_usize..900, byte: u8) {
            let mut changed = bytes(&plan());
            let at = at % changed.len();
            changed[at] = byte;
            if let Ok(read) = Plan::read(&mut changed.as_slice()) {
                prop_assert_eq!(read.requests.len(), 4);
            }
        }
    }
}
