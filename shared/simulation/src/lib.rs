//! Whole clusters in virtual time, from one seed: the code that decides runs here unchanged.
//!
//! A [`Cluster`] is an event queue, a network that delays, repeats and loses, a store of block
//! names, workers that run the real planner and pool, and a gateway that runs the real admission,
//! routing and journeys. The same seed gives the same log, byte for byte.

mod cluster;
mod end;
mod fabric;
mod gateway;
mod load;
mod message;
mod model;
mod queue;
mod random;
mod store;
mod worker;

pub use cluster::{Cluster, Fault};
pub use end::{End, Outcome, Prediction};
pub use fabric::Network;
pub use load::Load;
pub use model::Costs;
