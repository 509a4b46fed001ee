//! What is seen of a run while it goes on, and what else happens in its course.

pub mod annotate;
pub mod exposition;
pub mod progress;
