//! Lines from standard input, read by a thread of their own so that waiting for one can be given up.

use std::io::{self, BufRead as _};

use tokio::sync::mpsc;

/// The meaning of a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Input<'a> {
    /// Nothing.
    Empty,
    /// A message for the model.
    Message,
    /// The list of commands.
    Help,
    /// A new conversation.
    Clear,
    /// The end.
    Quit,
    /// A command that does not exist.
    Unknown(&'a str),
}

impl<'a> Input<'a> {
    /// Reads a line. One word that begins with a slash is a command; a path has a second slash.
    pub(super) fn of(line: &'a str) -> Self {
        let line = line.trim();
        let is_command = line
            .strip_prefix('/')
            .is_some_and(|rest| rest.chars().all(|c| c.is_ascii_alphabetic() || c == '?'));
        match line {
            "" => Self::Empty,
            "/help" | "/?" => Self::Help,
            "/clear" | "/reset" => Self::Clear,
            "/quit" | "/exit" => Self::Quit,
            unknown if is_command => Self::Unknown(unknown),
            _ => Self::Message,
        }
    }
}

/// Lines in the order in which they were typed or piped.
#[derive(Debug)]
pub(super) struct Lines {
    receiver: mpsc::Receiver<io::Result<String>>,
}

impl Lines {
    /// Starts the reading thread. It ends with the input, or with this process: nothing can wake a
    /// thread that waits for a terminal.
    pub(super) fn start() -> io::Result<Self> {
        let (sender, receiver) = mpsc::channel(1);
        std::thread::Builder::new().name("stdin".to_owned()).spawn(move || {
            for line in io::stdin().lock().lines() {
                let failed = line.is_err();
                if sender.blocking_send(line).is_err() || failed {
                    break;
                }
            }
        })?;
        Ok(Self { receiver })
    }

    /// The next line; `None` at the end of the input.
    pub(super) async fn next(&mut self) -> Option<io::Result<String>> {
        self.receiver.recv().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_do_not_go_to_the_model() {
        assert_eq!(Input::of("  /quit "), Input::Quit);
        assert_eq!(Input::of("/exit"), Input::Quit);
        assert_eq!(Input::of("/help"), Input::Help);
        assert_eq!(Input::of("/clear"), Input::Clear);
        assert_eq!(Input::of("/stop"), Input::Unknown("/stop"));
        assert_eq!(Input::of(" "), Input::Empty);
        for message in ["hi", "/etc/passwd holds what?", "/help me", "what does /quit do?"] {
            assert_eq!(Input::of(message), Input::Message, "{message}");
        }
    }
}
