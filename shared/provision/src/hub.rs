//! Models named `hf:owner/repo[@revision][:file]`, fetched from a Hugging Face hub into its usual
//! cache.
//!
//! **Invariant**: a file is used only when its size and its digest are those that the hub names, and
//! all files of a model are of one commit.

mod choice;
mod download;
mod error;
mod options;
mod reference;
mod tenths;
mod transfer;
mod verify;

pub use error::HubError;
pub use options::HubOptions;
pub use reference::{HubRef, ParseHubRefError};
pub use tenths::Tenths;

use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError, SyncSender};
use std::thread;

use download::Fetch;

/// Events that may wait for the receiver.
const EVENTS_MAX: usize = 64;

/// An event while a model is fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HubEvent {
    /// Something worth a line.
    Note(String),
    /// The progress of one file.
    Bytes {
        /// The file, as the repository names it.
        file: String,
        /// Bytes that are here, those of earlier attempts included.
        done: u64,
        /// Bytes that it has.
        total: u64,
    },
}

/// A message of the fetching thread.
enum Message {
    Event(HubEvent),
    /// A request was sent or answered: nothing to show, but something moves.
    Alive,
    Done(Result<PathBuf, HubError>),
}

/// The path to open for the model named by `path`: fetched if it is a `hf:` reference, with its
/// progress in the log, or else `path` itself. Reads the environment as [`HubOptions::from_env`]
/// does. Blocks.
pub fn model(path: &Path) -> Result<PathBuf, HubError> {
    let Some(reference) = HubRef::from_path(path) else { return Ok(path.to_path_buf()) };
    let reference = reference?;
    let mut lines = Tenths::default();
    let path = fetch(&reference, &HubOptions::from_env(), &mut |event| {
        if let Some(line) = lines.line(&event) {
            tracing::info!("{line}");
        }
    })?;
    tracing::info!(model = %reference, path = %path.display(), "fetched the model");
    Ok(path)
}

/// Fetches what is missing of a model, and gives the path to open: a GGUF file, or the directory of
/// a model in safetensors. Blocks, and gives up when nothing moves for `options.stall_limit`.
pub fn fetch(
    reference: &HubRef,
    options: &HubOptions,
    show: &mut dyn FnMut(HubEvent),
) -> Result<PathBuf, HubError> {
    let (messages, inbox) = mpsc::sync_channel(EVENTS_MAX);
    let fetch = Fetch::new(reference.clone(), options.clone(), Outbox(messages.clone()))?;
    // The hub's client waits without limit; this thread does the waiting, and we watch it. When it
    // stalls it is left behind, to end with the process, as nothing can wake it.
    let thread = thread::Builder::new()
        .name("hub-fetch".to_owned())
        .spawn(move || {
            let outcome = fetch.run();
            // The receiver is gone only after a stall was reported.
            let _ = messages.send(Message::Done(outcome));
        })
        .map_err(HubError::Thread)?;
    loop {
        match inbox.recv_timeout(options.stall_limit) {
            Ok(Message::Event(event)) => show(event),
            Ok(Message::Alive) => {}
            Ok(Message::Done(outcome)) => {
                // It has nothing left to do but to return.
                let _ = thread.join();
                return outcome;
            }
            Err(RecvTimeoutError::Timeout) => {
                return Err(HubError::Stalled {
                    what: reference.to_string(),
                    seconds: options.stall_limit.as_secs(),
                });
            }
            Err(RecvTimeoutError::Disconnected) => return Err(HubError::Panicked),
        }
    }
}

/// The sender of the fetching thread's messages.
#[derive(Clone)]
pub(crate) struct Outbox(SyncSender<Message>);

impl Outbox {
    // Without a receiver the events do not matter.
    fn note(&self, text: String) {
        let _ = self.0.send(Message::Event(HubEvent::Note(text)));
    }

    fn alive(&self) {
        let _ = self.0.send(Message::Alive);
    }

    fn bytes(&self, file: &str, done: u64, total: u64) {
        let file = file.to_owned();
        let _ = self.0.send(Message::Event(HubEvent::Bytes { file, done, total }));
    }
}
