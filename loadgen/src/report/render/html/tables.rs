//! The tables of the page: figures, failures, slow requests, reuse, and the command line.

use super::super::table::{distributions, interval};
use super::{Safe, line, number, table};
use crate::measure::intervals::Interval;
use crate::report::{Mark, Report};
use std::fmt::Write;

/// Writes all tables.
pub(super) fn render(report: &Report, jaeger: Option<&str>, out: &mut String) {
    line!(out, "<h2>Figures</h2><div class=\"card\">");
    figures(report, out);
    line!(out, "</div>");
    if let Some(goodput) = &report.goodput {
        line!(out, "<h2>Goodput by SLO</h2><div class=\"card\">");
        let rows: Vec<Vec<String>> = goodput
            .per_slo
            .iter()
            .map(|slo| {
                let met = format!("{:.2} %", 100.0 * slo.attainment);
                vec![slo.slo.clone(), met, slo.missed_only_this.to_string()]
            })
            .collect();
        let caption = format!(
            "{} of {} requests met all of it, {:.3} a second; {} failed and count as misses",
            goodput.good, goodput.offered, goodput.rps, goodput.failed
        );
        table(&caption, &["SLO", "met by", "missed it alone"], &rows, out);
        line!(out, "</div>");
    }
    line!(out, "<h2>Failures</h2><div class=\"card\">");
    if report.errors.is_empty() {
        line!(out, "<p class=\"empty\">No request failed.</p>");
    } else {
        let rows: Vec<Vec<String>> = report
            .errors
            .iter()
            .map(|e| vec![e.class.clone(), e.count.to_string(), e.example.clone()])
            .collect();
        table(
            "By class, with what was said of the first",
            &["class", "requests", "example"],
            &rows,
            out,
        );
    }
    line!(out, "</div><h2>Slowest requests</h2><div class=\"card\">");
    slowest(report, jaeger, out);
    line!(out, "</div><h2>Prefix cache</h2><div class=\"card\">");
    cache(report, out);
    line!(out, "</div>");
    marks(&report.marks, out);
    workload(report, out);
    line!(out, "<h2>How the figures are computed</h2><div class=\"card\"><ul>");
    for formula in &report.formulas {
        line!(out, "<li>{}</li>", Safe(formula));
    }
    line!(out, "</ul></div>");
}

fn figures(report: &Report, out: &mut String) {
    line!(out, "<div class=\"scroll\"><table><caption>Milliseconds, with 95 % intervals</caption>");
    line!(out, "<thead><tr><th scope=\"col\"></th>");
    for name in ["requests", "p50", "p90", "p99", "p99.9", "max", "mean"] {
        line!(out, "<th scope=\"col\">{name}</th>");
    }
    line!(out, "</tr></thead><tbody>");
    for (name, of) in distributions(report) {
        let with = |value: Option<f64>, ends: Interval| {
            format!("<td>{}<small>{}</small></td>", number(value), Safe(interval(ends)))
        };
        line!(
            out,
            "<tr><th scope=\"row\">{name}</th><td>{}</td>{}{}{}{}<td>{}</td><td>{}</td></tr>",
            of.quantiles.count,
            with(of.quantiles.p50, of.p50_ci),
            with(of.quantiles.p90, of.p90_ci),
            with(of.quantiles.p99, of.p99_ci),
            with(of.quantiles.p999, of.p999_ci),
            number(of.quantiles.max),
            number(of.quantiles.mean)
        );
    }
    line!(out, "</tbody></table></div>");
}

fn slowest(report: &Report, jaeger: Option<&str>, out: &mut String) {
    if report.slowest.is_empty() {
        line!(out, "<p class=\"empty\">No request was answered.</p>");
        return;
    }
    line!(out, "<div class=\"scroll\"><table><caption>By time to first token</caption><thead><tr>");
    for name in ["trace", "request", "due, s", "TTFT ms", "E2E ms", "prompt", "output"] {
        line!(out, "<th scope=\"col\">{name}</th>");
    }
    line!(out, "</tr></thead><tbody>");
    // Only web addresses are allowed, because other URLs may be scripts.
    let base = jaeger
        .filter(|url| url.starts_with("http://") || url.starts_with("https://"))
        .map(|url| url.trim_end_matches('/'));
    for slow in &report.slowest {
        let trace = match base {
            Some(base) => format!(
                "<a href=\"{}/trace/{}\"><code>{}</code></a>",
                Safe(base),
                Safe(&slow.trace_id),
                Safe(&slow.trace_id)
            ),
            None => format!("<code>{}</code>", Safe(&slow.trace_id)),
        };
        line!(
            out,
            "<tr><td>{trace}</td><td><code>{}</code></td><td>{:.2}</td><td>{:.2}</td><td>{:.2}</td>\
             <td>{}</td><td>{}</td></tr>",
            Safe(&slow.request_id),
            slow.at_s,
            slow.ttft_ms,
            slow.e2e_ms,
            slow.input_tokens,
            slow.output_tokens
        );
    }
    line!(out, "</tbody></table></div>");
}

fn cache(report: &Report, out: &mut String) {
    let cache = &report.cache;

    let rows = [
        ("ideal, by blocks of the trace", Some(cache.ideal_block_hit)),
        ("ideal, by prompt tokens", Some(cache.ideal_token_hit)),
        ("ideal in the server's blocks", Some(cache.ideal_server_token_hit)),
        ("observed, by the server's count", cache.observed_token_hit),
        ("efficiency: observed over ideal in the server's blocks", cache.efficiency),
    ];
    let rows = rows.map(|(name, part)| {
        let percent = part.map(|part| format!("{:.2} %", 100.0 * part));
        vec![name.to_owned(), percent.unwrap_or_else(|| "not reported".to_owned())]
    });
    let caption =
        format!("Expected against observed hits; server blocks of {}", cache.server_block_tokens);
    table(&caption, &["", "hits"], &rows, out);
}

fn marks(marks: &[Mark], out: &mut String) {
    if marks.is_empty() {
        return;
    }
    line!(out, "<h2>What happened beside the load</h2><div class=\"card\">");
    let rows: Vec<Vec<String>> = marks
        .iter()
        .map(|mark| {
            let status = mark.status.clone().unwrap_or_default();
            vec![mark.text.clone(), format!("{:.2}", mark.at_s), status, mark.output.clone()]
        })
        .collect();
    table("Marked on every axis of time", &["", "at, s", "ended", "printed"], &rows, out);
    line!(out, "</div>");
}

fn workload(report: &Report, out: &mut String) {
    let (load, window) = (&report.workload, &report.window);
    line!(out, "<h2>Workload</h2><div class=\"card\"><dl>");
    let context = load.context_tokens.map_or("unknown".to_owned(), |n| format!("{n} tokens"));
    let oddities = match report.counting.oddities().join("; ") {
        none if none.is_empty() => "nothing".to_owned(),
        some => some,
    };
    for (name, value) in [
        ("run again with", load.command.clone()),
        ("seed", load.seed.to_string()),
        ("schedule", load.schedule_digest.clone()),
        ("requests", load.source.clone()),
        ("prompts", load.prompts.clone()),
        ("model", load.model.clone()),
        ("context", context),
        ("chunks with text", report.counting.fields()),
        ("answers ended by", report.counting.reasons()),
        ("out of the ordinary", oddities),
        (
            "window",
            format!(
                "{} requests from {:.2} to {:.2} s; warm-up {}: {} requests left out; drain {:.2} s",
                window.measured_requests,
                window.from_s,
                window.to_s,
                window.warmup,
                window.warmup_requests,
                window.drain_s
            ),
        ),
    ] {
        line!(out, "<dt>{name}</dt><dd><code>{}</code></dd>", Safe(value));
    }
    line!(out, "</dl></div>");
}
