//! URLs that may hold credentials, and their form for logs.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The address of NATS: `nats://[user:password@]host:port`, several of one cluster separated by
/// commas.
///
/// Printing it hides the credentials; [`Self::expose`] is the only way to them.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NatsUrl(String);

impl NatsUrl {
    /// Returns the address with its credentials, for the connection itself.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Returns the address of each server, with its credentials.
    pub fn servers(&self) -> impl Iterator<Item = &str> {
        self.0.split(',').map(str::trim)
    }
}

impl From<String> for NatsUrl {
    fn from(url: String) -> Self {
        Self(url)
    }
}

impl From<&str> for NatsUrl {
    fn from(url: &str) -> Self {
        Self(url.to_owned())
    }
}

impl fmt::Display for NatsUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&without_password(&self.0))
    }
}

impl fmt::Debug for NatsUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&without_password(&self.0), f)
    }
}

/// Replaces the password, or the token, of every `scheme://user:password@host` in a
/// comma-separated list by `***`.
pub fn without_password(urls: &str) -> String {
    let hidden = urls.split(',').map(|url| {
        let parts = url.split_once("://").and_then(|(scheme, rest)| {
            let (user_info, host) = rest.rsplit_once('@')?;
            let user = user_info.split_once(':').map_or("***", |(user, _)| user);
            Some(format!("{scheme}://{user}:***@{host}"))
        });
        parts.unwrap_or_else(|| url.to_owned())
    });
    hidden.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_printed_url_holds_no_password() {
        for (url, shown) in [
            ("nats://u:p@host:4222", "nats://u:***@host:4222"),
            ("nats://host:4222", "nats://host:4222"),
            ("nats://u:p@a:1, nats://t@b:2", "nats://u:***@a:1, nats://***:***@b:2"),
            ("nats://u:p@ss@host:4222", "nats://u:***@host:4222"),
        ] {
            let url = NatsUrl::from(url);
            assert_eq!(url.to_string(), shown);
            assert_eq!(format!("{url:?}"), format!("{shown:?}"));
        }
    }

    #[test]
    fn a_list_is_split_into_servers() {
        let url = NatsUrl::from("nats://u:p@a:1, nats://b:2");
        assert_eq!(url.servers().collect::<Vec<_>>(), ["nats://u:p@a:1", "nats://b:2"]);
    }
}
