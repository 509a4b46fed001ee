//! The `gateway` service as a process of its own.

use std::process::ExitCode;

fn main() -> ExitCode {
    chassis::service::main("gateway", gateway::run)
}
