//! The report as text for people.

use std::fmt::Write;

use traces::text::{line, table};

use crate::measure::intervals::{Distribution, Interval};
use crate::measure::windows::{Settling, WindowReport};
use crate::report::Report;
use crate::report::stages::StageReport;

/// Renders the report of a run.
pub fn render(report: &Report) -> String {
    let mut out = String::new();
    head(report, &mut out);
    out.push_str(&latency(report));
    out.push('\n');
    work(report, &mut out);
    if let Some(stages) = &report.stages {
        out.push_str(&stages_table(stages));
        out.push('\n');
    }
    if !report.errors.is_empty() {
        out.push_str(&errors(report));
        out.push('\n');
    }
    if !report.slowest.is_empty() {
        out.push_str(&slowest(report));
        out.push('\n');
    }
    verdict(report, &mut out);
    out
}

fn head(report: &Report, out: &mut String) {
    let (load, counts, schedule) = (&report.workload, &report.counts, &report.schedule);
    line!(out, "run {} · {}{} · model {}", load.run_id, load.url, load.endpoint, load.model);
    line!(out, "load      {} · seed {}", load.source, load.seed);
    line!(out, "prompts   {}", load.prompts);
    let context = load.context_tokens.map_or("unknown".to_owned(), |n| n.to_string());
    line!(
        out,
        "planned   {} requests · refused as longer than the context of {context}: {} · \
         shortened: {}",
        counts.planned,
        counts.refused_too_long,
        counts.truncated
    );
    line!(
        out,
        "offered   {} · completed {} · failed {} · cancelled {} · never sent {} · wrong length {}",
        counts.offered,
        counts.completed,
        counts.failed,
        counts.cancelled,
        counts.unsent,
        counts.wrong_length
    );
    line!(
        out,
        "schedule  {:.1} s · offered {:.3}/s · achieved {:.3}/s ({:.1} %) · lag p50 {} p99 {} max {} ms",
        schedule.span_s,
        schedule.offered_rps,
        schedule.achieved_rps,
        100.0 * schedule.achieved_rps / schedule.offered_rps.max(1e-12),
        ms(schedule.lag_ms.quantiles.p50),
        ms(schedule.lag_ms.quantiles.p99),
        ms(schedule.lag_ms.quantiles.max)
    );
    let counting = &report.counting;
    let oddities = counting.oddities().into_iter().map(|text| format!(" · {text}"));
    line!(
        out,
        "counted   chunks with text: {} · answers ended by: {}{}",
        counting.fields(),
        counting.reasons(),
        oddities.collect::<String>()
    );
    window(&report.window, out);
    for warning in &load.warnings {
        line!(out, "warning   {warning}");
    }
}

fn window(window: &WindowReport, out: &mut String) {
    let settled = match window.settling {
        Some(Settling::After(0)) => "MSER-5: steady from the start",
        Some(Settling::After(_)) if window.warmup == "auto" => "MSER-5: steady from there on",
        Some(Settling::After(_)) => "MSER-5: not steady from the start (see --warmup auto)",
        Some(Settling::Never) => "MSER-5: NOT steady: the run is short or the load too high",
        Some(Settling::Unknown) | None => "too few requests to judge steadiness",
    };
    line!(
        out,
        "window    {:.1} to {:.1} s, {} requests · warm-up {}: {} left out · drain {:.1} s · {settled}",
        window.from_s,
        window.to_s,
        window.measured_requests,
        window.warmup,
        window.warmup_requests,
        window.drain_s,
    );
}

fn latency(report: &Report) -> String {
    let mut table = table(vec!["ms", "n", "mean", "p50", "p90", "p99", "p99.9", "max"], 1);
    for (name, of) in distributions(report) {
        table.add_row(row(name, of));
    }
    table.to_string()
}

/// Returns all distributions of a report, by name.
pub fn distributions(report: &Report) -> [(&'static str, &Distribution); 8] {
    let latency = &report.latency;
    [
        ("TTFT response (from intended)", &latency.ttft_response_ms),
        ("TTFT service (from send)", &latency.ttft_service_ms),
        ("E2E response (from intended)", &latency.e2e_response_ms),
        ("E2E service (from send)", &latency.e2e_service_ms),
        ("TPOT", &latency.tpot_ms),
        ("ITL", &latency.itl_ms),
        ("due to sent (slot wait)", &report.schedule.queue_wait_ms),
        ("sent to written (connect)", &report.schedule.connect_ms),
    ]
}

fn row(name: &str, of: &Distribution) -> Vec<String> {
    let with = |value: Option<f64>, ends: Interval| format!("{}\n{}", ms(value), interval(ends));
    vec![
        name.to_owned(),
        of.quantiles.count.to_string(),
        ms(of.quantiles.mean),
        with(of.quantiles.p50, of.p50_ci),
        with(of.quantiles.p90, of.p90_ci),
        with(of.quantiles.p99, of.p99_ci),
        with(of.quantiles.p999, of.p999_ci),
        ms(of.quantiles.max),
    ]
}

/// Formats an interval. A missing end is open.
pub fn interval([low, high]: Interval) -> String {
    let end = |value: Option<f64>| value.map_or_else(|| "?".to_owned(), short);
    match (low, high) {
        (None, None) => String::new(),
        (low, high) => format!("{}..{}", end(low), end(high)),
    }
}

/// Formats a number with three significant digits.
fn short(value: f64) -> String {
    let digits = if value >= 100.0 {
        0
    } else if value >= 10.0 {
        1
    } else {
        2
    };
    format!("{value:.digits$}")
}

fn ms(value: Option<f64>) -> String {
    value.map_or_else(|| "–".to_owned(), |v| format!("{v:.2}"))
}

fn percent(value: Option<f64>) -> String {
    value.map_or_else(|| "not reported".to_owned(), |v| format!("{:.1} %", 100.0 * v))
}

fn work(report: &Report, out: &mut String) {
    let (work, cache) = (&report.throughput, &report.cache);
    line!(
        out,
        "work      {:.1} s · {:.3} requests/s · {:.1} output tokens/s · {:.1} tokens/s with prompts",
        work.wall_s,
        work.requests_per_s,
        work.output_tokens_per_s,
        work.total_tokens_per_s
    );
    if let (Some(requests), Some(tokens)) =
        (work.while_offered_requests_per_s, work.while_offered_output_tokens_per_s)
    {
        line!(
            out,
            "          while offered, without the drain: {requests:.3} requests/s · {tokens:.1} \
             output tokens/s"
        );
    }
    let overhead = work.prompt_overhead_tokens.map_or("unknown".to_owned(), |v| format!("{v:+.2}"));
    line!(
        out,
        "tokens    {} prompt (server's count differs by {overhead} a request) · {} output",
        work.prompt_tokens,
        work.output_tokens
    );
    line!(
        out,
        "reuse     ideal {} of prompt tokens, {} in blocks of {} · observed {} · efficiency {}",
        percent(Some(cache.ideal_token_hit)),
        percent(Some(cache.ideal_server_token_hit)),
        cache.server_block_tokens,
        percent(cache.observed_token_hit),
        percent(cache.efficiency)
    );
    if cache.ideal_server_token_hit > 0.0 {
        let sizes: Vec<String> = cache
            .lru_server_token_hit
            .iter()
            .map(|hit| format!("{} {}", hit.blocks, percent(Some(hit.token_hit))))
            .collect();
        line!(out, "          expected of an LRU cache by blocks: {}", sizes.join(" · "));
    }
    if let Some(goodput) = &report.goodput {
        line!(
            out,
            "goodput   {} of {} = {} (95 %: {} to {}) · {:.3} good requests/s",
            goodput.good,
            goodput.offered,
            percent(Some(goodput.attainment)),
            percent(Some(goodput.low)),
            percent(Some(goodput.high)),
            goodput.rps
        );
        for slo in &goodput.per_slo {
            line!(
                out,
                "          {} met by {}, {} missed it alone",
                slo.slo,
                percent(Some(slo.attainment)),
                slo.missed_only_this
            );
        }
        if goodput.failed > 0 {
            line!(out, "          {} failed and count as misses", goodput.failed);
        }
    }
    if let Some(server) = &report.server {
        line!(out, "server    {}", server.words());
    }
    if let Some(cores) = report.client_cpu_cores {
        line!(out, "client    {cores:.2} cores busy");
    }
}

fn stages_table(stages: &StageReport) -> String {
    let groups = stages.groups.iter().map(|g| g.name.as_str());
    let header: Vec<&str> =
        ["stages of TTFT, ms", "p50", "p99"].into_iter().chain(groups).collect();
    let mut table = table(header, 1);
    for (place, name) in stages.names.iter().enumerate() {
        let means = stages.groups.iter().map(|group| group.parts_ms[place]);
        let values = [stages.p50_ms[place], stages.p99_ms[place]].into_iter().chain(means);
        let cells = values.map(|value| format!("{value:.2}"));
        table.add_row(std::iter::once(name.clone()).chain(cells).collect::<Vec<_>>());
    }
    let sums = stages.groups.iter().map(|group| format!("{:.2}", group.ttft_ms));
    let head = ["TTFT, mean of the group", "", ""].map(str::to_owned);
    table.add_row(head.into_iter().chain(sums).collect::<Vec<_>>());
    table.to_string()
}

fn errors(report: &Report) -> String {
    let mut table = table(vec!["error", "count", "first"], 1);
    for error in &report.errors {
        table.add_row(vec![error.class.clone(), error.count.to_string(), error.example.clone()]);
    }
    table.to_string()
}

fn slowest(report: &Report) -> String {
    let mut table =
        table(vec!["slowest by TTFT: trace id", "request", "TTFT ms", "E2E ms", "in", "out"], 1);
    for slow in &report.slowest {
        table.add_row(vec![
            slow.trace_id.clone(),
            slow.index.to_string(),
            format!("{:.2}", slow.ttft_ms),
            format!("{:.2}", slow.e2e_ms),
            slow.input_tokens.to_string(),
            slow.output_tokens.to_string(),
        ]);
    }
    table.to_string()
}

fn verdict(report: &Report, out: &mut String) {
    if report.verdict.valid {
        let failed = match report.counts.failed {
            0 => String::new(),
            failed => format!("; {failed} of {} requests failed", report.counts.offered),
        };
        let limit_ms = report.verdict.lag_limit_us as f64 / 1e3;
        line!(out, "VALID     p99 lag within {limit_ms:.3} ms{failed}");
    }
    for reason in &report.verdict.reasons {
        line!(out, "INVALID   {reason}");
    }
}
