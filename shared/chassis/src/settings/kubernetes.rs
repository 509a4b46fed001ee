//! The variables that Kubernetes sets in every pod for each service of the namespace.
//!
//! A service named `tandem` gives `TANDEM_SERVICE_HOST`, `TANDEM_PORT=tcp://…` and the like, which
//! look like settings of ours.

use std::net::IpAddr;

const PROTOCOLS: [&str; 3] = ["TCP", "UDP", "SCTP"];

/// Returns whether name and value are those of a service variable.
pub(super) fn is_service_variable(name: &str, value: &str) -> bool {
    let is_port = || value.parse::<u16>().is_ok();
    let is_address = || value.parse::<IpAddr>().is_ok();
    let is_url = || {
        let scheme = value.split_once("://").map_or("", |(scheme, _)| scheme);
        PROTOCOLS.contains(&scheme.to_uppercase().as_str())
    };
    if name.ends_with("_SERVICE_HOST") {
        return is_address();
    }
    if name.ends_with("_SERVICE_PORT") || name.contains("_SERVICE_PORT_") {
        return is_port();
    }
    if name.ends_with("_PORT") && is_url() {
        return true;
    }
    // `_PORT_8080_TCP`, and the same with `_PROTO`, `_PORT` or `_ADDR` behind it.
    let Some((_, tail)) = name.split_once("_PORT_") else { return false };
    let mut words = tail.split('_');
    let has_port = words.next().is_some_and(|word| word.parse::<u16>().is_ok());
    let has_protocol = words.next().is_some_and(|word| PROTOCOLS.contains(&word));
    let is_right_value = match words.next() {
        None => is_url(),
        Some("PROTO") => PROTOCOLS.contains(&value.to_uppercase().as_str()),
        Some("PORT") => is_port(),
        Some("ADDR") => is_address(),
        Some(_) => false,
    };
    has_port && has_protocol && is_right_value && words.next().is_none()
}
