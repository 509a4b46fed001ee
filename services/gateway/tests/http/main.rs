//! The HTTP half over a real socket, with generations that follow a script.

#![allow(clippy::unwrap_used, reason = "what helps a test may fail like a test")]

mod answers;
mod bench;
mod errors;
mod logprobs;
mod model;
mod page;
mod parameters;
mod slo;
mod streams;
mod trace;

testbed::suite!();
