//! Detection of a queue that grows without end, as opposed to one that fluctuates.

/// Number of blocks of a series.
const BLOCKS: usize = 8;
/// Number of pairs of blocks, of 28, of which the later must be higher. In a series without a
/// trend, 26 or more occur about once in ten thousand times.
const RISING_PAIRS: usize = 26;
/// Smallest number of values in a block.
const BLOCK_MIN: usize = 4;

/// Returns whether `values`, in order of time, rise from start to end: nearly every later block is
/// above every earlier one (Mann-Kendall), and the end is well above the start.
pub fn grows(values: &[f64]) -> bool {
    let size = values.len() / BLOCKS;
    if size < BLOCK_MIN {
        return false;
    }
    let blocks: Vec<f64> = values
        .chunks_exact(size)
        .take(BLOCKS)
        .map(|block| block.iter().sum::<f64>() / size as f64)
        .collect();
    let rising = (0..BLOCKS)
        .flat_map(|later| (0..later).map(move |earlier| (earlier, later)))
        .filter(|(earlier, later)| blocks[*later] > blocks[*earlier])
        .count();
    rising >= RISING_PAIRS && blocks[BLOCKS - 1] > 2.0 * blocks[0].max(f64::MIN_POSITIVE)
}

/// A monitor of the requests that wait for their first token during a probe.
#[derive(Debug, Default)]
pub struct QueueMonitor {
    waiting: Vec<f64>,
}

/// Smallest number of samples for a result, at four samples per second.
const WATCH_MIN: usize = 32;
/// Smallest number of waiting requests that counts as a queue.
const QUEUE_MIN: f64 = 8.0;

impl QueueMonitor {
    /// Adds a sample. Returns whether the queue grows without end.
    pub fn add(&mut self, waiting: u64) -> bool {
        self.waiting.push(waiting as f64);
        self.waiting.len() >= WATCH_MIN && waiting as f64 >= QUEUE_MIN && grows(&self.waiting)
    }
}

#[cfg(test)]
mod tests {
    use super::super::queue::{Queue, Service};
    use super::*;

    /// The waiting requests of a queue at `load` of its capacity, four samples per second for 30 s.
    fn watched(load: f64, seed: u64) -> bool {
        let queue = Queue { servers: 1, service: Service::Exponential, mean_s: 0.05 };
        let served = queue.run(load * queue.capacity(), 600, seed);
        let mut watch = QueueMonitor::default();
        (1..120).any(|step| {
            let now = f64::from(step) * 0.25;
            let waiting = served.iter().filter(|(at, wait, _)| *at <= now && now < at + wait);
            let arriving = served.last().is_some_and(|(at, ..)| now <= *at);
            arriving && watch.add(waiting.count() as u64)
        })
    }

    #[test]
    fn an_overload_is_seen_and_a_busy_server_is_left_alone() {
        let seen = |load: f64| (0..100).filter(|seed| watched(load, *seed)).count();
        assert!(seen(1.6) >= 95, "{}", seen(1.6));
        assert!(seen(0.7) <= 2, "{}", seen(0.7));
    }

    #[test]
    fn short_and_flat_series_do_not_grow() {
        assert!(!grows(&[1.0, 2.0, 3.0]));
        assert!(!grows(&[5.0; 400]));
        let rising: Vec<f64> = (0..400).map(f64::from).collect();
        assert!(grows(&rising));
        let steep_start: Vec<f64> = (0..400).map(|i| f64::from(i).min(50.0)).collect();
        assert!(!grows(&steep_start));
    }
}
