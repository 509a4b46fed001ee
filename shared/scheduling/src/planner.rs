//! Chooses what one engine step computes.
