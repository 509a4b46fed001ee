//! The HTTP client of tests.

use rustls::crypto::ring;

/// A client for servers of the test itself: no proxy of the environment stands in between.
pub fn http() -> reqwest::ClientBuilder {
    // Fails only when another client of this process has installed it before.
    let _ = ring::default_provider().install_default();
    reqwest::Client::builder().no_proxy()
}
