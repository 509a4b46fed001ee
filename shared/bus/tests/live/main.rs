//! The bus against a real nats-server.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod blocks;
mod hostile;
mod outage;
mod presence;
mod requests;
mod site;
mod tokens;

testbed::suite!();
