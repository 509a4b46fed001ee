//! Metrics of a run in progress, as OpenMetrics text.

use std::fmt;
use std::sync::Arc;

use anyhow::{Context, Result};
use chassis::http::{Readiness, health_router, serve};
use chassis::metrics::{Metrics, registry};
use chassis::{StopToken, Tasks};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use tokio::net::TcpListener;

use crate::send::live::Live;

/// A collector that reads the counters at each scrape.
#[derive(Debug)]
struct Counters(Arc<Live>);

impl Collector for Counters {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let now = self.0.totals();
        let counters = [
            (
                "loadgen_requests_offered",
                "Requests whose intended time the generator handled",
                now.issued,
            ),
            ("loadgen_requests_sent", "Requests that the generator sent", now.sent),
            (
                "loadgen_requests_finished",
                "Requests that finished, failures included",
                now.finished,
            ),
            (
                "loadgen_requests_failed",
                "Requests that failed, by any class of failure",
                now.failed,
            ),
            (
                "loadgen_requests_dropped",
                "Requests that were not sent because too many were in flight",
                now.dropped,
            ),
            ("loadgen_tokens", "Output tokens received, counted as chunks of text", now.tokens),
        ];
        for (name, help, value) in counters.into_iter().chain(
            now.good.map(|good| ("loadgen_requests_good", "Requests that met every SLO", good)),
        ) {
            let metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            ConstCounter::new(value).encode(metric)?;
        }
        let mut gauge = |name: &str, help: &str, value: f64| {
            let metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            ConstGauge::new(value).encode(metric)
        };
        gauge(
            "loadgen_in_flight",
            "Requests in flight, from their intended time to their end",
            now.in_flight() as f64,
        )?;
        let lag_s = now.worst_lag_ns as f64 / 1e9;
        gauge(
            "loadgen_lag_max_seconds",
            "Largest delay between a request's intended time and its handling so far",
            lag_s,
        )?;
        if let Some(ttft_us) = now.ttft_us {
            let names = ["p50", "p90", "p99"].map(|q| format!("loadgen_ttft_{q}_seconds"));
            for (name, us) in names.iter().zip(ttft_us) {
                gauge(
                    name,
                    "Quantile of the time from a request's intended time to its first token so far",
                    us as f64 / 1e6,
                )?;
            }
        }
        Ok(())
    }
}

/// Serves `/metrics` at `listen`, as one of `tasks`.
pub async fn start(listen: &str, live: Arc<Live>, tasks: &mut Tasks) -> Result<()> {
    let named = || format!("--metrics-listen {listen}");
    let listener = TcpListener::bind(listen).await.with_context(named)?;
    let address = listener.local_addr().with_context(named)?;
    eprintln!("metrics at http://{address}/metrics");
    let mut registry = registry("loadgen");
    registry.register_collector(Box::new(Counters(live)));
    let router = health_router(Readiness::default(), Metrics::new(registry));
    let stop: StopToken = tasks.stop();
    tasks.spawn("metrics", async move { Ok(serve(listener, router, stop).await?) });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counters_are_open_metrics() {
        let live = Arc::new(Live::new(vec!["ttft=1s".parse().unwrap()]));
        live.issued(2_000_000);
        live.issued(0);
        live.sent();
        live.tokens(7);
        let mut registry = registry("loadgen");
        registry.register_collector(Box::new(Counters(live)));
        let text = Metrics::new(registry).encode().unwrap();
        for line in [
            "# TYPE loadgen_requests_offered counter",
            "loadgen_requests_offered_total 2",
            "loadgen_requests_sent_total 1",
            "loadgen_requests_good_total 0",
            "loadgen_tokens_total 7",
            "loadgen_in_flight 2.0",
            "loadgen_lag_max_seconds 0.002",
        ] {
            assert!(text.lines().any(|found| found == line), "{line:?} is missing:\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }
}
