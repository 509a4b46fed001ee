//! `tandem chat`: a conversation in the terminal.

mod client;
mod conversation;
mod input;

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use futures::StreamExt as _;

use crate::console;
use client::{ChatClient, Piece, Sampling};
use conversation::Conversation;
use input::{Input, Lines};

const HELP: &str = "\
/clear  forgets the conversation (also /reset)
/help   lists the commands
/quit   ends (also /exit, Ctrl-D)
Everything else goes to the model. Ctrl-C stops an answer.";

/// A conversation's server, instructions and sampling.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ChatArgs {
    /// Base URL of the server; without it, the system that runs on this machine
    #[arg(long, value_name = "URL")]
    pub(crate) url: Option<String>,
    /// Instructions for the whole conversation
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    #[command(flatten)]
    sampling: Sampling,
    /// Ask this one question and end
    message: Option<String>,
}

/// Talks until the input ends.
pub(crate) async fn run(args: ChatArgs, base: &str) -> anyhow::Result<()> {
    let client = ChatClient::connect(base).await?;
    let mut conversation = Conversation::new(args.system);
    if let Some(message) = args.message {
        return ask(&client, &mut conversation, message, &args.sampling).await.map(drop);
    }
    let interactive = std::io::stdin().is_terminal();
    if interactive {
        let model = client.model();
        console::line(&console::faint(&format!(
            "{model}: /help lists the commands, Ctrl-C stops an answer, /quit ends"
        )));
    }
    let mut lines = Lines::start().context("read standard input")?;
    loop {
        if interactive {
            console::piece("> ");
        }
        let line = tokio::select! {
            line = lines.next() => line,
            _ = tokio::signal::ctrl_c() => None,
        };
        let Some(line) = line.transpose().context("read standard input")? else { break };
        match Input::of(&line) {
            Input::Empty => {}
            Input::Quit => break,
            Input::Clear => {
                conversation.reset();
                console::line(&console::faint("forgotten"));
            }
            Input::Help => console::line(HELP),
            Input::Unknown(command) => {
                console::line(&format!("{command} is not a command; /help lists them"));
            }
            Input::Message => match ask(&client, &mut conversation, line, &args.sampling).await {
                Ok(_) => {}
                Err(error) if interactive => {
                    console::line(&chassis::error::chain(error.as_ref()));
                }
                Err(error) => return Err(error),
            },
        }
    }
    if interactive {
        console::line("");
    }
    Ok(())
}

/// One question and its answer; whether it was answered to the end.
async fn ask(
    client: &ChatClient,
    conversation: &mut Conversation,
    message: String,
    sampling: &Sampling,
) -> anyhow::Result<bool> {
    let sent = Instant::now();
    let asked = conversation.asked(message);
    let mut pieces = tokio::select! {
        pieces = client.answer(&asked, sampling) => pieces?,
        _ = tokio::signal::ctrl_c() => {
            console::line(&console::faint("stopped"));
            return Ok(false);
        }
    };
    let mut answer = String::new();
    let mut measure = Measure::default();
    let stopped = loop {
        let piece = tokio::select! {
            piece = pieces.next() => piece,
            _ = tokio::signal::ctrl_c() => break true,
        };
        match piece {
            None => break false,
            Some(Err(error)) => {
                console::line("");
                return Err(error);
            }
            Some(Ok(Piece::Text(text))) => {
                measure.text_at(sent.elapsed());
                console::piece(&text);
                answer.push_str(&text);
            }
            Some(Ok(Piece::Finished(reason))) => measure.finish = Some(reason),
            Some(Ok(Piece::Usage { prompt_tokens, cached_tokens, completion_tokens })) => {
                measure.usage = Some((prompt_tokens, cached_tokens, completion_tokens));
            }
        }
    };
    console::line("");
    if console::is_terminal() {
        console::line(&console::faint(&measure.summary(stopped)));
    }
    conversation.answered(asked, answer);
    Ok(!stopped)
}

/// Times and counts of one answer.
#[derive(Debug, Default)]
struct Measure {
    first: Option<Duration>,
    last: Duration,
    finish: Option<String>,
    usage: Option<(u64, u64, u64)>,
}

impl Measure {
    fn text_at(&mut self, since_sent: Duration) {
        self.first.get_or_insert(since_sent);
        self.last = since_sent;
    }

    fn summary(&self, stopped: bool) -> String {
        let mut parts = Vec::new();
        if let Some(first) = self.first {
            parts.push(format!("TTFT {:.0} ms", first.as_secs_f64() * 1e3));
        }
        if let (Some(first), Some((prompt, cached, completion))) = (self.first, self.usage) {
            let seconds = self.last.saturating_sub(first).as_secs_f64();
            if completion > 1 && seconds > 0.0 {
                parts.push(format!("{:.1} tok/s", (completion - 1) as f64 / seconds));
            }
            parts.push(format!("{completion} tokens"));
            parts.push(format!("prompt {prompt} ({cached} cached)"));
        }
        match (stopped, self.finish.as_deref()) {
            (true, _) => parts.push("stopped".to_owned()),
            (false, Some("length")) => parts.push("cut at max_tokens".to_owned()),
            (false, _) => {}
        }
        parts.join(" · ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_counts_the_gaps_between_tokens() {
        let mut measure = Measure { usage: Some((7, 0, 3)), ..Measure::default() };
        measure.text_at(Duration::from_millis(250));
        measure.text_at(Duration::from_millis(1250));
        let expected = "TTFT 250 ms · 2.0 tok/s · 3 tokens · prompt 7 (0 cached)";
        assert_eq!(measure.summary(false), expected);
        assert!(measure.summary(true).ends_with("stopped"));
    }
}
