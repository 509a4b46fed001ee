//! Turns on the features of dependencies that any member of the workspace needs, for all of them.
//!
//! Cargo compiles a dependency again when another set of features is asked for, and with it
//! everything that depends on it. The programs depend on this crate, so that running and testing
//! use the same builds. There is no code here.
