//! What the figures were measured on: processor, load, memory, and the most that it can do.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use kernels::{Cpu, Isa, Peak, Precision};
use model::IsaChoice;

/// The machine is shared: the best of a few looks is what it can do.
const PROBES: usize = 4;

/// The processor's name, as the system tells it.
pub(super) fn cpu_name() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let named = info.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == "model name").then(|| value.trim().to_owned())
    });
    named.unwrap_or_else(|| std::env::consts::ARCH.to_owned())
}

/// Cores that this process may use.
pub(super) fn cores() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// The machine's memory, where the system tells it.
pub(super) fn memory_bytes() -> Option<u64> {
    kibibytes(&std::fs::read_to_string("/proc/meminfo").ok()?, "MemTotal")
}

/// Runnable processes, averaged over the last minute, where the system tells it.
pub(super) fn load_average() -> Option<f64> {
    std::fs::read_to_string("/proc/loadavg").ok()?.split_whitespace().next()?.parse().ok()
}

/// Memory of a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Resident {
    /// Now.
    pub(super) bytes: u64,
    /// At its highest.
    pub(super) peak_bytes: u64,
}

/// Memory of this process, where the system tells it.
pub(super) fn own_memory() -> Option<Resident> {
    resident(&std::fs::read_to_string("/proc/self/status").ok()?)
}

/// Memory of another process, as long as it runs.
pub(super) fn memory_of(process: u32) -> Option<Resident> {
    resident(&std::fs::read_to_string(format!("/proc/{process}/status")).ok()?)
}

fn resident(status: &str) -> Option<Resident> {
    Some(Resident { bytes: kibibytes(status, "VmRSS")?, peak_bytes: kibibytes(status, "VmHWM")? })
}

/// The bytes of a line such as `VmRSS:   1234 kB`.
fn kibibytes(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kibibytes| kibibytes * 1024)
}

/// The instructions that the choice leads to on this machine.
pub(super) fn isa(choice: IsaChoice) -> Isa {
    match choice {
        IsaChoice::Auto => Isa::best(),
        IsaChoice::Only(isa) => isa,
    }
}

/// The highest rates that the machine's processor and memory reach in short loops.
pub(super) fn peak(threads: usize, isa: IsaChoice) -> Result<Peak, kernels::SetupError> {
    let mut cpu = Cpu::new(threads, self::isa(isa), Precision::default())?;
    Ok((0..PROBES).map(|_| cpu.probe()).fold(Peak::default(), Peak::max))
}

/// Threads that keep cores busy until this is dropped.
#[derive(Debug)]
pub(super) struct ForeignLoad {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl ForeignLoad {
    /// Starts them.
    pub(super) fn start(count: usize) -> std::io::Result<Self> {
        let mut load = Self { stop: Arc::default(), threads: Vec::with_capacity(count) };
        for index in 0..count {
            let stop = Arc::clone(&load.stop);
            let thread = thread::Builder::new().name(format!("load-{index}"));
            load.threads.push(thread.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            })?);
        }
        Ok(load)
    }
}

impl Drop for ForeignLoad {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // It only spins: there is nothing in it that could fail.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str =
        "Name:\ttandem\nVmPeak:\t  900 kB\nVmHWM:\t  345 kB\nVmRSS:\t  123 kB\nVmData:\t 5 kB\n";

    #[test]
    fn memory_is_read_from_the_status_of_a_process() {
        let expected = Resident { bytes: 123 * 1024, peak_bytes: 345 * 1024 };
        assert_eq!(resident(STATUS), Some(expected));
        assert_eq!(resident("Name:\tzombie\n"), None);
    }

    #[test]
    fn the_instructions_told_are_those_in_use() {
        assert!(isa(IsaChoice::Auto).is_available());
        assert_eq!(isa(IsaChoice::Only(Isa::Portable)), Isa::Portable);
    }

    #[test]
    fn foreign_load_ends_with_its_owner() {
        let load = ForeignLoad::start(2).unwrap();
        let stop = Arc::clone(&load.stop);
        assert_eq!(Arc::strong_count(&stop), 4);
        drop(load);
        assert_eq!(Arc::strong_count(&stop), 1, "both threads are gone");
    }
}
