//! House rules that neither rustc, clippy nor rustfmt holds: between crates, between the modules of
//! a crate, and in the words of the source.

mod crates;
mod dialect;
mod licenses;
mod modules;
mod source;
mod tokens;
mod words;
