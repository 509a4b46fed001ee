//! Chooses where a request runs.
