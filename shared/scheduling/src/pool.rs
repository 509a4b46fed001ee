//! KV pages of one worker: who holds which, and what they are named.
