//! Which hub, as whom, and where its files go.

use std::path::PathBuf;
use std::time::Duration;

const ENDPOINT: &str = "https://huggingface.co";
/// A hub that sends nothing for so long will not send anything.
const STALL_LIMIT: Duration = Duration::from_secs(60);
/// How often an answer may be cut off without a single new byte.
const FRUITLESS_MAX: u32 = 5;

/// How a hub is reached.
#[derive(Debug, Clone)]
pub struct HubOptions {
    /// Base URL.
    pub endpoint: String,
    /// Sent as bearer token; `None` takes the one that the hub's own tools have stored.
    pub token: Option<String>,
    /// The hub's cache; `None` is `~/.cache/huggingface/hub`.
    pub cache: Option<PathBuf>,
    /// Use what the cache has, and ask nobody.
    pub offline: bool,
    /// How long nothing may move.
    pub stall_limit: Duration,
    /// How often in a row a download may fail without a new byte before it is given up.
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
    /// What the hub's own tools read: `HF_ENDPOINT`, `HF_TOKEN`, `HF_HUB_CACHE` or `HF_HOME`,
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
