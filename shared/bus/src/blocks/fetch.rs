//! Fetches stored blocks: batched direct gets, one round trip for some hundred blocks, no state on
//! the server.
//!
//! A consumer could do the same, but the server compares its filters with every subject of the
//! stream when it is created: milliseconds, and more for a fuller stream.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use async_nats::header::NATS_SUBJECT;
use async_nats::{Message, Subscriber};
use futures::StreamExt as _;
use protocol::subject::parse_stored;
use protocol::{BlockHash, Subject};

use super::assemble::{Accepted, Assembly};
use super::index::frame_named;
use super::{Blocks, PullError, PulledBlock};
use crate::connect::{JETSTREAM_TIMEOUT, Link};
use crate::messages::subscribe;

/// Hashes per request: the responses fit into a subscription.
const HASHES_MAX: usize = 128;
/// Bytes of the responses to one request: the flow control.
const RESPONSE_BYTES_MAX: usize = 8 << 20;
const END_OF_BATCH: u16 = 204;
const NOTHING_FOUND: u16 = 404;
const NO_RESPONDERS: u16 = 503;

/// A running fetch of stored blocks.
pub struct Fetch {
    blocks: Blocks,
    link: Link,
    /// Hashes that are not requested yet.
    waiting: VecDeque<BlockHash>,
    asked: Option<Asked>,
    arriving: BTreeMap<BlockHash, Assembly>,
}

/// The running request.
struct Asked {
    answers: Subscriber,
    missing: BTreeSet<BlockHash>,
    /// True if it brought a frame: then the rest is worth another request.
    brought: bool,
}

impl Blocks {
    /// Starts to fetch those of `wanted` that are stored.
    ///
    /// # Errors
    /// Without a download connection.
    pub async fn fetch(&self, wanted: Vec<BlockHash>) -> Result<Fetch, PullError> {
        let link = self.bus.inner.download().await?.clone();
        let (blocks, waiting) = (self.clone(), wanted.into());
        Ok(Fetch { blocks, link, waiting, asked: None, arriving: BTreeMap::new() })
    }
}

impl Fetch {
    /// Returns the next whole block, in the order in which they were stored, or an error for a damaged
    /// one. Returns `None` once all stored ones have arrived, and after any other error. Safe to
    /// abandon.
    pub async fn next(&mut self) -> Option<Result<PulledBlock, PullError>> {
        loop {
            if self.asked.is_none() {
                if self.waiting.is_empty() {
                    return None;
                }
                if let Err(error) = self.ask().await {
                    return Some(Err(self.give_up(error)));
                }
            }
            let asked = self.asked.as_mut()?;
            let answer = tokio::time::timeout(JETSTREAM_TIMEOUT, asked.answers.next()).await;
            let Ok(Some(answer)) = answer else {
                let error = PullError::Failed("no response to a direct get".to_owned());
                return Some(Err(self.give_up(error)));
            };
            match self.answered(&answer) {
                Ok(None) => {}
                Ok(Some(block)) => return Some(Ok(block)),
                Err(error @ PullError::Damaged { .. }) => return Some(Err(error)),
                Err(error) => return Some(Err(self.give_up(error))),
            }
        }
    }

    async fn ask(&mut self) -> Result<(), PullError> {
        let hashes: Vec<BlockHash> = self.waiting.iter().copied().take(HASHES_MAX).collect();
        let namespace = self.blocks.namespace();
        let subjects: Vec<String> = hashes
            .iter()
            .map(|&block| Subject::Stored { namespace, block, frame: None }.to_string())
            .collect();
        let request = format!(
            r#"{{"multi_last":["{}"],"max_bytes":{RESPONSE_BYTES_MAX}}}"#,
            subjects.join("\",\"")
        );
        let failed = |error: &dyn std::fmt::Display| PullError::Failed(error.to_string());
        let client = &self.link.client;
        let inbox = client.new_inbox();
        let asking = async {
            let answers = subscribe(client, &inbox, None).await.map_err(|error| failed(&error))?;
            let to = format!("$JS.API.DIRECT.GET.{}", self.blocks.stream());
            let sent = client.publish_with_reply(to, inbox.clone(), request.into()).await;
            sent.map_err(|error| failed(&error))?;
            Ok::<_, PullError>(answers)
        };
        let answers = match tokio::time::timeout(JETSTREAM_TIMEOUT, asking).await {
            Ok(answers) => answers?,
            Err(_) => {
                return Err(PullError::Failed(
                    "direct get timed out: the client's command queue is full".to_owned(),
                ));
            }
        };
        self.waiting.drain(..hashes.len());
        let missing = hashes.into_iter().collect();
        self.asked = Some(Asked { answers, missing, brought: false });
        Ok(())
    }

    fn answered(&mut self, answer: &Message) -> Result<Option<PulledBlock>, PullError> {
        match answer.status.map(|status| status.as_u16()) {
            None => return self.frame(answer),
            Some(END_OF_BATCH) => {
                // Blocks that did not fit into this response are stored, and asking for absent ones
                // costs little.
                if let Some(Asked { missing, brought: true, .. }) = self.asked.take() {
                    self.waiting.extend(missing);
                }
            }
            Some(NOTHING_FOUND) => self.asked = None,
            Some(NO_RESPONDERS) => return Err(PullError::NoStream(self.blocks.stream())),
            Some(status) => {
                let why = answer.description.as_deref().unwrap_or_default();
                return Err(PullError::Failed(format!("direct get: {status} {why}")));
            }
        }
        Ok(None)
    }

    fn frame(&mut self, message: &Message) -> Result<Option<PulledBlock>, PullError> {
        let counters = &self.blocks.bus.inner.counters;
        let headers = message.headers.as_ref();
        let subject = headers.and_then(|headers| headers.get(NATS_SUBJECT));
        let subject = subject.map_or("", |subject| subject.as_str());
        let named = parse_stored(subject).map(|(_, block, _)| block);
        let Some(asked) = &mut self.asked else { return Ok(None) };
        asked.brought = true;
        let waits = named.is_some_and(|block| asked.missing.contains(&block));
        let accepted = match frame_named(subject, headers, self.blocks.namespace()) {
            Ok(_) if !waits => return Ok(None),
            Ok((block, header)) => {
                self.arriving.entry(block).or_default().accept(block, &header, &message.payload)
            }
            Err((reason, why)) => Accepted::Refused(reason, why),
        };
        match accepted {
            Accepted::Part => Ok(None),
            Accepted::Whole(block) => {
                asked.missing.remove(&block.hash);
                self.arriving.remove(&block.hash);
                counters.pulled(block.bytes.len());
                Ok(Some(block))
            }
            Accepted::Refused(reason, why) => {
                counters.drop_message(reason, subject, &why);
                let Some(block) = named.filter(|_| waits) else { return Ok(None) };
                asked.missing.remove(&block);
                self.arriving.remove(&block);
                self.blocks.report_damaged(block);
                Err(PullError::Damaged { hash: block, why })
            }
        }
    }

    fn give_up(&mut self, error: PullError) -> PullError {
        self.waiting.clear();
        self.asked = None;
        error
    }
}
