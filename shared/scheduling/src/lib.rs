//! Everything that decides, and nothing that acts.
//!
//! Block pool, batch planning, routing, admission, a request's journey, residency of stored
//! blocks. Pure: no tokio, NATS, Burn, clock or randomness; time and random numbers are arguments,
//! and the simulation runs this code unchanged.

pub mod admission;
pub mod journey;
pub mod planner;
pub mod pool;
pub mod residency;
pub mod route;
pub mod sequence;
pub mod speed;
