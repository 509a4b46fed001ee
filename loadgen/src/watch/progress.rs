//! The progress display on standard error: a live screen on a terminal, lines elsewhere.

mod screen;
mod view;

use std::collections::VecDeque;
use std::io::IsTerminal;
use std::time::Duration;

use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

use crate::send::{self, live::Snapshot};
use screen::Screen;
use view::View;

/// Form of the progress display.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum ProgressMode {
    /// A live screen if standard error is a terminal, else plain lines.
    Auto,
    /// A live screen.
    Tty,
    /// A plain line every 5 s.
    Plain,
    /// A line with a JSON object every second.
    Json,
    /// Nothing.
    None,
}

enum Display {
    Screen(Screen),
    Plain,
    Json,
    Nothing,
}

/// The progress display of one run.
pub struct Progress {
    display: Display,
    interval: Interval,
    planned: usize,
    started: Instant,
    /// Recent snapshots, from which rates are computed.
    past: VecDeque<(Instant, Snapshot)>,
}

/// Number of intervals that rates are averaged over. Those of a single interval of 200 ms would
/// jump.
const RATE_INTERVALS: usize = 10;

impl Progress {
    /// Creates a display for `planned` requests. Must be called inside a runtime.
    pub fn new(mode: ProgressMode, planned: usize) -> Self {
        let mode = match mode {
            ProgressMode::Auto if std::io::stderr().is_terminal() => ProgressMode::Tty,
            ProgressMode::Auto => ProgressMode::Plain,
            chosen => chosen,
        };
        let (display, step_ms) = match mode {
            ProgressMode::Tty | ProgressMode::Auto => match Screen::start() {
                Ok(screen) => (Display::Screen(screen), 200),
                Err(error) => {
                    eprintln!("warning: cannot open the live screen, showing plain lines: {error}");
                    (Display::Plain, 5000)
                }
            },
            ProgressMode::Plain => (Display::Plain, 5000),
            ProgressMode::Json => (Display::Json, 1000),
            ProgressMode::None => (Display::Nothing, 1000),
        };
        let step = Duration::from_millis(step_ms);
        let now = Instant::now();
        let mut interval = interval_at(now + step, step);
        interval.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let past = VecDeque::from([(now, Snapshot::default())]);
        Self { display, interval, planned, started: now, past }
    }
}

impl send::Display for Progress {
    async fn tick(&mut self) {
        self.interval.tick().await;
    }

    fn show(&mut self, snapshot: &Snapshot) {
        let now = Instant::now();
        let kept = if matches!(self.display, Display::Screen(_)) { RATE_INTERVALS } else { 1 };
        self.past.drain(..self.past.len().saturating_sub(kept));
        let (since, before) = self.past.front().copied().unwrap_or((self.started, *snapshot));
        let view = View::new(
            (now - self.started).as_secs_f64(),
            (now - since).as_secs_f64(),
            &before,
            snapshot,
            self.planned,
        );
        self.past.push_back((now, *snapshot));
        match &self.display {
            Display::Screen(screen) => screen.show(view),
            Display::Plain => eprintln!("{}", view.line()),
            Display::Json => eprintln!("{}", view.json()),
            Display::Nothing => {}
        }
    }
}
