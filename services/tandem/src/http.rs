//! The HTTP clients of the command.

use rustls::crypto::ring;

/// Returns a client for services on this machine: a proxy of the environment never stands in
/// between.
pub(crate) fn direct() -> reqwest::ClientBuilder {
    client().no_proxy()
}

/// Returns a client for a server that the user named: directly to this machine, and as the
/// environment says to any other.
pub(crate) fn client_for(base: &str) -> reqwest::ClientBuilder {
    if is_loopback(base) { direct() } else { client() }
}

fn client() -> reqwest::ClientBuilder {
    // Fails only when another client of this process has installed it before.
    let _ = ring::default_provider().install_default();
    reqwest::Client::builder()
}

fn is_loopback(base: &str) -> bool {
    let Ok(url) = reqwest::Url::parse(base) else { return false };
    let host = url.host_str().unwrap_or_default();
    let address = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

/// Returns the base URL that a user means: `http://` where the scheme is missing, and without the
/// `/v1` that other clients expect at the end.
pub(crate) fn base_url(text: &str) -> String {
    let text = text.trim().trim_end_matches('/');
    let text = text.strip_suffix("/v1").unwrap_or(text).trim_end_matches('/');
    if text.contains("://") { text.to_owned() } else { format!("http://{text}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_recognized_by_name_and_address() {
        for base in ["http://localhost:8080", "http://127.0.0.1:1/v1", "https://[::1]:8080"] {
            assert!(is_loopback(base), "{base}");
        }
        for base in ["http://example.com", "http://10.0.0.1:8080", "localhost:8080"] {
            assert!(!is_loopback(base), "{base}");
        }
    }

    #[test]
    fn base_urls_are_completed() {
        for text in
            ["localhost:8080", "http://localhost:8080/", "localhost:8080/v1", "localhost:8080/v1/"]
        {
            assert_eq!(base_url(text), "http://localhost:8080", "{text}");
        }
        assert_eq!(base_url("https://host/tandem/v1"), "https://host/tandem");
        assert_eq!(base_url("127.0.0.1"), "http://127.0.0.1");
    }
}
