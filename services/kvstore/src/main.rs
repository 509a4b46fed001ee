//! The `kvstore` service as a process of its own.

use std::process::ExitCode;

fn main() -> ExitCode {
    chassis::service::main("kvstore", kvstore::run)
}
