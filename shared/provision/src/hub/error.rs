//! The reasons for which a model could not be obtained from a hub.

use std::path::PathBuf;

use hf_hub::api::sync::ApiError;

use super::reference::ParseHubRefError;

/// The reason for which a model could not be obtained from a hub.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say what the fields are")]
pub enum HubError {
    /// The reference itself makes no sense.
    #[error(transparent)]
    Reference(#[from] ParseHubRefError),
    /// The hub asks for a token, or refuses the one that was sent.
    #[error(
        "{what} at {endpoint}: status {status}: it does not exist, or is private or gated; \
         set HF_TOKEN to a token that may read it{}",
        if *token_sent { " (the token that was sent may not)" } else { "" }
    )]
    Denied { what: String, endpoint: String, status: u16, token_sent: bool },
    /// The hub has no such thing.
    #[error("{what} at {endpoint}: status 404: there is no such {kind}")]
    NotFound { what: String, endpoint: String, kind: &'static str },
    /// The hub answered something else.
    #[error("{what} at {endpoint}: status {status}")]
    Status { what: String, endpoint: String, status: u16 },
    /// The repository has no model of a kind that can be loaded, or not the file named.
    #[error("{repo}: {problem}")]
    Choice { repo: String, problem: String },
    /// The hub could not be reached, or its answer not be read, and the cache does not have it all.
    #[error("{what} at {endpoint}: {source}")]
    Unreachable { what: String, endpoint: String, source: Box<ApiError> },
    /// The hub may not be asked, and the cache is not complete.
    #[error("{what} is not whole in {}, and HF_HUB_OFFLINE is set", cache.display())]
    Offline { what: String, cache: PathBuf },
    /// A file is not the one that the hub describes.
    #[error("{what}: {problem}")]
    Damaged { what: String, problem: String },
    /// Another process fetches the same, for too long.
    #[error("another process has been fetching {what} for {seconds} s")]
    Busy { what: String, seconds: u64 },
    /// The transfer stalled.
    #[error("fetching {what}: nothing arrived for {seconds} s; start again to go on from there")]
    Stalled { what: String, seconds: u64 },
    /// A file of the cache could not be read or written.
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: std::io::Error },
    /// The thread that fetches could not be started.
    #[error("start the thread that fetches: {0}")]
    Thread(std::io::Error),
    /// The thread that fetches panicked.
    #[error("the thread that fetches panicked")]
    Panicked,
}
