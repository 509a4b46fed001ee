//! The live screen. A thread of its own draws it, so that drawing delays no request.

use std::collections::VecDeque;
use std::io::{self, Stderr};
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::cursor::{Hide, Show};
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{EnterAlternateScreen, LeaveAlternateScreen};
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Gauge, Paragraph, Sparkline};
use ratatui::{Frame, Terminal};
use traces::units::Nanos;

use super::view::{View, us};

/// Number of values in the small charts.
const PAST: usize = 400;

/// True while the terminal shows this screen.
static SHOWN: AtomicBool = AtomicBool::new(false);
static HOOK: Once = Once::new();

/// The live screen. Dropping it restores the terminal.
pub(super) struct Screen {
    views: Option<SyncSender<View>>,
    thread: Option<JoinHandle<()>>,
}

impl Screen {
    /// Takes over the terminal. Keys keep their meaning, so Ctrl-C still works.
    pub(super) fn start() -> io::Result<Self> {
        HOOK.call_once(|| {
            let print = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |info| {
                restore();
                print(info);
            }));
        });
        let mut terminal = Terminal::new(CrosstermBackend::new(io::stderr()))?;
        SHOWN.store(true, SeqCst);
        if let Err(error) = execute!(io::stderr(), EnterAlternateScreen, Hide) {
            restore();
            return Err(error);
        }
        let (views, shown) = sync_channel(1);
        let thread = thread::Builder::new()
            .name("loadgen-screen".to_owned())
            .spawn(move || draw_all(&mut terminal, &shown));
        let thread = thread.inspect_err(|_| restore())?;
        Ok(Self { views: Some(views), thread: Some(thread) })
    }

    /// Shows a state, unless the preceding one is still being drawn.
    pub(super) fn show(&self, view: View) {
        if let Some(views) = &self.views {
            // A full channel means that the terminal is slow. The next state is newer anyway.
            let _skipped = views.try_send(view);
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.views = None;
        let drawn = self.thread.take().map(JoinHandle::join);
        restore();
        if let Some(Err(_)) = drawn {
            eprintln!("warning: the live screen failed");
        }
    }
}

/// Restores the terminal if this screen has taken it over.
fn restore() {
    if SHOWN.swap(false, SeqCst)
        && let Err(error) = execute!(io::stderr(), Show, LeaveAlternateScreen)
    {
        eprintln!("warning: cannot restore the terminal: {error}");
    }
}

fn draw_all(terminal: &mut Terminal<CrosstermBackend<Stderr>>, views: &Receiver<View>) {
    let mut past = Past::default();
    for view in views {
        past.take(&view);
        if terminal.draw(|frame| draw(frame, &view, &past)).is_err() {
            // The run goes on if the terminal has gone away.
            return;
        }
    }
}

/// Recent values for the small charts.
#[derive(Default)]
struct Past {
    ttft_us: VecDeque<u64>,
    in_flight: VecDeque<u64>,
}

impl Past {
    fn take(&mut self, view: &View) {
        // Without a new reply, the last value stays.
        let before = self.ttft_us.back().copied().unwrap_or(0);
        keep(&mut self.ttft_us, view.now.recent_ttft_us.unwrap_or(before));
        keep(&mut self.in_flight, view.in_flight);
    }
}

fn keep(past: &mut VecDeque<u64>, value: u64) {
    if past.len() == PAST {
        past.pop_front();
    }
    past.push_back(value);
}

fn draw(frame: &mut Frame<'_>, view: &View, past: &Past) {
    let [top, middle, ttft, flight] = Layout::vertical([
        Constraint::Length(3),
        Constraint::Length(7),
        Constraint::Min(3),
        Constraint::Min(3),
    ])
    .areas(frame.area());
    let done = view.now.finished;
    let part = if view.planned == 0 { 0.0 } else { done as f64 / view.planned as f64 };
    let title = format!(" loadgen  {:.0} s  Ctrl-C ends with a report ", view.elapsed_s);
    let gauge = Gauge::default()
        .block(Block::bordered().title(title))
        .gauge_style(Style::new().fg(Color::Cyan))
        .ratio(part.clamp(0.0, 1.0))
        .label(format!("{done} of {} requests over", view.planned));
    frame.render_widget(gauge, top);
    let [left, right] = Layout::horizontal([Constraint::Fill(1); 2]).areas(middle);
    frame.render_widget(load_of(view), left);
    frame.render_widget(answers_of(view), right);
    let recent = view.now.recent_ttft_us.map_or_else(|| "-".to_owned(), us);
    chart(frame, ttft, format!(" TTFT, median now {recent} "), &past.ttft_us, Color::Yellow);
    let now = format!(" in flight, {} now ", view.in_flight);
    chart(frame, flight, now, &past.in_flight, Color::Blue);
}

fn row(name: &'static str, value: String, style: Style) -> Line<'static> {
    Line::from(vec![Span::raw(format!(" {name:<11}")), Span::styled(value, style)])
}

fn load_of(view: &View) -> Paragraph<'static> {
    let (plain, bad) = (Style::new().bold(), Style::new().bold().fg(Color::Red));
    let late = view.now.worst_lag_ns > 1_000_000;
    let rows = vec![
        row("offered", format!("{:.1}/s", view.offered_per_s), plain),
        row("achieved", format!("{:.1}/s", view.achieved_per_s), plain),
        row("in flight", view.in_flight.to_string(), plain),
        row("lag", Nanos(view.now.worst_lag_ns).to_string(), if late { bad } else { plain }),
        row(
            "dropped",
            view.now.dropped.to_string(),
            if view.now.dropped > 0 { bad } else { plain },
        ),
    ];
    Paragraph::new(rows).block(Block::bordered().title(" load "))
}

fn answers_of(view: &View) -> Paragraph<'static> {
    let (plain, bad) = (Style::new().bold(), Style::new().bold().fg(Color::Red));
    let ttft = view.now.ttft_us.map_or("-".to_owned(), |all| {
        let [p50, p90, p99] = all.map(us);
        format!("{p50}  p90 {p90}  p99 {p99}")
    });
    let goodput = view.goodput.map_or("no SLO".to_owned(), |part| format!("{:.1} %", part * 100.0));
    let rows = vec![
        row("TTFT p50", ttft, plain),
        row("goodput", goodput, plain),
        row("tokens", format!("{:.0}/s", view.tokens_per_s), plain),
        row("errors", view.now.failed.to_string(), if view.now.failed > 0 { bad } else { plain }),
    ];
    Paragraph::new(rows).block(Block::bordered().title(" answers "))
}

/// Returns the latest values that fit.
fn chart(frame: &mut Frame<'_>, area: Rect, title: String, past: &VecDeque<u64>, color: Color) {
    let fits = usize::from(area.width.saturating_sub(2));
    let latest: Vec<u64> = past.iter().skip(past.len().saturating_sub(fits)).copied().collect();
    let chart = Sparkline::default()
        .block(Block::bordered().title(title))
        .style(Style::new().fg(color))
        .data(&latest);
    frame.render_widget(chart, area);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::send::live::Snapshot;
    use ratatui::backend::TestBackend;

    fn screen(width: u16, height: u16) -> String {
        let now = Snapshot {
            issued: 50,
            sent: 48,
            finished: 40,
            failed: 2,
            good: Some(30),
            worst_lag_ns: 2_500_000,
            ttft_us: Some([20_000, 30_000, 45_500]),
            recent_ttft_us: Some(21_000),
            ..Snapshot::default()
        };
        let view = View::new(9.0, 1.0, &Snapshot::default(), &now, 80);
        let mut past = Past::default();
        (0..PAST + 5).for_each(|_| past.take(&view));
        assert_eq!(past.ttft_us.len(), PAST);
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, &view, &past)).unwrap();
        terminal.backend().to_string()
    }

    #[test]
    fn everything_worth_knowing_is_on_the_screen() {
        let shown = screen(90, 20);
        for text in [
            "40 of 80 requests over",
            "offered    50.0/s",
            "achieved   48.0/s",
            "in flight  10",
            "lag        2.5ms",
            "TTFT p50   20ms  p90 30ms  p99 45.5ms",
            "goodput    75.0 %",
            "errors     2",
            "TTFT, median now 21ms",
            "█",
        ] {
            assert!(shown.contains(text), "{text:?} is missing:\n{shown}");
        }
    }

    #[test]
    fn a_tiny_terminal_is_no_reason_to_fail() {
        for (width, height) in [(1, 1), (10, 3), (200, 4), (20, 60)] {
            screen(width, height);
        }
    }
}
