//! The only place of the program that writes to the terminal.

use std::io::Write as _;

/// Prints one line of results. A reader that has gone is no reason to stop measuring.
pub(crate) fn line(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// Prints a line that is no result to standard error.
pub(crate) fn note(text: &str) {
    eprintln!("{text}");
}
