//! ShareGPT conversations and vLLM custom prompts: texts without times.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use serde::Deserializer;
use serde::de::{DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::{ReadOptions, TraceFormat};
use crate::documents::{self, Sink, Stop};
use crate::draft::{Arrival, Draft, Names, Order};
use crate::error::{Problem, TraceError};
use crate::fields::{Fields, token_count};
use crate::oddity::Oddity;
use crate::random::mix;
use crate::sample::Sample;
use crate::trace::BlockSizes;
use crate::vocabulary::Vocabulary;

/// Nothing, since the field of a prompt depends on the entry.
const NAMES: Names = Names { time: "", prompt: "" };
const BLOCK_TOKENS: u32 = 16;
/// Bytes per token, as an estimate for use without a tokenizer.
const BYTES_PER_TOKEN: usize = 4;

pub(crate) struct ShareGpt;

impl TraceFormat for ShareGpt {
    fn about(&self) -> &'static str {
        "ShareGPT or vLLM custom JSON, texts without time stamps"
    }

    fn recognizes(&self, sample: &Sample) -> bool {
        sample.has(&["conversations"]) || sample.has(&["prompt"])
    }

    fn read(&self, path: &Path, options: &ReadOptions) -> Result<Draft, TraceError> {
        let mut draft = Draft::new(Order::Ascending, NAMES, options.strict);
        let block_tokens = options.block_tokens.unwrap_or(BLOCK_TOKENS);
        draft.sizes = BlockSizes::Uniform(block_tokens);
        draft.timed = false;
        if options.vocabulary.is_none() {
            draft.notes.push(format!(
                "tokens are estimated, {BYTES_PER_TOKEN} bytes of text each (exact with \
                 --vocab-tokenizer)"
            ));
        }
        let vocabulary = options.vocabulary.clone();
        let stop = Stop::default();
        let mut texts =
            Texts { draft: &mut draft, stop, vocabulary, block_tokens, entries: 0, skipped: 0 };
        documents::read(path, &mut texts)?;
        let skipped = texts.skipped;
        if skipped > 0 {
            draft.notes.push(format!("{skipped} conversations hold no answer and were left out"));
        }
        Ok(draft)
    }
}

/// A reader of entries, one by one.
struct Texts<'a> {
    draft: &'a mut Draft,
    stop: Stop,
    vocabulary: Option<Arc<dyn Vocabulary>>,
    block_tokens: u32,
    entries: usize,
    skipped: usize,
}

impl Sink for Texts<'_> {
    fn stop(&mut self) -> &mut Stop {
        &mut self.stop
    }

    fn draft(&mut self) -> &mut Draft {
        self.draft
    }
}

impl<'de> DeserializeSeed<'de> for &mut Texts<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for &mut Texts<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a conversation, a prompt or a list of them")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while list.next_element_seed(&mut *self)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entry: A) -> Result<(), A::Error> {
        let mut object = Map::new();
        while let Some((key, value)) = entry.next_entry::<String, Value>()? {
            object.insert(key, value);
        }
        self.entry(&object).map_err(|problem| self.stop.note(problem))
    }
}

impl Texts<'_> {
    fn entry(&mut self, object: &Map<String, Value>) -> Result<(), Problem> {
        let within = format!("entry {}: ", self.entries);
        self.entries += 1;
        self.draft.line = self.stop.line();
        let fields = Fields::new(object, &within);
        if fields.get("conversations").is_some() {
            return self.conversation(&fields);
        }
        let prompt = fields.text("prompt")?;
        let output_tokens = match fields.get("output_tokens") {
            Some(_) => fields.tokens("output_tokens", 1)?,
            None => {
                let name = fields.name("output_tokens");
                let problem = Problem::new(name, "missing", "a whole number, not negative");
                self.draft.odd(Oddity::NoOutputLength, problem)?;
                0
            }
        };
        let tokens = self.tokens(&fields.name("prompt"), prompt)?;
        self.push(&fields.name("prompt"), &tokens, output_tokens, None)
    }

    /// Reads one conversation. Every reply is a request, and all messages before it are its prompt.
    fn conversation(&mut self, fields: &Fields<'_>) -> Result<(), Problem> {
        let field = fields.name("conversations");
        let mut session = None;
        let mut said: Vec<u32> = Vec::new();
        for (at, message) in fields.list("conversations")?.iter().enumerate() {
            let name = format!("{field}[{at}]");
            let Value::Object(message) = message else {
                return Err(Problem::new(name, message, "a message with from and value"));
            };
            let within = format!("{name}.");
            let message = Fields::new(message, &within);
            let Some(text) = self.draft.optional("value", message.text("value"))? else { continue };
            let tokens = self.tokens(&message.name("value"), text)?;
            let answers =
                matches!(message.text("from")?, "gpt" | "assistant" | "chatgpt" | "bing" | "bard");
            if answers && !said.is_empty() && !tokens.is_empty() {
                let session = *session.get_or_insert_with(|| self.draft.new_session());
                let output = token_count(tokens.len() as u64, 1).map_err(|expected| {
                    Problem::new(message.name("value"), tokens.len(), expected)
                })?;
                self.push(&message.name("value"), &said, output, Some(session))?;
            }
            said.extend(tokens);
        }
        self.skipped += usize::from(session.is_none());
        Ok(())
    }

    /// Tokenizes `text`. Without a tokenizer, each chunk of `BYTES_PER_TOKEN` bytes is a token.
    fn tokens(&self, field: &str, text: &str) -> Result<Vec<u32>, Problem> {
        let Some(vocabulary) = &self.vocabulary else {
            let chunks = text.as_bytes().chunks(BYTES_PER_TOKEN);
            return Ok(chunks
                .map(|bytes| bytes.iter().fold(0, |n, b| n << 8 | u32::from(*b)))
                .collect());
        };
        vocabulary.encode(text).map_err(|error| {
            Problem::new(field, text, format!("a text for the tokenizer ({error})"))
        })
    }

    /// Adds a request. The id of a block check_coverage its tokens and all before them.
    fn push(
        &mut self,
        field: &str,
        prompt: &[u32],
        output_tokens: u32,
        session: Option<u32>,
    ) -> Result<(), Problem> {
        let input_tokens = token_count(prompt.len() as u64, 0)
            .map_err(|expected| Problem::new(field, prompt.len(), expected))?;
        let mut chain = 0;
        let mut blocks = Vec::new();
        for block in prompt.chunks(self.block_tokens as usize) {
            chain = block.iter().fold(mix(chain), |chain, token| mix(chain ^ u64::from(*token)));
            blocks.push(self.draft.block(0, chain)?);
        }
        let arrival =
            Arrival { input_tokens, output_tokens, session, blocks, ..Default::default() };
        self.draft.push(arrival, field)
    }
}
