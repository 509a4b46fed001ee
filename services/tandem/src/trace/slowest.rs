//! The requests worth a look, worst first, as a table. Pure.

use std::collections::BTreeMap;

use chassis::telemetry::names::{self, event, stage, tandem};
use comfy_table::{CellAlignment, Table, presets};

use super::span::Span;
use super::waterfall::root;

/// With those up to the first token, the stages that follow one another: others run beside them and
/// wait for them.
const AFTER: [&str; 2] = [stage::DECODE_FIRST_STEP, stage::DECODE_GENERATE];

/// One request of the table.
#[derive(Clone, Debug, PartialEq)]
struct Row {
    whole_ms: f64,
    ttft_ms: Option<f64>,
    status: String,
    tokens: String,
    /// The longest stage, with its share of the time.
    longest: String,
    remarks: Vec<&'static str>,
    request: String,
    trace: String,
}

/// The `count` slowest requests of these traces.
pub(super) fn table(traces: &BTreeMap<String, Vec<Span>>, count: usize) -> String {
    let mut rows: Vec<Row> = traces.values().filter_map(|spans| row(spans)).collect();
    rows.sort_by(|one, other| other.whole_ms.total_cmp(&one.whole_ms));
    let found = rows.len();
    let mut table = Table::new();
    let header = [
        "in all ms",
        "TTFT ms",
        "status",
        "tokens",
        "longest stage",
        "remarks",
        "request",
        "trace",
    ];
    table.load_style(presets::NOTHING).set_header(header);
    for row in rows.into_iter().take(count) {
        let ttft = row.ttft_ms.map_or_else(String::new, |ms| format!("{ms:.2}"));
        let whole = format!("{:.2}", row.whole_ms);
        let remarks = row.remarks.join(", ");
        table.add_row([
            whole,
            ttft,
            row.status,
            row.tokens,
            row.longest,
            remarks,
            row.request,
            row.trace,
        ]);
    }
    for column in table.column_iter_mut().take(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    format!("{table}\n{} of {found} requests; `tandem trace REQUEST` shows one", count.min(found))
}

fn row(spans: &[Span]) -> Option<Row> {
    let root = root(spans)?;
    if root.attribute(names::HTTP_ROUTE).is_empty() {
        return None;
    }
    let attribute = |key: &str| root.attribute(key).to_owned();
    let stages = spans.iter().filter(|span| {
        let mut names = stage::TO_FIRST_TOKEN.iter().chain(&AFTER);
        span.parent == root.id && names.any(|name| *name == span.name)
    });
    let longest = stages.max_by_key(|span| span.end_ns.saturating_sub(span.start_ns))?;
    let share = 100.0 * longest.ms() / root.ms().max(1e-9);
    let lost_attempt = spans.iter().any(|span| span.name == stage::LOST_ATTEMPT);
    let happened =
        |name: &str| spans.iter().any(|span| span.events.iter().any(|event| event.name == name));
    let remarks = [
        (root.error.is_some(), "failed"),
        (lost_attempt, "went on elsewhere"),
        (happened(event::CLIENT_GONE), "cancelled"),
        (happened(event::SLO_MISSED), "missed its SLO"),
        (happened(event::PREEMPTED), "preempted"),
    ];
    Some(Row {
        whole_ms: root.ms(),
        ttft_ms: root.number(tandem::TTFT_MS),
        status: attribute(names::HTTP_RESPONSE_STATUS_CODE),
        tokens: format!(
            "{}+{}",
            attribute(names::GEN_AI_USAGE_INPUT_TOKENS),
            attribute(names::GEN_AI_USAGE_OUTPUT_TOKENS)
        ),
        longest: format!("{} {share:.0} %", longest.name),
        remarks: remarks.into_iter().filter(|(is, _)| *is).map(|(_, text)| text).collect(),
        request: attribute(tandem::REQUEST_ID),
        trace: root.trace_id.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::super::span::parse;
    use super::*;

    #[test]
    fn the_slowest_come_first_with_what_is_remarkable() {
        let mut traces = parse(include_str!("fixtures/retried.json")).unwrap();
        traces.extend(parse(include_str!("fixtures/cancelled.json")).unwrap());
        let all = table(&traces, 10);
        println!("{all}");
        assert!(all.contains("went on elsewhere") && all.contains("cancelled"), "{all}");
        assert!(all.contains("2 of 2 requests"), "{all}");
        let one = table(&traces, 1);
        assert!(one.contains("1 of 2 requests"), "{one}");
        let slowest = traces.values().filter_map(|spans| row(spans));
        let slowest = slowest.max_by(|a, b| a.whole_ms.total_cmp(&b.whole_ms)).unwrap();
        assert!(one.contains(&slowest.trace), "{one}");
    }

    #[test]
    fn what_is_no_request_has_no_row() {
        assert_eq!(row(&[Span { name: "decode step".to_owned(), ..Span::default() }]), None);
    }
}
