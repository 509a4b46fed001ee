//! Which blocks the store keeps, for whom, and which go first.
