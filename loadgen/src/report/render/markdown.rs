//! The report as Markdown, for pull requests and notes.

use std::fmt::Write;

use traces::text::line;

use super::table::{distributions, interval};
use crate::report::Report;
use crate::report::render::search::{conclusion, word};
use crate::report::search::SearchReport;

/// Renders the report of a run.
pub fn render(report: &Report) -> String {
    let mut out = String::new();
    let load = &report.workload;
    line!(
        out,
        "## Load on {} ({})\n",
        cell(&load.model),
        if report.verdict.valid { "valid" } else { "INVALID" }
    );
    for reason in &report.verdict.reasons {
        line!(out, "- **INVALID**: {}", cell(&reason.to_string()));
    }
    line!(out, "- {} · seed {} · run {}", cell(&load.source), load.seed, cell(&load.run_id));
    for warning in &load.warnings {
        line!(out, "- warning: {}", cell(warning));
    }
    let (counts, schedule) = (&report.counts, &report.schedule);
    line!(
        out,
        "- offered {:.3}/s, achieved {:.3}/s · {} completed, {} failed, {} cancelled · measured {}",
        schedule.offered_rps,
        schedule.achieved_rps,
        counts.completed,
        counts.failed,
        counts.cancelled,
        report.window.measured_requests
    );
    let counting = &report.counting;
    line!(
        out,
        "- chunks with text: {} · answers ended by: {}",
        cell(&counting.fields()),
        cell(&counting.reasons())
    );
    if let Some(server) = &report.server {
        line!(out, "- server: {}", cell(&server.words()));
    }
    for oddity in counting.oddities() {
        line!(out, "- {}", cell(&oddity));
    }
    if let Some(goodput) = &report.goodput {
        let slos: Vec<&str> = goodput.per_slo.iter().map(|slo| slo.slo.as_str()).collect();
        line!(
            out,
            "- goodput ({}) {:.1} % (95 %: {:.1} to {:.1}), {:.3} good requests/s",
            slos.join(", "),
            100.0 * goodput.attainment,
            100.0 * goodput.low,
            100.0 * goodput.high,
            goodput.rps
        );
    }
    if let Some(search) = &report.search {
        searched(search, &mut out);
    }
    latencies(report, &mut out);
    if let Some(stages) = &report.stages {
        line!(out, "\n| stage of TTFT, ms | p50 | p99 |\n|---|---:|---:|");
        for (place, name) in stages.names.iter().enumerate() {
            line!(
                out,
                "| {} | {:.2} | {:.2} |",
                cell(name),
                stages.p50_ms[place],
                stages.p99_ms[place]
            );
        }
    }
    if !report.errors.is_empty() {
        line!(out, "\n| error | count | first |\n|---|---:|---|");
        for error in &report.errors {
            line!(out, "| {} | {} | {} |", cell(&error.class), error.count, cell(&error.example));
        }
    }
    out
}

fn searched(search: &SearchReport, out: &mut String) {
    line!(out, "\n**{}**\n", cell(&conclusion(search)));
    let names: Vec<String> = search.asked.iter().map(|asked| cell(&asked.to_string())).collect();
    line!(out, "| requests/s | n | {} | judgement |", names.join(" | "));
    line!(out, "|---:|---:|{}---|", "---:|".repeat(names.len()));
    for probe in &search.probes {
        let kept: Vec<String> = probe
            .attained
            .iter()
            .map(|a| {
                let percent = [a.part, a.low, a.high].map(|part| 100.0 * part);
                format!("{:.2} % ({:.1}..{:.1})", percent[0], percent[1], percent[2])
            })
            .collect();
        let (rate, n) = (probe.rate, probe.requests);
        line!(out, "| {rate:.3} | {n} | {} | {} |", kept.join(" | "), word(probe));
    }
    line!(out, "\nThe run at the highest held rate:");
}

fn latencies(report: &Report, out: &mut String) {
    line!(out, "\n| ms | n | p50 (95 %) | p90 (95 %) | p99 (95 %) | p99.9 | max | mean |");
    line!(out, "|---|---:|---:|---:|---:|---:|---:|---:|");
    let number = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), |v| format!("{v:.2}"));
    for (name, of) in distributions(report) {
        let with = |(value, ends)| format!("{} ({})", number(value), interval(ends));
        line!(
            out,
            "| {name} | {} | {} | {} | {} | {} | {} | {} |",
            of.quantiles.count,
            with((of.quantiles.p50, of.p50_ci)),
            with((of.quantiles.p90, of.p90_ci)),
            with((of.quantiles.p99, of.p99_ci)),
            number(of.quantiles.p999),
            number(of.quantiles.max),
            number(of.quantiles.mean)
        );
    }
}

/// Escapes text of a server for a table cell.
fn cell(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\r' => safe.push(' '),
            '|' | '<' | '>' | '*' | '_' | '`' | '[' | ']' | '\\' => {
                safe.push('\\');
                safe.push(c);
            }
            c => safe.push(c),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_text_stays_in_its_cell() {
        assert_eq!(cell("a|b\n<img> [x](y)"), "a\\|b \\<img\\> \\[x\\](y)");
    }
}
