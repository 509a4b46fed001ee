//! What is known about every service, and what people are told when that changes.

use std::collections::BTreeMap;
use std::time::Duration;

use super::roster::Service;
use super::supervise::{Event, What};

/// What asking a service gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Probe {
    /// It would work now.
    Ready {
        /// A few words about it.
        detail: String,
        /// When the process that says so started, where it tells; milliseconds since the epoch.
        epoch_ms: Option<u64>,
    },
    /// It would not, and why.
    Waiting(String),
}

/// The answers of one round of asking.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Snapshot {
    /// When the round began.
    pub(super) taken_ms: u64,
    /// The answers by place in the roster.
    pub(super) probes: BTreeMap<usize, Probe>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Down,
    Starting { since_ms: u64, why: String },
    Ready { since_ms: u64 },
}

/// Why `tandem up` cannot go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name} {how} before it was ever ready; its lines above say why")]
pub(super) struct Hopeless {
    name: String,
    how: String,
}

/// All services of one `tandem up`.
#[derive(Debug)]
pub(super) struct Board {
    rows: Vec<Row>,
    complete: bool,
    last_waiting: Vec<String>,
}

#[derive(Debug)]
struct Row {
    name: String,
    state: State,
    pid: u32,
    starts: u32,
}

impl Board {
    /// A board on which nothing runs yet.
    pub(super) fn new(services: &[Service]) -> Self {
        let row = |service: &Service| Row {
            name: service.name.clone(),
            state: State::Down,
            pid: 0,
            starts: 0,
        };
        Self { rows: services.iter().map(row).collect(), complete: false, last_waiting: Vec::new() }
    }

    /// True from the first moment at which everything was ready.
    pub(super) fn is_complete(&self) -> bool {
        self.complete
    }

    /// Takes note of an event; what to say about it.
    pub(super) fn happened(&mut self, event: Event) -> Result<Option<String>, Hopeless> {
        let complete = self.complete;
        let Some(row) = self.rows.get_mut(event.service) else { return Ok(None) };
        match event.what {
            What::Started { pid, at_ms } => {
                row.state = State::Starting { since_ms: at_ms, why: "not seen yet".to_owned() };
                row.pid = pid;
                row.starts += 1;
                let again = 1 < row.starts;
                Ok(again.then(|| row.line("started", &format!("again, pid {pid}"))))
            }
            What::Ended { how, by_itself: true, .. } if !complete => {
                Err(Hopeless { name: row.name.clone(), how })
            }
            What::Ended { how, again_in, .. } => {
                row.state = State::Down;
                let wait = again_in.as_secs();
                Ok(Some(row.line("down", &format!("{how}; starting it again in {wait} s"))))
            }
            What::Killed => Ok(Some(row.line("killed", "it did not stop in time"))),
        }
    }

    /// Takes note of a round of asking; what to say about it.
    pub(super) fn probed(&mut self, snapshot: &Snapshot) -> Vec<String> {
        let mut lines = Vec::new();
        for (index, row) in self.rows.iter_mut().enumerate() {
            if let Some(probe) = snapshot.probes.get(&index) {
                lines.extend(row.probed(probe, snapshot.taken_ms));
            }
        }
        let ready = |row: &Row| matches!(row.state, State::Ready { .. });
        self.complete |= self.rows.iter().all(ready);
        lines
    }

    /// Who is not ready, and why; nothing when that was said before.
    pub(super) fn waiting(&mut self) -> Vec<String> {
        let why = |row: &Row| match &row.state {
            State::Starting { why, .. } => Some(row.line("waiting", why)),
            State::Down | State::Ready { .. } => None,
        };
        let lines: Vec<String> = self.rows.iter().filter_map(why).collect();
        if lines == self.last_waiting {
            return Vec::new();
        }
        self.last_waiting.clone_from(&lines);
        lines
    }
}

impl Row {
    fn line(&self, state: &str, detail: &str) -> String {
        format!("{:<10}  {state:<8}  {detail}", self.name)
    }

    fn probed(&mut self, probe: &Probe, taken_ms: u64) -> Option<String> {
        let (since_ms, was_ready) = match self.state {
            State::Down => return None,
            State::Starting { since_ms, .. } => (since_ms, false),
            State::Ready { since_ms } => (since_ms, true),
        };
        match probe {
            Probe::Ready { detail, epoch_ms } => {
                // What a process that is gone has left behind says nothing about this one.
                let about_this = epoch_ms.map_or(since_ms <= taken_ms, |epoch| since_ms <= epoch);
                if was_ready || !about_this {
                    return None;
                }
                self.state = State::Ready { since_ms };
                let took = Duration::from_millis(taken_ms.saturating_sub(since_ms)).as_secs_f64();
                Some(self.line("ready", &format!("{detail} (pid {}, {took:.1} s)", self.pid)))
            }
            Probe::Waiting(why) => {
                self.state = State::Starting { since_ms, why: why.clone() };
                was_ready.then(|| self.line("waiting", why))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::roster::Kind;
    use super::*;

    fn board() -> Board {
        let service = |name: &str, kind| Service { name: name.to_owned(), kind, arguments: vec![] };
        Board::new(&[service("decode-1", Kind::Decode), service("gateway", Kind::Gateway)])
    }

    fn started(service: usize, at_ms: u64) -> Event {
        Event { service, what: What::Started { pid: 7, at_ms } }
    }

    fn ended(by_itself: bool) -> Event {
        let what = What::Ended {
            how: "was ended by signal 9".to_owned(),
            by_itself,
            again_in: Duration::from_secs(1),
        };
        Event { service: 0, what }
    }

    fn ready(epoch_ms: Option<u64>) -> Probe {
        Probe::Ready { detail: "fine".to_owned(), epoch_ms }
    }

    fn snapshot(taken_ms: u64, probes: &[(usize, Probe)]) -> Snapshot {
        Snapshot { taken_ms, probes: probes.iter().cloned().collect() }
    }

    fn complete_board() -> Board {
        let mut board = board();
        board.happened(started(0, 100)).unwrap();
        board.happened(started(1, 100)).unwrap();
        board.probed(&snapshot(300, &[(0, ready(Some(150))), (1, ready(None))]));
        assert!(board.is_complete());
        board
    }

    #[test]
    fn each_service_is_announced_once() {
        let mut board = board();
        assert_eq!(board.happened(started(0, 100)), Ok(None));
        board.happened(started(1, 100)).unwrap();
        let round = snapshot(350, &[(0, ready(Some(150)))]);
        assert_eq!(board.probed(&round), ["decode-1    ready     fine (pid 7, 0.2 s)"]);
        assert!(board.probed(&round).is_empty());
        assert!(!board.is_complete());
        assert_eq!(board.waiting(), ["gateway     waiting   not seen yet"]);
        assert!(board.waiting().is_empty(), "it was said before");
    }

    #[test]
    fn the_presence_of_a_dead_process_is_not_taken_for_its_successor() {
        let mut board = complete_board();
        let line = board.happened(ended(false)).unwrap().unwrap();
        assert_eq!(line, "decode-1    down      was ended by signal 9; starting it again in 1 s");
        assert!(board.probed(&snapshot(400, &[(0, ready(Some(150)))])).is_empty());
        assert!(board.happened(started(0, 1400)).unwrap().unwrap().contains("again, pid 7"));
        assert!(board.probed(&snapshot(1500, &[(0, ready(Some(150)))])).is_empty());
        assert_eq!(board.probed(&snapshot(1600, &[(0, ready(Some(1450)))])).len(), 1);
    }

    #[test]
    fn an_answer_from_before_the_start_does_not_count() {
        let mut board = board();
        board.happened(started(1, 1000)).unwrap();
        assert!(board.probed(&snapshot(900, &[(1, ready(None))])).is_empty());
        assert_eq!(board.probed(&snapshot(1000, &[(1, ready(None))])).len(), 1);
    }

    #[test]
    fn what_ends_by_itself_before_everything_was_ready_is_hopeless() {
        let mut early = board();
        early.happened(started(0, 100)).unwrap();
        let error = early.happened(ended(true)).unwrap_err();
        assert!(error.to_string().starts_with("decode-1 was ended"));
        assert!(complete_board().happened(ended(true)).is_ok());
        // A kill during start-up is somebody else's doing, and worth another try.
        assert!(board().happened(ended(false)).is_ok());
    }

    #[test]
    fn a_service_that_stops_being_ready_is_mentioned() {
        let mut board = complete_board();
        let round = snapshot(500, &[(1, Probe::Waiting("no decode worker".to_owned()))]);
        assert_eq!(board.probed(&round), ["gateway     waiting   no decode worker"]);
        assert!(board.probed(&round).is_empty());
        assert!(board.is_complete());
    }
}
