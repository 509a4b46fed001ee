//! A tethered process ends with its owner, however the owner ends.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[cfg(target_os = "linux")]
mod linux;

testbed::suite!();
