//! The `prefill` service as a process of its own.

use std::process::ExitCode;

fn main() -> ExitCode {
    chassis::service::main("prefill", prefill::run)
}
