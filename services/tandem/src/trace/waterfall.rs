//! One request as a waterfall in text: stages as bars with attributes, and gaps by name. Pure.

use std::fmt::Write as _;

use chassis::telemetry::names::{self, event, stage, tandem};

use super::span::Span;

/// Attributes worth a place behind the bar, and how they are called there.
const SHOWN: [(&str, &str); 16] = [
    (tandem::ATTEMPT, "attempt"),
    (tandem::TOKENS, "tokens"),
    (tandem::ROUTE_CHOSEN, "chosen"),
    (tandem::ROUTE_PARTS, "price ms"),
    (tandem::BROKER_WAIT_MS, "broker ms"),
    (tandem::ANSWER, "answer"),
    (tandem::LOST_REASON, "because"),
    (tandem::ENDED, "ended"),
    (tandem::COMPUTED_TOKENS, "computed"),
    (tandem::CACHED_TOKENS, "cached"),
    (tandem::TIER, "tier"),
    (tandem::CHUNKS, "chunks"),
    (tandem::BLOCKS, "blocks"),
    (tandem::BYTES, "bytes"),
    (tandem::PATH, "path"),
    (tandem::OUTPUT_TOKENS, "output tokens"),
];
/// The share of a request below which a gap is not shown, if it is below [`GAP_MS`], too.
const GAP_SHARE: f64 = 0.01;
const GAP_MS: f64 = 0.2;
const NAME_WIDTH: usize = 44;
const BAR_WIDTH_MIN: usize = 16;

/// A request's trace, and the steps that it shared with others.
pub(super) struct Request<'a> {
    pub(super) spans: &'a [Span],
    /// Steps of other traces that this one links to.
    pub(super) steps: &'a [Span],
}

/// The span that everything is below; the earliest where several have no parent here.
pub(super) fn root(spans: &[Span]) -> Option<&Span> {
    let tops = spans.iter().filter(|span| spans.iter().all(|other| other.id != span.parent));
    tops.min_by_key(|span| {
        let named = super::jaeger::OPERATIONS.contains(&span.name.as_str());
        (!named, span.start_ns)
    })
}

/// The waterfall, `width` columns wide.
pub(super) fn draw(request: &Request<'_>, width: usize) -> String {
    let Some(root) = root(request.spans) else { return "an empty trace".to_owned() };
    let mut text = header(root);
    let scale = Scale {
        start_ns: root.start_ns,
        end_ns: request.spans.iter().map(|span| span.end_ns).max().unwrap_or(root.end_ns),
        width: width.saturating_sub(NAME_WIDTH + 22).max(BAR_WIDTH_MIN),
    };
    rows(&mut text, request.spans, root, &scale, 0);
    text += &sums(request.spans, root);
    for gap in gaps(request.spans, root) {
        let _ = writeln!(text, "{gap}");
    }
    for step in request.steps {
        let _ = writeln!(text, "{}", shared(step));
    }
    text
}

fn header(root: &Span) -> String {
    let mut text = format!(
        "{}  status {}  request {}  trace {}\n",
        root.name,
        root.attribute(names::HTTP_RESPONSE_STATUS_CODE),
        root.attribute(tandem::REQUEST_ID),
        root.trace_id
    );
    let usage = [
        ("model", names::GEN_AI_REQUEST_MODEL),
        ("prompt tokens", names::GEN_AI_USAGE_INPUT_TOKENS),
        ("cached", names::GEN_AI_USAGE_CACHE_READ_INPUT_TOKENS),
        ("output tokens", names::GEN_AI_USAGE_OUTPUT_TOKENS),
        ("load run", tandem::RUN_ID),
    ];
    for (label, key) in usage.into_iter().filter(|(_, key)| !root.attribute(key).is_empty()) {
        let _ = write!(text, "{label} {}  ", root.attribute(key));
    }
    if let Some(ttft) = root.number(tandem::TTFT_MS) {
        let _ = write!(text, "TTFT {ttft:.2} ms  ");
    }
    let _ = writeln!(text, "in all {:.2} ms", root.ms());
    if let Some(error) = &root.error {
        let _ = writeln!(text, "FAILED ({}): {error}", root.attribute(names::ERROR_TYPE));
    }
    let cancelled = root.events.iter().any(|it| it.name == event::CLIENT_GONE);
    if cancelled {
        text += "cancelled: the client went away\n";
    }
    text
}

struct Scale {
    start_ns: u64,
    end_ns: u64,
    width: usize,
}

impl Scale {
    /// The bar of a span: at least one cell, so that nothing is invisible.
    fn bar(&self, span: &Span) -> String {
        let whole = self.end_ns.saturating_sub(self.start_ns).max(1) as f64;
        let cell = |at: u64| {
            let share = at.saturating_sub(self.start_ns) as f64 / whole;
            (share * self.width as f64).round() as usize
        };
        let from = cell(span.start_ns).min(self.width - 1);
        let to = cell(span.end_ns).clamp(from + 1, self.width);
        format!("{}{}{}", " ".repeat(from), "█".repeat(to - from), " ".repeat(self.width - to))
    }
}

fn rows(text: &mut String, spans: &[Span], span: &Span, scale: &Scale, depth: usize) {
    let offset_ms = span.start_ns.saturating_sub(scale.start_ns) as f64 / 1e6;
    let name = format!("{:indent$}{} {}", "", span.service, span.name, indent = 2 * depth);
    let name: String = name.chars().take(NAME_WIDTH).collect();
    let _ = writeln!(
        text,
        "{name:<NAME_WIDTH$} {offset_ms:>9.2} {:>9.2} {} {}",
        span.ms(),
        scale.bar(span),
        notes(span).trim_end(),
    );
    // A trace cannot nest deeper than its spans are many.
    if depth < 16 {
        for child in spans.iter().filter(|child| child.parent == span.id && child.id != span.id) {
            rows(text, spans, child, scale, depth + 1);
        }
    }
}

fn notes(span: &Span) -> String {
    let mut notes = String::new();
    if span.parent.is_empty() || super::jaeger::OPERATIONS.contains(&span.name.as_str()) {
        return notes;
    }
    if !span.instance.is_empty() && span.service != "gateway" {
        let _ = write!(notes, "on {}  ", span.instance);
    }
    for (key, label) in SHOWN {
        let value = span.attribute(key);
        let first_attempt = key == tandem::ATTEMPT && value == "0";
        if !value.is_empty() && !first_attempt {
            let _ = write!(notes, "{label} {}  ", short(value));
        }
    }
    if let Some(error) = &span.error {
        let _ = write!(notes, "ERROR {error}  ");
    }
    for happened in span.events.iter().filter(|it| it.name != event::TOKENS) {
        let at_ms = happened.at_ns.saturating_sub(span.start_ns) as f64 / 1e6;
        let _ = write!(notes, "! {} at +{at_ms:.2}  ", happened.name);
    }
    notes
}

/// A number with a fraction is not worth its last digits.
fn short(value: &str) -> String {
    match value.parse::<f64>() {
        Ok(number) if value.contains('.') => format!("{number:.2}"),
        _ => value.to_owned(),
    }
}

/// Returns a line that compares the sum of the stages to the first token with the TTFT.
fn sums(spans: &[Span], root: &Span) -> String {
    let Some(ttft_ms) = root.number(tandem::TTFT_MS) else { return String::new() };
    let sum_ms: f64 = to_first_token(spans, root, ttft_ms).map(Span::ms).sum();
    let off = 100.0 * (sum_ms - ttft_ms).abs() / ttft_ms.max(1e-9);
    format!("stages to the first token: {sum_ms:.2} ms of {ttft_ms:.2} ms (off by {off:.1} %)\n")
}

fn to_first_token<'a>(
    spans: &'a [Span],
    root: &'a Span,
    ttft_ms: f64,
) -> impl Iterator<Item = &'a Span> {
    let until = root.start_ns + (ttft_ms * 1e6) as u64;
    spans.iter().filter(move |span| {
        let known = stage::TO_FIRST_TOKEN.contains(&span.name.as_str()) && span.parent == root.id;
        let lost = !span.attribute(tandem::ENDED).is_empty();
        known && span.start_ns <= until && !lost
    })
}

/// Returns the intervals that no stage of the request covers.
fn gaps(spans: &[Span], root: &Span) -> Vec<String> {
    let least_ms = (GAP_SHARE * root.ms()).max(GAP_MS);
    let mut children: Vec<&Span> = spans.iter().filter(|span| span.parent == root.id).collect();
    children.sort_by_key(|span| span.start_ns);
    let mut gaps = Vec::new();
    let (mut reached, mut last) = (root.start_ns, "the request's arrival");
    let end = (root.end_ns, "the request's end");
    let starts = children.iter().map(|span| (span.start_ns, span.name.as_str()));
    let ends = children.iter().map(|span| span.end_ns).chain([root.end_ns]);
    for ((start, next), ended) in starts.chain([end]).zip(ends) {
        let gap_ms = start.saturating_sub(reached) as f64 / 1e6;
        if least_ms < gap_ms {
            gaps.push(format!(
                "gap: {gap_ms:.2} ms between {last} and {next} that no stage claims"
            ));
        }
        if reached < ended {
            (reached, last) = (ended, next);
        }
    }
    gaps
}

fn shared(step: &Span) -> String {
    format!(
        "in a {} on {}: {} sequences, {} prompt tokens, {} generating, {:.2} ms ({} in the model), trace {}",
        step.name,
        step.instance,
        step.attribute(tandem::BATCH),
        step.attribute(tandem::PREFILL_TOKENS),
        step.attribute(tandem::DECODE_SEQUENCES),
        step.ms(),
        step.number(tandem::FORWARD_MS).map_or_else(String::new, |ms| format!("{ms:.2} ms")),
        step.trace_id
    )
}

#[cfg(test)]
mod tests {
    use super::super::span::parse;
    use super::*;

    fn spans(fixture: &str) -> Vec<Span> {
        parse(fixture).unwrap().into_values().next().unwrap()
    }

    #[test]
    fn a_retried_request_reads_as_one() {
        let spans = spans(include_str!("fixtures/retried.json"));
        let text = draw(&Request { spans: &spans, steps: &[] }, 120);
        println!("{text}");
        for wanted in ["lost_attempt", "because", "! retried at", "attempt 1", "status 200"] {
            assert!(text.contains(wanted), "{wanted}:\n{text}");
        }
        assert!(!text.contains("FAILED") && !text.contains("the client went away"), "{text}");
        let off = text.split("off by ").nth(1).unwrap().split(' ').next().unwrap();
        assert!(off.parse::<f64>().unwrap() <= 2.0, "{text}");
        assert!(!text.contains("gap:"), "{text}");
    }

    #[test]
    fn a_cancelled_request_is_no_failed_one() {
        let spans = spans(include_str!("fixtures/cancelled.json"));
        let text = draw(&Request { spans: &spans, steps: &[] }, 120);
        assert!(text.contains("cancelled: the client went away"), "{text}");
        assert!(text.contains("! cancelled at") && !text.contains("FAILED"), "{text}");
    }

    #[test]
    fn what_no_stage_claims_is_a_gap_with_two_ends() {
        let mut spans = spans(include_str!("fixtures/retried.json"));
        spans.retain(|span| span.name != "prefill.compute");
        let text = draw(&Request { spans: &spans, steps: &[] }, 100);
        assert!(text.contains("between prefill.kv_fetch and"), "{text}");
        assert!(text.contains("that no stage claims"), "{text}");
    }

    #[test]
    fn steps_say_what_was_shared() {
        let spans = spans(include_str!("fixtures/retried.json"));
        let mut step = Span { name: "decode step".to_owned(), ..Span::default() };
        step.attributes.insert(tandem::BATCH.to_owned(), "8".to_owned());
        step.instance = "d1".to_owned();
        let text = draw(&Request { spans: &spans, steps: &[step] }, 100);
        assert!(text.contains("in a decode step on d1: 8 sequences"), "{text}");
    }

    #[test]
    fn bars_stay_in_their_column() {
        let scale = Scale { start_ns: 100, end_ns: 200, width: 20 };
        for (start_ns, end_ns) in [(100, 100), (0, 50), (150, 160), (199, 300), (300, 400)] {
            let bar = scale.bar(&Span { start_ns, end_ns, ..Span::default() });
            assert_eq!(bar.chars().count(), 20, "{start_ns}..{end_ns}");
            assert!(bar.contains('█'));
        }
    }
}
