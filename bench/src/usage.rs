//! Resources that this process and its descendants use, from `/proc`.

use std::collections::BTreeMap;
use std::path::Path;

use procfs::ProcResult;
use procfs::process::{self, Process, Stat};

/// The kind of this process.
pub(super) const CLIENT: &str = "client";
/// The kind of the message server.
pub(super) const NATS: &str = "nats-server";

/// CPU time and memory of processes of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Usage {
    /// CPU seconds in user and kernel mode.
    pub(super) cpu_s: f64,
    /// Resident memory, shared pages included.
    pub(super) resident_bytes: u64,
    /// Number of processes.
    pub(super) processes: u32,
}

/// Returns sums over this process and its descendants, by kind: the subcommand where `tandem` runs
/// one, otherwise the name of the program.
pub(super) fn of_descendants(tandem: &Path) -> ProcResult<BTreeMap<String, Usage>> {
    let mut all = BTreeMap::new();
    // A process may end before it is read.
    for process in process::all_processes()?.flatten() {
        if let Ok(stat) = process.stat() {
            all.insert(stat.pid, (process, stat));
        }
    }
    let parents = all.iter().map(|(&pid, (_, stat))| (pid, stat.ppid)).collect();
    let own = Process::myself()?.pid;
    let mut sums: BTreeMap<String, Usage> = BTreeMap::new();
    for (&pid, (process, stat)) in &all {
        let kind = if pid == own {
            CLIENT.to_owned()
        } else if descends(&parents, pid, own) {
            kind(process, stat, tandem)
        } else {
            continue;
        };
        let sum = sums.entry(kind).or_default();
        sum.cpu_s += (stat.utime + stat.stime) as f64 / procfs::ticks_per_second() as f64;
        sum.resident_bytes += process.status().ok().and_then(|it| it.vmrss).unwrap_or(0) << 10;
        sum.processes += 1;
    }
    Ok(sums)
}

fn kind(process: &Process, stat: &Stat, tandem: &Path) -> String {
    let arguments = process.cmdline().unwrap_or_default();
    match arguments.as_slice() {
        [program, service, ..] if Path::new(program) == tandem => service.clone(),
        // The kernel keeps fifteen characters, and the program's name may end in a version.
        _ if stat.comm.starts_with(NATS) => NATS.to_owned(),
        _ => stat.comm.clone(),
    }
}

/// Returns true if `pid` descends from `from`, given the parent of every process.
fn descends(parents: &BTreeMap<i32, i32>, pid: i32, from: i32) -> bool {
    let mut at = pid;
    // A chain is at most as long as the number of processes.
    for _ in 0..parents.len() {
        match parents.get(&at) {
            Some(&parent) if parent == from => return true,
            Some(&parent) => at = parent,
            None => return false,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_is_counted_under_its_name() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let usage = of_descendants(Path::new("/no/tandem")).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(usage.contains_key("sleep"), "{usage:?}");
        assert!(usage[CLIENT].resident_bytes > 0);
    }
}
