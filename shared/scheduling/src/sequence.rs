//! One sequence on one worker.
