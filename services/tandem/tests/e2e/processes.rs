//! Processes, as `/proc` shows them.

use std::collections::BTreeSet;

use procfs::process::all_processes;

/// A process that cannot be mistaken for a later one with the same id.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Process {
    /// Its id.
    pub(crate) pid: i32,
    /// Its parent's id.
    pub(crate) parent: i32,
    /// Clock ticks from boot to its start.
    started: u64,
}

impl Process {
    /// Returns the process, unless it has ended.
    fn read(process: &procfs::process::Process) -> Option<Self> {
        let stat = process.stat().ok().filter(|stat| stat.state != 'Z')?;
        Some(Self { pid: stat.pid, parent: stat.ppid, started: stat.starttime })
    }

    /// Returns true while it runs.
    pub(crate) fn is_alive(&self) -> bool {
        let now = procfs::process::Process::new(self.pid).ok();
        now.and_then(|now| Self::read(&now)).is_some_and(|now| now.started == self.started)
    }

    /// Returns its command line.
    pub(crate) fn command_line(&self) -> Vec<String> {
        let process = procfs::process::Process::new(self.pid);
        process.and_then(|process| process.cmdline()).unwrap_or_default()
    }

    /// Sends SIGKILL.
    pub(crate) fn kill(&self) {
        assert!(self.is_alive(), "{self:?} is gone already");
        let pid = rustix::process::Pid::from_raw(self.pid);
        let signal = rustix::process::Signal::KILL;
        rustix::process::kill_process(pid.expect("a process id"), signal).expect("ours to kill");
    }
}

/// Returns a process and all its descendants.
pub(crate) fn tree_of(root: u32) -> Vec<Process> {
    let root = i32::try_from(root).expect("a process id");
    let all: Vec<Process> = all_processes()
        .expect("/proc is there")
        .filter_map(|process| Process::read(&process.ok()?))
        .collect();
    let mut known = BTreeSet::from([root]);
    loop {
        let before = known.len();
        known.extend(
            all.iter()
                .filter(|one| known.contains(&one.parent))
                .map(|one| one.pid)
                .collect::<Vec<_>>(),
        );
        if known.len() == before {
            return all.into_iter().filter(|one| known.contains(&one.pid)).collect();
        }
    }
}

/// Returns the process below `root` that runs the service `kind`.
pub(crate) fn service_below(root: u32, kind: &str) -> Option<Process> {
    tree_of(root).into_iter().find(|one| one.command_line().get(1).is_some_and(|word| word == kind))
}
