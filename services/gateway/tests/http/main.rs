//! The HTTP half over a real socket, with generations that follow a script.

mod answers;
mod bench;
mod errors;
mod logprobs;
mod model;
mod parameters;
mod streams;
mod trace;
