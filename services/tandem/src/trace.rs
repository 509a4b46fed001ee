//! `tandem trace`: one request as a waterfall, or those that are worth a look, from Jaeger.

mod jaeger;
mod slowest;
mod span;
mod waterfall;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context as _, bail};
use chassis::telemetry::names::{self, tandem};

use self::jaeger::{Jaeger, OPERATIONS, SEARCH_MAX};
use self::span::Span;
use self::waterfall::Request;
use crate::console;

/// Steps of other traces that are looked up for one waterfall.
const STEPS_MAX: usize = 8;
const REQUEST_ID_HEADER: &str = "http.request.header.x-request-id";

/// The request or requests to show.
#[derive(Debug, clap::Args)]
pub(crate) struct TraceArgs {
    /// A trace id, the id of an answer (`chatcmpl-…`), of a request, or an x-request-id
    #[arg(required_unless_present = "slowest")]
    request: Option<String>,
    /// List this many of the slowest requests instead
    #[arg(long, value_name = "N", conflicts_with = "request")]
    slowest: Option<usize>,
    /// Time to look back: 90s, 15m, 2h
    #[arg(long, default_value = "1h", value_parser = duration)]
    since: Duration,
    /// Look among the traces of this service
    #[arg(long, default_value = "gateway")]
    service: String,
    /// Base URL of Jaeger's query API
    #[arg(long, default_value = "http://127.0.0.1:16686", value_name = "URL")]
    jaeger: String,
    /// Columns of the waterfall
    #[arg(long, default_value_t = 120, value_name = "N", value_parser = clap::value_parser!(u16).range(60..=400))]
    width: u16,
}

/// Fetches from Jaeger and prints.
pub(crate) async fn run(args: TraceArgs) -> anyhow::Result<()> {
    let jaeger = Jaeger::new(&args.jaeger).context("prepare HTTP")?;
    match (&args.request, args.slowest) {
        (Some(request), _) => show(&jaeger, &args, request).await,
        (None, count) => list(&jaeger, &args, count.unwrap_or_default()).await,
    }
}

async fn show(jaeger: &Jaeger, args: &TraceArgs, request: &str) -> anyhow::Result<()> {
    let is_hex = request.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let mut spans = Vec::new();
    if request.len() == 32 && is_hex {
        spans = jaeger.trace(request).await?;
    }
    let mut searched = 0;
    if spans.is_empty() {
        let traces = requests(jaeger, args).await?;
        searched = traces.len();
        spans = traces.into_values().find(|spans| is(spans, request)).unwrap_or_default();
    }
    if spans.is_empty() {
        bail!(
            "no trace of {request:?} among the {searched} requests of the last {} s that Jaeger at \
             {} has (it looks at {SEARCH_MAX} of each kind): it may be older (--since), outside \
             the sample (telemetry.sample_ratio) and without fault (telemetry.keep), not exported \
             (telemetry.otlp_endpoint), or no longer stored",
            args.since.as_secs(),
            args.jaeger
        );
    }
    let steps = steps(jaeger, &spans).await?;
    let drawn = waterfall::draw(&Request { spans: &spans, steps: &steps }, usize::from(args.width));
    console::line(drawn.trim_end());
    Ok(())
}

/// Returns whether these are the spans of the request with this name.
fn is(spans: &[Span], request: &str) -> bool {
    let Some(root) = waterfall::root(spans) else { return false };
    let keys = [tandem::REQUEST_ID, names::GEN_AI_RESPONSE_ID, REQUEST_ID_HEADER];
    root.trace_id == request || keys.iter().any(|key| root.attribute(key) == request)
}

/// The steps of other traces that these spans link to.
async fn steps(jaeger: &Jaeger, spans: &[Span]) -> anyhow::Result<Vec<Span>> {
    let own = spans.first().map_or("", |span| span.trace_id.as_str());
    let linked: BTreeSet<&str> = spans
        .iter()
        .flat_map(|span| span.links.iter().map(String::as_str))
        .filter(|trace| *trace != own)
        .collect();
    let mut steps = Vec::new();
    for trace in linked.into_iter().take(STEPS_MAX) {
        steps.extend(jaeger.trace(trace).await?);
    }
    steps.sort_by_key(|step| step.start_ns);
    Ok(steps)
}

async fn list(jaeger: &Jaeger, args: &TraceArgs, count: usize) -> anyhow::Result<()> {
    let traces = requests(jaeger, args).await?;
    if traces.is_empty() {
        bail!(
            "Jaeger at {} has no request of service {:?} of the last {} s: is anything exported \
             (telemetry.otlp_endpoint), and was anything asked?",
            args.jaeger,
            args.service,
            args.since.as_secs()
        );
    }
    console::line(&slowest::table(&traces, count));
    Ok(())
}

/// The requests that a service had a part in.
async fn requests(
    jaeger: &Jaeger,
    args: &TraceArgs,
) -> anyhow::Result<BTreeMap<String, Vec<Span>>> {
    if args.service != "gateway" {
        return Ok(jaeger.find(&args.service, None, args.since).await?);
    }
    let mut all = BTreeMap::new();
    for operation in OPERATIONS {
        all.extend(jaeger.find(&args.service, Some(operation), args.since).await?);
    }
    Ok(all)
}

fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = text.split_at(text.trim_end_matches(char::is_alphabetic).len());
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return Err(format!("{text:?} has no unit, expected s, m, h or d")),
    };
    let number: u64 =
        number.parse().map_err(|_| format!("{text:?} is no duration, expected one like 15m"))?;
    Ok(Duration::from_secs(number.saturating_mul(seconds)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_unit() {
        assert_eq!(duration("15m"), Ok(Duration::from_secs(900)));
        assert_eq!(duration("2h"), Ok(Duration::from_secs(7_200)));
        assert!(duration("15").unwrap_err().contains("no unit"));
        assert!(duration("m").unwrap_err().contains("no duration"));
    }

    #[test]
    fn a_request_is_found_by_each_of_its_names() {
        let traces = span::parse(include_str!("trace/fixtures/retried.json")).unwrap();
        let (id, spans) = traces.iter().next().unwrap();
        let root = waterfall::root(spans).unwrap();
        assert!(is(spans, id) && is(spans, root.attribute(tandem::REQUEST_ID)));
        assert!(is(spans, root.attribute(names::GEN_AI_RESPONSE_ID)));
        assert!(!is(spans, "another"));
    }
}
