//! Weka / kv-cache-tester JSON: one document a session, time in seconds from the session's start.

use std::fmt;
use std::io::{self, Write};
use std::path::Path;

use serde::Deserializer;
use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value, json};

use super::{Capabilities, ReadOptions, TraceFormat, block_ids};
use crate::documents::{self, Sink, Stop};
use crate::draft::{Arrival, Draft, Names, Order};
use crate::error::{Problem, TraceError};
use crate::fields::{Fields, seconds_ns};
use crate::input::files_of;
use crate::sample::Sample;
use crate::trace::{BlockSizes, Trace};

const BLOCK_TOKENS: u32 = 64;
const NAMES: Names = Names { time: "t", prompt: "in" };

pub(crate) struct Weka;

impl TraceFormat for Weka {
    fn about(&self) -> &'static str {
        "Weka kv-cache-tester JSON, one document a session, time stamps in seconds from its start"
    }

    fn recognizes(&self, sample: &Sample) -> bool {
        sample.has(&["requests", "block_size"])
    }

    fn read(&self, path: &Path, options: &ReadOptions) -> Result<Draft, TraceError> {
        let mut draft = Draft::new(Order::PerSession, NAMES, options.strict);
        let mut files = vec![path.to_owned()];
        if path.is_dir() {
            files = files_of(path)?;
            files.retain(|file| is_json(file));
        }
        for file in &files {
            let mut session = Session { draft: &mut draft, stop: Stop::default(), context: None };
            documents::read(file, &mut session)?;
        }
        Ok(draft)
    }

    fn capabilities(&self) -> Option<Capabilities> {
        Some(Capabilities {
            blocks: true,
            sessions: true,
            thinking: true,
            clock: false,
            step_ns: 1,
        })
    }

    fn write(&self, trace: &Trace, out: &mut dyn Write) -> io::Result<()> {
        let block_tokens = trace.sizes.uniform().unwrap_or(BLOCK_TOKENS);
        let mut sessions: Vec<(Option<u32>, i64, Vec<Value>)> = Vec::new();
        let mut places = std::collections::HashMap::new();
        for (record, ids) in trace.records.iter().zip(block_ids(trace, block_tokens)) {
            let fresh = sessions.len();
            let place = match record.session {
                Some(session) => *places.entry(session).or_insert(fresh),
                None => fresh,
            };
            if place == fresh {
                sessions.push((record.session, record.at_ns, Vec::new()));
            }
            let (_, start_ns, requests) = &mut sessions[place];
            requests.push(json!({
                "t": (record.at_ns - *start_ns) as f64 / 1e9,
                "type": "s",
                "model": "unknown",
                "in": record.input_tokens,
                "out": record.output_tokens,
                "hash_ids": ids,
                "think_time": record.think_ns as f64 / 1e9,
            }));
        }
        for (id, (_, _, requests)) in sessions.into_iter().enumerate() {
            let session = json!({
                "id": format!("session-{id}"),
                "block_size": block_tokens,
                "hash_id_scope": "global",
                "tool_tokens": 0,
                "system_tokens": 0,
                "requests": requests,
            });
            writeln!(out, "{session}")?;
        }
        Ok(())
    }
}

fn is_json(file: &Path) -> bool {
    file.extension().is_some_and(|extension| extension == "json" || extension == "jsonl")
}

/// A reader of a session, or of a list of them, request by request.
struct Session<'a> {
    draft: &'a mut Draft,
    stop: Stop,
    /// Context of the next requests; `None` until the block size is known.
    context: Option<Context>,
}

impl Sink for Session<'_> {
    fn stop(&mut self) -> &mut Stop {
        &mut self.stop
    }

    fn draft(&mut self) -> &mut Draft {
        self.draft
    }
}

impl<'de> DeserializeSeed<'de> for &mut Session<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for &mut Session<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a session or a list of them")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while list.next_element_seed(&mut *self)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut session: A) -> Result<(), A::Error> {
        let mut head = Map::new();
        self.context = None;
        while let Some(key) = session.next_key::<String>()? {
            match key.as_str() {
                "block_size" | "hash_id_scope" if self.context.is_none() => {
                    head.insert(key, session.next_value()?);
                }
                "block_size" | "hash_id_scope" => {
                    let problem = Problem::new(key, "behind requests", "its place before requests");
                    return Err(self.stop.note(problem));
                }
                "requests" => {
                    let context = self.open(&head).map_err(|problem| self.stop.note(problem))?;
                    self.context = Some(context);
                    session.next_value_seed(Requests { session: self, context, above_ns: 0 })?;
                }
                _ => {
                    session.next_value::<IgnoredAny>()?;
                }
            }
        }
        match self.context {
            Some(_) => Ok(()),
            None => Err(self.stop.note(Problem::new("requests", "missing", "a list"))),
        }
    }
}

/// A reader of the requests of a session.
struct Requests<'s, 'a> {
    session: &'s mut Session<'a>,
    context: Context,
    above_ns: i64,
}

impl<'de> DeserializeSeed<'de> for Requests<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Requests<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of requests")
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut list: A) -> Result<(), A::Error> {
        let mut at = 0;
        while let Some(request) = list.next_element::<Map<String, Value>>()? {
            let within = format!("requests[{at}].");
            let taken = self.session.request(&request, &within, self.context, &mut self.above_ns);
            taken.map_err(|problem| self.session.stop.note(problem))?;
            at += 1;
        }
        Ok(())
    }
}

impl Session<'_> {
    fn open(&mut self, head: &Map<String, Value>) -> Result<Context, Problem> {
        let fields = Fields::new(head, "");
        let block_tokens = fields.tokens("block_size", 1)?;
        match self.draft.sizes.uniform() {
            Some(other) if other != block_tokens => {
                let expected = format!("{other}, as in the sessions before");
                return Err(Problem::new("block_size", block_tokens, expected));
            }
            _ => self.draft.sizes = BlockSizes::Uniform(block_tokens),
        }
        let session = self.draft.new_session();
        let scope =
            fields.get("hash_id_scope").map(|_| fields.text("hash_id_scope")).transpose()?;
        let scope = match scope {
            None | Some("local") => session + 1,
            Some("global") => 0,
            Some(other) => {
                return Err(Problem::new("hash_id_scope", other, "\"local\" or \"global\""));
            }
        };
        Ok(Context { session, scope, start_ns: 0, block_tokens })
    }

    fn request(
        &mut self,
        request: &Map<String, Value>,
        within: &str,
        context: Context,
        above_ns: &mut i64,
    ) -> Result<(), Problem> {
        let fields = Fields::new(request, within);
        self.draft.line = self.stop.line();
        let at_ns = fields.seconds("t")?;
        self.draft.check_order(within, at_ns, *above_ns)?;
        *above_ns = at_ns;
        match fields.text("type")? {
            "n" | "s" => self.push(&fields, context, at_ns),
            "subagent" => self.subagent(&fields, context, at_ns),
            other => {
                let expected = "\"n\", \"s\" or \"subagent\"";
                Err(Problem::new(fields.name("type"), other, expected))
            }
        }
    }

    /// Reads the requests of an agent. They are a session of their own that shares the blocks of the
    /// session that started it. Their clock is that session's or, in older traces, starts with the
    /// agent: then the first of them is earlier than the agent.
    fn subagent(
        &mut self,
        fields: &Fields<'_>,
        context: Context,
        at_ns: i64,
    ) -> Result<(), Problem> {
        let within = fields.name("requests");
        let requests = fields.list("requests")?;
        let first_s = requests.first().and_then(|request| request.get("t")?.as_f64());
        let relative = first_s.and_then(seconds_ns).is_some_and(|first_ns| first_ns < at_ns);
        let start_ns = context.start_ns + if relative { at_ns } else { 0 };
        let context = Context { session: self.draft.new_session(), start_ns, ..context };
        let mut above_ns = 0;
        for (at, value) in requests.iter().enumerate() {
            let Value::Object(request) = value else {
                return Err(Problem::new(format!("{within}[{at}]"), value, "a request"));
            };
            self.request(request, &format!("{within}[{at}]."), context, &mut above_ns)?;
        }
        Ok(())
    }

    fn push(&mut self, fields: &Fields<'_>, context: Context, at_ns: i64) -> Result<(), Problem> {
        let input_tokens = fields.tokens("in", 0)?;
        let output_tokens = fields.tokens("out", 0)?;
        let ids = fields.optional_ids("hash_ids")?;
        let field = fields.name("hash_ids");
        self.draft.check_coverage(&field, ids.len(), input_tokens, context.block_tokens)?;
        let blocks = ids.iter().map(|id| self.draft.block(context.scope, *id));
        let blocks = blocks.collect::<Result<_, _>>()?;
        let arrival = Arrival {
            at_ns: context.start_ns + at_ns,
            input_tokens,
            output_tokens,
            session: Some(context.session),
            think_ns: fields.optional_seconds("think_time", self.draft)?,
            service_ns: fields.optional_seconds("api_time", self.draft)?,
            blocks,
        };
        self.draft.push(arrival, &fields.name(""))
    }
}

/// Context of a session's requests.
#[derive(Clone, Copy)]
struct Context {
    session: u32,
    scope: u32,
    start_ns: i64,
    block_tokens: u32,
}
