//! The whole system as a user has it: the real command, a real nats-server, a real model.
//!
//! Most cases share one running system; those that break something start their own. Cases take
//! turns, because a machine may have two cores only.

#![allow(clippy::print_stdout, reason = "a test that measures says what it saw")]

mod answers;
mod commands;
mod environment;
mod failures;
mod fleet;
mod harness;
mod http;
mod hub;
mod kept;
mod openai;
mod processes;
mod simulated;
mod stages;
mod traces;

testbed::suite!();
