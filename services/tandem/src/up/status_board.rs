//! The status of every service, and the lines that report its changes.

use std::collections::BTreeMap;
use std::time::Duration;

use super::service_task::{Event, ServiceEvent};
use super::services::Service;

/// The status of a service, as it reports itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Probe {
    /// It can work now.
    Ready {
        /// A few words about it, for people.
        detail: String,
        /// The start of the process that reports so, where it says; milliseconds since the epoch.
        epoch_ms: Option<u64>,
    },
    /// It cannot, for this reason.
    Waiting(String),
}

/// The status of all services at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Snapshot {
    /// The moment, in milliseconds since the epoch.
    pub(super) taken_ms: u64,
    /// The reason for which NATS cannot be reached, if it cannot.
    pub(super) nats_problem: Option<String>,
    /// The status by index of the service.
    pub(super) probes: BTreeMap<usize, Probe>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Down,
    Starting { since_ms: u64, why: String },
    Ready { since_ms: u64 },
}

/// The end of a service before it was ever ready: `tandem up` gives up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name} {how} before it was ever ready; its lines above say why")]
pub(super) struct StartupFailed {
    name: String,
    how: String,
}

/// All services of one `tandem up`.
#[derive(Debug)]
pub(super) struct StatusBoard {
    rows: Vec<Row>,
    complete: bool,
    nats_problem: Option<String>,
    last_waiting: Vec<String>,
}

#[derive(Debug)]
struct Row {
    name: String,
    state: State,
    pid: u32,
    starts: u32,
}

impl StatusBoard {
    /// Returns a board on which nothing runs yet.
    pub(super) fn new(services: &[Service]) -> Self {
        let rows = services.iter().map(|service| Row {
            name: service.name.clone(),
            state: State::Down,
            pid: 0,
            starts: 0,
        });
        Self { rows: rows.collect(), complete: false, nats_problem: None, last_waiting: Vec::new() }
    }

    /// Returns whether every service was ready at some moment.
    pub(super) fn is_complete(&self) -> bool {
        self.complete
    }

    /// Takes an event. Returns the line that reports it.
    pub(super) fn on_event(&mut self, event: Event) -> Result<Option<String>, StartupFailed> {
        let complete = self.complete;
        let Some(row) = self.rows.get_mut(event.service) else { return Ok(None) };
        match event.event {
            ServiceEvent::Started { pid, at_ms } => {
                row.state = State::Starting { since_ms: at_ms, why: "not seen yet".to_owned() };
                row.pid = pid;
                row.starts += 1;
                let again = row.starts > 1;
                Ok(again.then(|| row.line("started", &format!("again, pid {pid}"))))
            }
            ServiceEvent::Ended { how, by_itself: true, .. } if !complete => {
                Err(StartupFailed { name: row.name.clone(), how })
            }
            ServiceEvent::Ended { how, again_in, .. } => {
                row.state = State::Down;
                let wait = again_in.as_secs();
                Ok(Some(row.line("down", &format!("{how}; starting it again in {wait} s"))))
            }
            ServiceEvent::Killed => Ok(Some(row.line("killed", "it did not stop in time"))),
        }
    }

    /// Takes a snapshot. Returns the lines that report changes.
    pub(super) fn on_snapshot(&mut self, snapshot: &Snapshot) -> Vec<String> {
        let mut lines = Vec::new();
        if snapshot.nats_problem.is_some() && snapshot.nats_problem != self.nats_problem {
            lines.extend(snapshot.nats_problem.as_deref().map(nats_line));
        }
        self.nats_problem.clone_from(&snapshot.nats_problem);
        for (index, row) in self.rows.iter_mut().enumerate() {
            if let Some(probe) = snapshot.probes.get(&index) {
                lines.extend(row.on_probe(probe, snapshot.taken_ms));
            }
        }
        self.complete |= self.rows.iter().all(|row| matches!(row.state, State::Ready { .. }));
        lines
    }

    /// Returns a line for each service that is not ready, or none when they are the same as before.
    pub(super) fn waiting(&mut self) -> Vec<String> {
        let why = |row: &Row| match &row.state {
            State::Starting { why, .. } => Some(row.line("waiting", why)),
            State::Down | State::Ready { .. } => None,
        };
        // Without NATS no service can be ready: one line says why.
        let lines: Vec<String> = match &self.nats_problem {
            Some(problem) => vec![nats_line(problem)],
            None => self.rows.iter().filter_map(why).collect(),
        };
        if lines == self.last_waiting {
            return Vec::new();
        }
        self.last_waiting.clone_from(&lines);
        lines
    }
}

/// Returns a line of the board.
pub(super) fn line(name: &str, state: &str, detail: &str) -> String {
    format!("{name:<10}  {state:<8}  {detail}")
}

fn nats_line(problem: &str) -> String {
    line("nats", "waiting", problem)
}

impl Row {
    fn line(&self, state: &str, detail: &str) -> String {
        line(&self.name, state, detail)
    }

    fn on_probe(&mut self, probe: &Probe, taken_ms: u64) -> Option<String> {
        let (since_ms, was_ready) = match self.state {
            State::Down => return None,
            State::Starting { since_ms, .. } => (since_ms, false),
            State::Ready { since_ms } => (since_ms, true),
        };
        match probe {
            Probe::Ready { detail, epoch_ms } => {
                // The status of an earlier process says nothing about this one.
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
    use super::super::services::Kind;
    use super::*;

    fn board() -> StatusBoard {
        let service = |name: &str, kind| Service {
            name: name.to_owned(),
            kind,
            arguments: Vec::new(),
            nats_url: "nats://127.0.0.1:4222".into(),
        };
        StatusBoard::new(&[service("decode-1", Kind::Decode), service("gateway", Kind::Gateway)])
    }

    fn started(service: usize, at_ms: u64) -> Event {
        Event { service, event: ServiceEvent::Started { pid: 7, at_ms } }
    }

    fn ended(by_itself: bool) -> Event {
        let event = ServiceEvent::Ended {
            how: "was ended by signal 9".to_owned(),
            by_itself,
            again_in: Duration::from_secs(1),
        };
        Event { service: 0, event }
    }

    fn ready(epoch_ms: Option<u64>) -> Probe {
        Probe::Ready { detail: "fine".to_owned(), epoch_ms }
    }

    fn snapshot(taken_ms: u64, probes: &[(usize, Probe)]) -> Snapshot {
        Snapshot { taken_ms, nats_problem: None, probes: probes.iter().cloned().collect() }
    }

    fn complete_board() -> StatusBoard {
        let mut board = board();
        board.on_event(started(0, 100)).unwrap();
        board.on_event(started(1, 100)).unwrap();
        board.on_snapshot(&snapshot(300, &[(0, ready(Some(150))), (1, ready(None))]));
        assert!(board.is_complete());
        board
    }

    #[test]
    fn each_service_is_announced_once() {
        let mut board = board();
        assert_eq!(board.on_event(started(0, 100)), Ok(None));
        board.on_event(started(1, 100)).unwrap();
        let round = snapshot(350, &[(0, ready(Some(150)))]);
        assert_eq!(board.on_snapshot(&round), ["decode-1    ready     fine (pid 7, 0.2 s)"]);
        assert!(board.on_snapshot(&round).is_empty());
        assert!(!board.is_complete());
        assert_eq!(board.waiting(), ["gateway     waiting   not seen yet"]);
        assert!(board.waiting().is_empty(), "it was said before");
    }

    #[test]
    fn the_presence_of_a_dead_process_is_not_taken_for_its_successor() {
        let mut board = complete_board();
        let line = board.on_event(ended(false)).unwrap().unwrap();
        assert_eq!(line, "decode-1    down      was ended by signal 9; starting it again in 1 s");
        assert!(board.on_snapshot(&snapshot(400, &[(0, ready(Some(150)))])).is_empty());
        assert!(board.on_event(started(0, 1400)).unwrap().unwrap().contains("again, pid 7"));
        assert!(board.on_snapshot(&snapshot(1500, &[(0, ready(Some(150)))])).is_empty());
        assert_eq!(board.on_snapshot(&snapshot(1600, &[(0, ready(Some(1450)))])).len(), 1);
    }

    #[test]
    fn an_unreachable_nats_is_named_once_and_instead_of_the_services() {
        let mut board = board();
        board.on_event(started(0, 100)).unwrap();
        let problem = "for nats at nats://far:4222: refused";
        let away = Snapshot { nats_problem: Some(problem.to_owned()), ..snapshot(200, &[]) };
        let line = "nats        waiting   for nats at nats://far:4222: refused";
        assert_eq!(board.on_snapshot(&away), [line]);
        assert!(board.on_snapshot(&away).is_empty());
        assert_eq!(board.waiting(), [line]);
        assert!(board.on_snapshot(&snapshot(300, &[])).is_empty());
        assert_eq!(board.waiting(), ["decode-1    waiting   not seen yet"]);
    }

    #[test]
    fn an_answer_from_before_the_start_does_not_count() {
        let mut board = board();
        board.on_event(started(1, 1000)).unwrap();
        assert!(board.on_snapshot(&snapshot(900, &[(1, ready(None))])).is_empty());
        assert_eq!(board.on_snapshot(&snapshot(1000, &[(1, ready(None))])).len(), 1);
    }

    #[test]
    fn a_service_that_ends_by_itself_before_all_are_ready_fails_the_startup() {
        let mut early = board();
        early.on_event(started(0, 100)).unwrap();
        let error = early.on_event(ended(true)).unwrap_err();
        assert!(error.to_string().starts_with("decode-1 was ended"));
        assert!(complete_board().on_event(ended(true)).is_ok());
        // A kill during start-up comes from outside, and is worth another try.
        assert!(board().on_event(ended(false)).is_ok());
    }

    #[test]
    fn a_service_that_stops_being_ready_is_mentioned() {
        let mut board = complete_board();
        let round = snapshot(500, &[(1, Probe::Waiting("no decode worker".to_owned()))]);
        assert_eq!(board.on_snapshot(&round), ["gateway     waiting   no decode worker"]);
        assert!(board.on_snapshot(&round).is_empty());
        assert!(board.is_complete());
    }
}
