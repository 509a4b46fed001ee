//! Shows on standard error how the run goes: a live line on a terminal, plain lines elsewhere.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

use crate::live::Snapshot;
use crate::units::Nanos;

/// How progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum ProgressMode {
    /// A live line if standard error is a terminal, else plain lines.
    Auto,
    /// A live line.
    Tty,
    /// A plain line every 5 s.
    Plain,
    /// Nothing.
    None,
}

/// The display of one run.
pub struct Progress {
    bar: Option<ProgressBar>,
    plain: bool,
    interval: Interval,
    started: Instant,
    last: (Instant, Snapshot),
}

impl Progress {
    /// A display for `planned` requests; it must be made inside a runtime.
    pub fn new(mode: ProgressMode, planned: usize) -> Self {
        let mode = match mode {
            ProgressMode::Auto if std::io::stderr().is_terminal() => ProgressMode::Tty,
            ProgressMode::Auto => ProgressMode::Plain,
            chosen => chosen,
        };
        let bar = (mode == ProgressMode::Tty).then(|| bar(planned as u64));
        let step = Duration::from_millis(if bar.is_some() { 200 } else { 5000 });
        let now = Instant::now();
        let mut interval = interval_at(now + step, step);
        interval.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let last = (now, Snapshot::default());
        Self { bar, plain: mode == ProgressMode::Plain, interval, started: now, last }
    }

    /// Waits until the display is due.
    pub async fn tick(&mut self) {
        self.interval.tick().await;
    }

    /// Shows `snapshot`.
    pub fn show(&mut self, snapshot: &Snapshot) {
        let now = Instant::now();
        let seconds = (now - self.last.0).as_secs_f64().max(1e-6);
        let line = line(&self.last.1, snapshot, seconds);
        self.last = (now, *snapshot);
        if let Some(bar) = &self.bar {
            bar.set_position(snapshot.finished);
            bar.set_message(line);
        } else if self.plain {
            eprintln!("{:>6.0} s  {line}", (now - self.started).as_secs_f64());
        }
    }

    /// Shows the last state and ends the display.
    pub fn finish(&mut self, snapshot: &Snapshot) {
        self.show(snapshot);
        if let Some(bar) = &self.bar {
            bar.abandon();
        }
    }
}

fn bar(planned: u64) -> ProgressBar {
    let target = ProgressDrawTarget::stderr_with_hz(5);
    let style = ProgressStyle::with_template("{elapsed_precise} {bar:20} {pos}/{len}  {msg}");
    ProgressBar::with_draw_target(Some(planned), target)
        .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

fn line(before: &Snapshot, now: &Snapshot, seconds: f64) -> String {
    let rate = |before: u64, now: u64| now.saturating_sub(before) as f64 / seconds;
    format!(
        "offered {} ({:.1}/s)  sent {:.1}/s  done {}  in flight {}  errors {}  lag {}  {:.0} tok/s",
        now.issued,
        rate(before.issued, now.issued),
        rate(before.sent, now.sent),
        now.finished,
        now.issued.saturating_sub(now.finished),
        now.failed,
        Nanos(now.worst_lag_ns),
        rate(before.tokens, now.tokens),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_gives_rates_of_the_last_interval() {
        let before = Snapshot { issued: 10, sent: 10, tokens: 100, ..Snapshot::default() };
        let now = Snapshot {
            issued: 30,
            sent: 28,
            finished: 20,
            failed: 1,
            tokens: 600,
            worst_lag_ns: 1_500_000,
        };
        assert_eq!(
            line(&before, &now, 5.0),
            "offered 30 (4.0/s)  sent 3.6/s  done 20  in flight 10  errors 1  lag 1.5ms  100 tok/s"
        );
    }
}
