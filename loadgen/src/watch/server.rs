//! The server's own gauges during a run, read from its `/metrics`.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use crate::send::client::{Client, ClientError};
use crate::send::clock::Clock;

/// Time between two scrapes.
const INTERVAL: Duration = Duration::from_secs(1);
/// Limit for one scrape.
const SCRAPE_LIMIT: Duration = Duration::from_secs(2);
/// Largest number of scrapes that are kept, some 28 hours.
const SCRAPES_MAX: usize = 100_000;

/// Gauge of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gauge {
    /// Requests that are computed; summed over all series.
    Running,
    /// Requests that wait; summed over all series.
    Waiting,
    /// Share of the KV memory in use; the largest of all series.
    KvUsed,
}

/// Names of the gauges in the metrics of the servers that are known.
const NAMES: [(&str, Gauge); 16] = [
    ("vllm:num_requests_running", Gauge::Running),
    ("vllm:num_requests_waiting", Gauge::Waiting),
    ("vllm:kv_cache_usage_perc", Gauge::KvUsed),
    ("vllm:gpu_cache_usage_perc", Gauge::KvUsed),
    ("sglang:num_running_reqs", Gauge::Running),
    ("sglang:num_queue_reqs", Gauge::Waiting),
    ("sglang:token_usage", Gauge::KvUsed),
    ("llamacpp:requests_processing", Gauge::Running),
    ("llamacpp:requests_deferred", Gauge::Waiting),
    ("llamacpp:kv_cache_usage_ratio", Gauge::KvUsed),
    ("tgi_batch_current_size", Gauge::Running),
    ("tgi_queue_size", Gauge::Waiting),
    ("trtllm_num_requests_running", Gauge::Running),
    ("trtllm_num_requests_waiting", Gauge::Waiting),
    ("trtllm_kv_cache_utilization", Gauge::KvUsed),
    ("dynamo_frontend_queued_requests", Gauge::Waiting),
];

/// Gauges of a server at one moment; `None` for those that it does not have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ServerSample {
    /// Time from the start of the run.
    pub at_s: f64,
    /// Requests that were computed.
    pub running: Option<f64>,
    /// Requests that waited.
    pub waiting: Option<f64>,
    /// Share of the KV memory in use, from 0 to 1.
    pub kv_used: Option<f64>,
}

impl ServerSample {
    /// Reads the known gauges of a text exposition, Prometheus' or OpenMetrics'.
    fn parse(text: &str, at_s: f64) -> Self {
        let mut sample = Self { at_s, ..Self::default() };
        for (gauge, value) in text.lines().filter_map(known_gauge) {
            match gauge {
                Gauge::Running => *sample.running.get_or_insert(0.0) += value,
                Gauge::Waiting => *sample.waiting.get_or_insert(0.0) += value,
                Gauge::KvUsed => {
                    sample.kv_used = Some(sample.kv_used.map_or(value, |most| most.max(value)));
                }
            }
        }
        sample
    }

    fn has_any(&self) -> bool {
        self.running.is_some() || self.waiting.is_some() || self.kv_used.is_some()
    }
}

/// Returns the gauge and the value of a line, if it is one of a known gauge.
fn known_gauge(line: &str) -> Option<(Gauge, f64)> {
    let name = line.split(['{', ' ']).next()?;
    let (_, gauge) = NAMES.iter().find(|(known, _)| *known == name)?;
    // Values of labels may have spaces and braces in them, but the value follows the last brace.
    let rest = &line[name.len()..];
    let value = rest.rsplit_once('}').map_or(rest, |(_, value)| value);
    let value: f64 = value.split_whitespace().next()?.parse().ok()?;
    value.is_finite().then_some((*gauge, value))
}

/// The gauges of a server during a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ServerMetrics {
    /// URL that was scraped.
    pub url: String,
    /// Scrapes in order of time.
    pub samples: Vec<ServerSample>,
    /// Scrapes without an answer.
    pub failed: usize,
    /// Reason why nothing was recorded, if there is one.
    pub problem: Option<String>,
}

/// A scraper of one server, before and during a run.
pub struct Scraper {
    state: State,
}

enum State {
    Scraping {
        stop: oneshot::Sender<()>,
        task: JoinSet<ServerMetrics>,
    },
    /// There is nothing to record.
    Idle(ServerMetrics),
}

/// Checks that the server behind `client` has gauges that are known.
pub async fn check(client: &Client) -> Result<(), ClientError> {
    let text = client.metrics(SCRAPE_LIMIT).await?;
    if ServerSample::parse(&text, 0.0).has_any() {
        return Ok(());
    }
    let message = "none of the gauges of vLLM, SGLang, llama.cpp, TGI, TensorRT-LLM or Tandem is \
                   among them";
    let url = format!("{}/metrics", client.base());
    Err(ClientError::Metrics { url, message: message.to_owned() })
}

impl Scraper {
    /// Starts to scrape `/metrics` of the server behind `client` each second, unless `checked`, the
    /// result of [`check`], says that there is nothing to record.
    pub fn start(client: Client, clock: Clock, checked: Result<(), ClientError>) -> Self {
        let url = format!("{}/metrics", client.base());
        if let Err(error) = checked {
            let problem = Some(error.to_string());
            let idle = ServerMetrics { url, problem, ..ServerMetrics::default() };
            return Self { state: State::Idle(idle) };
        }
        let (stop, stopped) = oneshot::channel();
        let mut task = JoinSet::new();
        task.spawn(scrape(client, clock, url, stopped));
        Self { state: State::Scraping { stop, task } }
    }

    /// Ends the scraping and returns what was read. A scrape in progress is given up.
    pub async fn end(self) -> ServerMetrics {
        match self.state {
            State::Idle(metrics) => metrics,
            State::Scraping { stop, mut task } => {
                // A scraper that has stopped by itself needs no stop.
                let _ = stop.send(());
                task.join_next().await.and_then(Result::ok).unwrap_or_default()
            }
        }
    }
}

async fn scrape(
    client: Client,
    clock: Clock,
    url: String,
    mut stopped: oneshot::Receiver<()>,
) -> ServerMetrics {
    let mut metrics = ServerMetrics { url, ..ServerMetrics::default() };
    let mut ticks = interval_at(Instant::now() + INTERVAL, INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    while metrics.samples.len() < SCRAPES_MAX {
        let scraped = async {
            ticks.tick().await;
            client.metrics(SCRAPE_LIMIT).await
        };
        tokio::select! {
            _ = &mut stopped => break,
            scraped = scraped => match scraped {
                Ok(text) => {
                    let at_s = clock.now_ns() as f64 / 1e9;
                    metrics.samples.push(ServerSample::parse(&text, at_s));
                }
                Err(_) => metrics.failed += 1,
            },
        }
    }
    metrics
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gauges_of_known_servers_are_read() {
        let text = "# TYPE vllm:num_requests_running gauge\n\
                    vllm:num_requests_running{engine=\"0\",model_name=\"a {b} c\"} 3.0\n\
                    vllm:num_requests_running{engine=\"1\"} 2 1700000000000\n\
                    vllm:num_requests_waiting{engine=\"0\"} 7.0\n\
                    vllm:num_requests_waiting_by_reason{reason=\"x\"} 99\n\
                    vllm:kv_cache_usage_perc{engine=\"0\"} 0.25\n\
                    vllm:kv_cache_usage_perc{engine=\"1\"} 0.5\n\
                    vllm:kv_cache_usage_perc{engine=\"2\"} NaN\n# EOF\n";
        let sample = ServerSample::parse(text, 1.0);
        let expected =
            ServerSample { at_s: 1.0, running: Some(5.0), waiting: Some(7.0), kv_used: Some(0.5) };
        assert_eq!(sample, expected);
        let llama = ServerSample::parse("llamacpp:requests_deferred 4\nother 1\n", 0.0);
        assert_eq!((llama.waiting, llama.running), (Some(4.0), None));
        assert!(!ServerSample::parse("up 1\n\n{} x\nvllm:num_requests_running\n", 0.0).has_any());
    }
}
