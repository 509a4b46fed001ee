//! Whether a request may start at all.
