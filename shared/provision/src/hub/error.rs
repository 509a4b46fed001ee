//! Why a model could not be had from a hub.

use std::path::PathBuf;

use hf_hub::api::sync::ApiError;

use super::reference::ParseHubRefError;

/// Why a model could not be had from a hub.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// The reference itself makes no sense.
    #[error(transparent)]
    Reference(#[from] ParseHubRefError),
    /// The hub wants to know who asks, or does not let that one in.
    #[error(
        "{what} at {endpoint}: status {status}: it does not exist, or is private or gated; \
         set HF_TOKEN to a token that may read it{}",
        if *token_sent { " (the token that was sent may not)" } else { "" }
    )]
    Denied {
        /// What was asked for.
        what: String,
        /// The hub.
        endpoint: String,
        /// 401 or 403.
        status: u16,
        /// Whether a token was sent.
        token_sent: bool,
    },
    /// The hub has no such thing.
    #[error("{what} at {endpoint}: status 404: there is no such {kind}")]
    NotFound {
        /// What was asked for.
        what: String,
        /// The hub.
        endpoint: String,
        /// Repository or file.
        kind: &'static str,
    },
    /// The hub answered something else.
    #[error("{what} at {endpoint}: status {status}")]
    Status {
        /// What was asked for.
        what: String,
        /// The hub.
        endpoint: String,
        /// What it answered.
        status: u16,
    },
    /// The repository has no model of a kind that can be loaded, or not the file named.
    #[error("{repo}: {problem}")]
    Choice {
        /// The repository.
        repo: String,
        /// What is missing or not clear.
        problem: String,
    },
    /// The hub could not be reached, or its answer not be read, and the cache does not have it all.
    #[error("{what} at {endpoint}: {source}")]
    Unreachable {
        /// What was asked for.
        what: String,
        /// The hub.
        endpoint: String,
        /// What went wrong.
        source: Box<ApiError>,
    },
    /// Nothing may be asked, and the cache does not have it all.
    #[error("{what} is not whole in {}, and HF_HUB_OFFLINE is set", cache.display())]
    Offline {
        /// What was asked for.
        what: String,
        /// The cache.
        cache: PathBuf,
    },
    /// What arrived is not what the hub says it is.
    #[error("{what}: {problem}")]
    Damaged {
        /// The file.
        what: String,
        /// How it differs.
        problem: String,
    },
    /// Another process fetches the same, for too long.
    #[error("another process has been fetching {what} for {seconds} s")]
    Busy {
        /// The repository.
        what: String,
        /// How long it was waited for.
        seconds: u64,
    },
    /// Nothing arrived any more.
    #[error("fetching {what}: nothing arrived for {seconds} s; start again to go on from there")]
    Stalled {
        /// What was asked for.
        what: String,
        /// How long it was waited for.
        seconds: u64,
    },
    /// A file of the cache could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The thread that fetches could not be started.
    #[error("start the thread that fetches: {0}")]
    Thread(std::io::Error),
    /// The thread that fetches ended without a word.
    #[error("the thread that fetches panicked")]
    Panicked,
}
