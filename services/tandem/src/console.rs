//! The only place of the command that writes to the terminal.

use std::io::{IsTerminal as _, Write as _};

/// Prints one line. A closed output is no reason to stop.
pub(crate) fn line(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// Prints a piece of a line at once.
pub(crate) fn piece(text: &str) {
    let mut stdout = std::io::stdout();
    let _ = write!(stdout, "{text}").and_then(|()| stdout.flush());
}

/// Prints a line that is no result to standard error.
pub(crate) fn note(text: &str) {
    eprintln!("{text}");
}

/// Prints a line of a service to standard error, behind the service's name.
pub(crate) fn log_line(name: &str, text: &str) {
    eprintln!("{name:<10} | {text}");
}

/// Says why the command failed.
pub(crate) fn complain(error: &anyhow::Error) {
    eprintln!("tandem: {}", chassis::error::chain(error.as_ref()));
}

/// Says what went wrong without ending the command.
pub(crate) fn warn(error: &anyhow::Error) {
    eprintln!("tandem: warning: {}", chassis::error::chain(error.as_ref()));
}

/// Returns whether standard output is a terminal.
pub(crate) fn is_terminal() -> bool {
    std::io::stdout().is_terminal()
}

/// Returns the text in a faint color on a terminal, plain otherwise.
pub(crate) fn faint(text: &str) -> String {
    if is_terminal() { format!("\u{1b}[2m{text}\u{1b}[0m") } else { text.to_owned() }
}
