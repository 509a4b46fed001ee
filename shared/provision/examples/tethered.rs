//! Runs a command on a tether and waits: end this process in any way, and the command ends too.

use std::process::Command;
use std::time::Duration;

use provision::{Tethered, tether};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args_os().skip(1);
    let program = arguments.next().ok_or("usage: tethered PROGRAM [ARGUMENT]...")?;
    let mut command = Command::new(program);
    command.args(arguments);
    let patience = Duration::from_secs(1);
    let mut child = Tethered::spawn(&mut tether(&command, patience), patience)?;
    loop {
        if let Some(status) = child.try_wait()? {
            eprintln!("ended: {status}");
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
