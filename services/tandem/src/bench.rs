//! `tandem bench`: starts `tandem-bench`, a program of its own, in place of this process.

use std::convert::Infallible;
use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, bail};

/// The arguments of `tandem-bench`, passed on as they are.
#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true, disable_version_flag = true)]
pub(crate) struct BenchArgs {
    /// Arguments of tandem-bench; `tandem bench --help` lists them
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENTS")]
    arguments: Vec<OsString>,
}

/// Replaces this process by the benchmark; returns only where that failed.
pub(crate) fn run(args: &BenchArgs) -> anyhow::Result<Infallible> {
    let own = std::env::current_exe().context("find this program")?;
    let program = own.with_file_name("tandem-bench");
    if !program.is_file() {
        bail!("{} is missing: build it with `{}`", program.display(), build_command(&own));
    }
    let error = Command::new(&program).args(&args.arguments).exec();
    Err(error).with_context(|| format!("start {}", program.display()))
}

/// Cargo names the folder of a program after the profile that built it.
fn build_command(own: &Path) -> &'static str {
    match own.parent().and_then(Path::file_name) {
        Some(folder) if folder == "release" => "cargo build --release -p tandem-bench",
        _ => "cargo build -p tandem-bench",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_builds_with_the_profile_of_this_program() {
        let release = build_command(Path::new("/src/target/release/tandem"));
        assert_eq!(release, "cargo build --release -p tandem-bench");
        let dev = build_command(Path::new("/src/target/debug/tandem"));
        assert_eq!(dev, "cargo build -p tandem-bench");
    }
}
