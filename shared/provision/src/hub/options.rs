//! The hub, the token, and the cache for its files.

use std::path::PathBuf;
use std::time::Duration;

const ENDPOINT: &str = "https://huggingface.co";
/// A hub that sends nothing for so long will not send anything.
const STALL_LIMIT: Duration = Duration::from_secs(60);
/// The tries in a row that may fail without a new byte.
const FRUITLESS_MAX: u32 = 5;

/// The address of a hub, and the limits of a download.
#[derive(Debug, Clone)]
pub struct HubOptions {
    /// Base URL.
    pub endpoint: String,
    /// Sent as bearer token; `None` takes the one that the hub's own tools have stored.
    pub token: Option<String>,
    /// The hub's cache; `None` is `~/.cache/huggingface/hub`.
    pub cache: Option<PathBuf>,
    /// Uses the cache alone.
    pub offline: bool,
    /// The time after which a transfer without progress is given up.
    pub stall_limit: Duration,
    /// The tries in a row that may fail without a new byte.
    pub fruitless_max: u32,
    /// Wait before the first of these; doubles each time.
    pub retry_wait: Duration,
}

impl Default for HubOptions {
    fn default() -> Self {
        Self {
            endpoint: ENDPOINT.to_owned(),
            token: None,
            cache: None,
            offline: false,
            stall_limit: STALL_LIMIT,
            fruitless_max: FRUITLESS_MAX,
            retry_wait: Duration::from_millis(500),
        }
    }
}

impl HubOptions {
    /// Returns the options of the variables that the hub's own tools read: `HF_ENDPOINT`, `HF_TOKEN`, `HF_HUB_CACHE` or `HF_HOME`,
    /// `HF_HUB_OFFLINE`.
    pub fn from_env() -> Self {
        let var = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        let text = |name| var(name).and_then(|value| value.into_string().ok());
        let default = Self::default();
        Self {
            endpoint: text("HF_ENDPOINT")
                .map_or(default.endpoint, |url| url.trim_end_matches('/').to_owned()),
            token: text("HF_TOKEN").map(|token| token.trim().to_owned()),
            cache: var("HF_HUB_CACHE")
                .map(PathBuf::from)
                .or_else(|| Some(PathBuf::from(var("HF_HOME")?).join("hub"))),
            offline: text("HF_HUB_OFFLINE")
                .is_some_and(|value| ["1", "on", "yes", "true"].contains(&&*value.to_lowercase())),
            ..default
        }
    }
}
