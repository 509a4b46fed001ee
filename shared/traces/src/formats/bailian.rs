//! Qwen-Bailian JSON lines: chats with parents, time in seconds, blocks of 16 tokens.

use std::collections::HashMap;
use std::io::{self, Write};
use std::path::Path;

use serde_json::json;

use super::{Capabilities, ReadOptions, TraceFormat, block_ids};
use crate::draft::{Arrival, Draft, Names, Order};
use crate::error::{Problem, TraceError};
use crate::fields::{Fields, object};
use crate::input::Lines;
use crate::sample::Sample;
use crate::trace::{BlockSizes, Trace};
use crate::units::NS_PER_MS;

const FIELDS: [&str; 8] = [
    "chat_id",
    "parent_chat_id",
    "timestamp",
    "input_length",
    "output_length",
    "type",
    "turn",
    "hash_ids",
];
const NAMES: Names = Names { time: "timestamp", prompt: "input_length" };
const BLOCK_TOKENS: u32 = 16;

/// Parent of a chat that begins a session.
const ROOT: i64 = -1;

pub(crate) struct Bailian;

impl TraceFormat for Bailian {
    fn about(&self) -> &'static str {
        "Qwen-Bailian JSONL, time stamps in seconds"
    }

    fn recognizes(&self, sample: &Sample) -> bool {
        !sample.is_list && sample.has(&["chat_id", "parent_chat_id", "timestamp", "hash_ids"])
    }

    fn read(&self, path: &Path, options: &ReadOptions) -> Result<Draft, TraceError> {
        let block_tokens = options.block_tokens.unwrap_or(BLOCK_TOKENS);
        let mut draft = Draft::new(Order::Ascending, NAMES, options.strict);
        draft.sizes = BlockSizes::Uniform(block_tokens);
        let mut chats = Chats::default();
        let lines = Lines::open(path, &mut draft)?;
        lines.drain(&mut draft, |text, draft| record(text, block_tokens, &mut chats, draft))?;
        Ok(draft)
    }

    fn capabilities(&self) -> Option<Capabilities> {
        Some(Capabilities {
            blocks: true,
            sessions: true,
            thinking: false,
            clock: true,
            step_ns: NS_PER_MS,
        })
    }

    fn write(&self, trace: &Trace, out: &mut dyn Write) -> io::Result<()> {
        let block_tokens = trace.sizes.uniform().unwrap_or(BLOCK_TOKENS);
        let mut latest: HashMap<u32, i64> = HashMap::new();
        let rows = trace.records.iter().zip(block_ids(trace, block_tokens));
        for (chat, (record, ids)) in (0_i64..).zip(rows) {
            let parent = record.session.and_then(|session| latest.insert(session, chat));
            let line = json!({
                "chat_id": chat,
                "parent_chat_id": parent.unwrap_or(ROOT),
                "timestamp": (record.at_ns / NS_PER_MS) as f64 / 1e3,
                "input_length": record.input_tokens,
                "output_length": record.output_tokens,
                "type": "text",
                "turn": record.turn + 1,
                "hash_ids": ids,
            });
            writeln!(out, "{line}")?;
        }
        Ok(())
    }
}

/// Sessions of the chats.
#[derive(Default)]
struct Chats {
    sessions: HashMap<i64, u32>,
    /// Sessions that began with a chat whose parent was not read yet, by the parent.
    orphans: HashMap<i64, Vec<u32>>,
}

impl Chats {
    /// Returns the session of a chat. A chat whose parent is not in the file begins one.
    fn session(&mut self, chat: i64, parent: i64, draft: &mut Draft) -> u32 {
        let session = self.sessions.get(&parent).copied().unwrap_or_else(|| {
            let session = draft.new_session();
            if parent != ROOT {
                self.orphans.entry(parent).or_default().push(session);
            }
            session
        });
        self.sessions.insert(chat, session);
        for orphan in self.orphans.remove(&chat).unwrap_or_default() {
            draft.join(session, orphan);
        }
        session
    }
}

/// Reads one chat.
fn record(
    text: &str,
    block_tokens: u32,
    chats: &mut Chats,
    draft: &mut Draft,
) -> Result<(), Problem> {
    let object = object(text)?;
    let fields = Fields::new(&object, "");
    fields.only(&FIELDS, draft)?;
    let chat = fields.integer("chat_id")?;
    let parent = fields.integer("parent_chat_id")?;
    draft.optional("type", fields.text("type"))?;
    draft.optional("turn", fields.whole("turn"))?;
    let at_ns = fields.seconds("timestamp")?;
    let input_tokens = fields.tokens("input_length", 0)?;
    let output_tokens = fields.tokens("output_length", 0)?;
    let ids = fields.optional_ids("hash_ids")?;
    draft.check_coverage("hash_ids", ids.len(), input_tokens, block_tokens)?;
    let session = Some(chats.session(chat, parent, draft));
    let blocks = draft.blocks(&ids)?;
    let arrival =
        Arrival { at_ns, input_tokens, output_tokens, session, blocks, ..Default::default() };
    draft.push(arrival, "")
}
