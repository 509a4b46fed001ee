//! Lines from standard input, read by a thread of their own so that waiting for one can be given up.

use std::io::{self, BufRead as _};

use tokio::sync::mpsc;

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
