//! The `decode` service as a process of its own.

use std::process::ExitCode;

fn main() -> ExitCode {
    chassis::service::main("decode", decode::run)
}
