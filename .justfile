# One entry point for what must hold before a change lands.

# Format, lints, documentation and tests.
check: fmt lint doc test

# Formatting.
fmt:
    cargo fmt --all --check

# Clippy, warnings denied.
lint:
    cargo clippy --workspace --all-targets --locked -- -D warnings

# Documentation without broken links.
doc:
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked

# Everything, nats-server and the model included.
test:
    cargo test --workspace --locked
