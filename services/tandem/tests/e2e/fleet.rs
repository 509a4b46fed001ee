//! The state of workers, store and gateway, from `tandem status --json`.

use std::time::Duration;

use serde_json::Value;
use testbed::wait_for;

use crate::harness::{System, tandem};

/// Runs `tandem status` once.
pub(crate) fn status(nats_url: &str) -> Result<Value, String> {
    let output = tandem()
        .args(["status", "--json", "--nats", nats_url])
        .output()
        .expect("the command starts");
    serde_json::from_slice(&output.stdout)
        .map_err(|error| format!("{error}: {}", String::from_utf8_lossy(&output.stderr)))
}

/// Returns the workers of a status report.
pub(crate) fn workers(status: &Value) -> Vec<Value> {
    status["workers"].as_array().cloned().unwrap_or_default()
}

/// Waits until no worker holds sequences or leases, and checks that every page is accounted for.
pub(crate) fn assert_at_rest(system: &System, limit: Duration) {
    let status = wait_for(limit, || {
        let status = status(&system.nats_url)?;
        let is_busy = workers(&status).iter().any(|worker| {
            worker["pool"]["leased"] != 0
                || worker["running_sequences"] != 0
                || worker["queued_sequences"] != 0
        });
        if is_busy || workers(&status).is_empty() {
            Err(format!("{status:#}\n{}", system.everything()))
        } else {
            Ok(status)
        }
    });
    for worker in workers(&status) {
        let page = |name: &str| worker["pool"][name].as_u64().expect("a number");
        assert_eq!(page("leaked"), 0, "{worker:#}");
        assert_eq!(page("free") + page("cached"), page("total"), "{worker:#}");
    }
}
