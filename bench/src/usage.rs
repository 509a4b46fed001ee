//! What this process and its descendants use, from `/proc`.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

/// This process.
pub(super) const CLIENT: &str = "client";
/// The message server.
pub(super) const NATS: &str = "nats-server";

/// The unit of CPU time in `/proc`, the same on every Linux.
const TICKS_PER_S: f64 = 100.0;

/// CPU time and memory of processes of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Usage {
    /// Seconds in user and kernel mode.
    pub(super) cpu_s: f64,
    /// Resident memory that belongs to them alone or is shared with others.
    pub(super) resident_bytes: u64,
    /// How many there are.
    pub(super) processes: u32,
}

/// One line of `/proc/PID/stat`.
#[derive(Debug, PartialEq)]
struct Stat {
    name: String,
    parent: u32,
    cpu_ticks: u64,
}

/// Returns sums over this process and its descendants, by kind: the subcommand where `tandem` runs
/// one, otherwise the name of the program.
pub(super) fn of_descendants(tandem: &Path) -> io::Result<BTreeMap<String, Usage>> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok())
        else {
            continue;
        };
        // A process may end while it is looked at.
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        if let Some(stat) = parse(&text) {
            all.insert(pid, stat);
        }
    }
    let own = std::process::id();
    let mut sums: BTreeMap<String, Usage> = BTreeMap::new();
    for (&pid, stat) in &all {
        let kind = match pid {
            _ if pid == own => CLIENT.to_owned(),
            _ if descends(&all, pid, own) => kind(pid, stat, tandem),
            _ => continue,
        };
        let sum = sums.entry(kind).or_default();
        sum.cpu_s += stat.cpu_ticks as f64 / TICKS_PER_S;
        sum.resident_bytes += resident_bytes(pid);
        sum.processes += 1;
    }
    Ok(sums)
}

fn kind(pid: u32, stat: &Stat, tandem: &Path) -> String {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let mut arguments = line.split(|byte| *byte == 0).map(String::from_utf8_lossy);
    match (arguments.next(), arguments.next()) {
        (Some(program), Some(service)) if Path::new(&*program) == tandem => service.into_owned(),
        // The kernel keeps fifteen characters, and the program's name may end in its version.
        _ if stat.name.starts_with(NATS) => NATS.to_owned(),
        _ => stat.name.clone(),
    }
}

fn descends(all: &BTreeMap<u32, Stat>, pid: u32, from: u32) -> bool {
    let mut at = pid;
    // No chain is longer than there are processes.
    for _ in 0..all.len() {
        match all.get(&at) {
            Some(stat) if stat.parent == from => return true,
            Some(stat) => at = stat.parent,
            None => return false,
        }
    }
    false
}

fn resident_bytes(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or_default() << 10
}

/// The name stands in parentheses and may hold anything, more of them included.
fn parse(text: &str) -> Option<Stat> {
    let (before, after) = text.rsplit_once(')')?;
    let name = before.split_once('(')?.1.to_owned();
    let fields: Vec<&str> = after.split_whitespace().collect();
    let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
    Some(Stat { name, parent: number(1)? as u32, cpu_ticks: number(11)? + number(12)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_whatever_the_name() {
        let text = "17 (a ) (b) S 4 17 17 0 -1 4194560 5 0 0 0 30 12 0 0 20 0 9 0 1000 9999 77 1 0";
        let stat = Stat { name: "a ) (b".into(), parent: 4, cpu_ticks: 42 };
        assert_eq!(parse(text), Some(stat));
        assert_eq!(parse("17 (a"), None);
    }

    #[test]
    fn a_child_is_counted_under_its_name() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let usage = of_descendants(Path::new("/no/tandem")).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(usage.contains_key("sleep"), "{usage:?}");
        assert!(0 < usage[CLIENT].resident_bytes);
    }
}
