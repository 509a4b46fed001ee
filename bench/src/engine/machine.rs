//! The machine of a measurement: processor, load, memory, and its peak rates.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use kernels::{Cpu, Isa, Peak, Precision};
use model::IsaChoice;
use procfs::process::{Process, Status};
use procfs::{CpuInfo, Current as _, LoadAverage, Meminfo};

/// Probes of which the best counts, since other programs share the machine.
const PROBES: usize = 4;

/// Returns the processor's name, or the architecture if the system does not name it.
pub(super) fn cpu_name() -> String {
    let info = CpuInfo::current().ok();
    let name = info.as_ref().and_then(|info| info.model_name(0));
    name.unwrap_or(std::env::consts::ARCH).to_owned()
}

/// Returns the number of cores that this process may use.
pub(super) fn cores() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// Returns the machine's memory, if `/proc` has it.
pub(super) fn memory_bytes() -> Option<u64> {
    Some(Meminfo::current().ok()?.mem_total)
}

/// Returns the load average of the last minute, if `/proc` has it.
pub(super) fn load_average() -> Option<f64> {
    Some(f64::from(LoadAverage::current().ok()?.one))
}

/// The resident memory of a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Resident {
    /// The present size.
    pub(super) bytes: u64,
    /// The highest size so far.
    pub(super) peak_bytes: u64,
}

/// Returns the memory of this process, if `/proc` has it.
pub(super) fn own_memory() -> Option<Resident> {
    resident(&Process::myself().ok()?.status().ok()?)
}

/// Returns the memory of another process while it runs.
pub(super) fn memory_of(pid: u32) -> Option<Resident> {
    resident(&Process::new(i32::try_from(pid).ok()?).ok()?.status().ok()?)
}

/// Returns the memory in a process's status, which a zombie's does not have.
fn resident(status: &Status) -> Option<Resident> {
    Some(Resident { bytes: status.vmrss? << 10, peak_bytes: status.vmhwm? << 10 })
}

/// Returns the instruction set that the choice selects on this machine.
pub(super) fn isa(choice: IsaChoice) -> Isa {
    match choice {
        IsaChoice::Auto => Isa::best(),
        IsaChoice::Only(isa) => isa,
    }
}

/// Measures the highest rates that processor and memory reach in short loops.
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
    /// Starts `count` threads.
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
            // The thread only spins, so it cannot panic.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_from_the_status_of_a_process() {
        let mut status = Process::myself().unwrap().status().unwrap();
        (status.vmrss, status.vmhwm) = (Some(123), Some(345));
        let expected = Resident { bytes: 123 * 1024, peak_bytes: 345 * 1024 };
        assert_eq!(resident(&status), Some(expected));
        status.vmrss = None;
        assert_eq!(resident(&status), None);
    }

    #[test]
    fn the_reported_instructions_are_those_in_use() {
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
