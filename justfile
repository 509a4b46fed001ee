# Parts of the gate, `.ci/run`, by name.

# Everything that needs nothing but Rust, in the folder that `cargo` uses here.
check: (run "fmt lint doc test")

# The whole gate.
gate: (run "")

fmt: (run "fmt")
lint: (run "lint")
doc: (run "doc")
deny: (run "deny")
test: (run "test")

[private]
run parts:
    CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target}" .ci/run {{parts}}
