//! Reports the figures of the path as a table and as JSON.

use serde_json::{Value, json};

use super::{Case, IdleUsage};
use crate::figures::plain;
use crate::fleet::KINDS;
use crate::load::{OUTPUT_TOKENS, PROMPT_WORDS};

/// Renders the table.
pub(super) fn table(cases: &[Case], idle: &[IdleUsage], routing: &[(usize, f64)]) -> String {
    let figures = ["workers", "in flight", "req/s", "TTFT p50", "p99", "E2E p50", "p99", "CPU ms"];
    let header = figures.into_iter().chain(KINDS).chain(["messages", "kB"]);
    let mut table = plain(header);
    for case in cases {
        let mut row = vec![
            format!("{0}+{0}", case.workers),
            case.concurrency.to_string(),
            format!("{:.0}", case.requests_per_s),
        ];
        let times = case.ttft_ms.iter().chain(&case.e2e_ms);
        row.extend(times.map(|ms| format!("{ms:.2}")));
        row.push(format!("{:.2}", case.cpu_ms()));
        row.extend(KINDS.map(|kind| format!("{:.2}", case.cpu_ms[kind])));
        row.push(format!("{:.0}", case.messages));
        row.push(format!("{:.1}", case.bytes / 1e3));
        table.add_row(row);
    }
    let mut text = format!(
        "{PROMPT_WORDS}-word prompts, {OUTPUT_TOKENS} tokens streamed, engines that cost nothing; \
         times in ms; CPU per request: all processes but the client, then each\n\n{table}\n"
    );
    for IdleUsage { workers, cpu_percent, resident_mb } in idle {
        text += &format!(
            "\nidle, {workers}+{workers} workers: each {cpu_percent:.2} % of a core, \
             {resident_mb:.1} MB resident"
        );
    }
    for (workers, us) in routing {
        text += &format!("\nrouting alone, {workers} workers: {us:.2} us a decision");
    }
    text
}

/// Renders the JSON.
pub(super) fn json(cases: &[Case], idle: &[IdleUsage], routing: &[(usize, f64)]) -> Value {
    let case = |case: &Case| {
        json!({
            "workers": case.workers,
            "concurrency": case.concurrency,
            "requests_per_second": case.requests_per_s,
            "ttft_ms": { "p50": case.ttft_ms[0], "p99": case.ttft_ms[1] },
            "e2e_ms": { "p50": case.e2e_ms[0], "p99": case.e2e_ms[1] },
            "cpu_ms_per_request": case.cpu_ms(),
            "cpu_ms_per_request_by_process": case.cpu_ms,
            "messages_per_request": case.messages,
            "bytes_per_request": case.bytes,
        })
    };
    let usage = |usage: &IdleUsage| {
        json!({ "workers": usage.workers, "cpu_percent_per_worker": usage.cpu_percent,
                "resident_mb_per_worker": usage.resident_mb })
    };
    let routing = routing
        .iter()
        .map(|(workers, us)| json!({ "workers": workers, "decision_us": us }))
        .collect::<Vec<_>>();
    json!({
        "prompt_words": PROMPT_WORDS,
        "output_tokens": OUTPUT_TOKENS,
        "path": cases.iter().map(case).collect::<Vec<_>>(),
        "at_rest": idle.iter().map(usage).collect::<Vec<_>>(),
        "routing": routing,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_figure_is_in_table_and_json() {
        let case = Case {
            workers: 4,
            concurrency: 64,
            requests_per_s: 1_234.4,
            ttft_ms: [1.5, 3.25],
            e2e_ms: [9.5, 12.75],
            cpu_ms: KINDS.map(|kind| (kind, 0.25)).into(),
            messages: 51.0,
            bytes: 98_700.0,
        };
        let idle = IdleUsage { workers: 4, cpu_percent: 0.5, resident_mb: 12.5 };
        let text = table(std::slice::from_ref(&case), &[idle], &[(1_000, 9.5)]);
        for figure in ["4+4", "1234", "3.25", "12.75", "1.25", "98.7", "0.50 %", "9.50 us"] {
            assert!(text.contains(figure), "{figure}:\n{text}");
        }
        let json = json(&[case], &[idle], &[(1_000, 9.5)]);
        assert_eq!(json["path"][0]["ttft_ms"]["p99"], 3.25);
        assert_eq!(json["path"][0]["cpu_ms_per_request_by_process"]["nats-server"], 0.25);
        assert_eq!(json["routing"][0]["decision_us"], 9.5);
    }
}
