//! Spans as a test wants to see them, and the tree they form.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, Span, span, status};
use protocol::hex;

/// The role of a span.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpanKind {
    /// Work inside one process.
    Internal,
    /// The answering side of a request.
    Server,
    /// The asking side of a request.
    Client,
    /// Creation of a message.
    Producer,
    /// Processing of a message.
    Consumer,
    /// The sender did not say.
    Unspecified,
}

/// Something that happened at one moment of a span.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpanEvent {
    /// Name of the event.
    pub name: String,
    /// Nanoseconds since 1970.
    pub at_ns: u64,
    /// Its attributes, as text.
    pub attributes: BTreeMap<String, String>,
}

/// One finished span, with its ids in lower-case hexadecimal and its attributes as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpanRecord {
    /// The trace it belongs to.
    pub trace_id: String,
    /// Its own id.
    pub span_id: String,
    /// Its parent's id, unless it is a root.
    pub parent_span_id: Option<String>,
    /// Its name.
    pub name: String,
    /// `service.name` of the process that recorded it.
    pub service: String,
    /// `service.instance.id` of that process.
    pub instance: String,
    /// Its role.
    pub kind: SpanKind,
    /// Its beginning, in nanoseconds since 1970.
    pub start_ns: u64,
    /// Its end, in nanoseconds since 1970.
    pub end_ns: u64,
    /// Its attributes, as text.
    pub attributes: BTreeMap<String, String>,
    /// Events during it.
    pub events: Vec<SpanEvent>,
    /// The span ids it links to.
    pub links: Vec<String>,
    /// The error message, if its status is error.
    pub error: Option<String>,
}

impl SpanRecord {
    /// Returns its duration in milliseconds.
    pub fn duration_ms(&self) -> f64 {
        self.end_ns.saturating_sub(self.start_ns) as f64 / 1e6
    }

    pub(crate) fn all_of(group: ResourceSpans) -> Vec<Self> {
        let resource = text_map(group.resource.map(|one| one.attributes).unwrap_or_default());
        let attribute = |name: &str| resource.get(name).cloned().unwrap_or_default();
        let (service, instance) = (attribute("service.name"), attribute("service.instance.id"));
        let spans = group.scope_spans.into_iter().flat_map(|scope| scope.spans);
        spans.map(|span| Self::new(span, &service, &instance)).collect()
    }

    fn new(span: Span, service: &str, instance: &str) -> Self {
        Self {
            kind: kind_of(span.kind()),
            trace_id: hex(&span.trace_id),
            span_id: hex(&span.span_id),
            parent_span_id: Some(hex(&span.parent_span_id)).filter(|id| !id.is_empty()),
            name: span.name,
            service: service.to_owned(),
            instance: instance.to_owned(),
            start_ns: span.start_time_unix_nano,
            end_ns: span.end_time_unix_nano,
            attributes: text_map(span.attributes),
            events: span.events.into_iter().map(event_of).collect(),
            links: span.links.iter().map(|link| hex(&link.span_id)).collect(),
            error: span
                .status
                .filter(|it| it.code() == status::StatusCode::Error)
                .map(|it| it.message),
        }
    }
}

fn event_of(event: span::Event) -> SpanEvent {
    SpanEvent {
        name: event.name,
        at_ns: event.time_unix_nano,
        attributes: text_map(event.attributes),
    }
}

fn kind_of(kind: span::SpanKind) -> SpanKind {
    match kind {
        span::SpanKind::Internal => SpanKind::Internal,
        span::SpanKind::Server => SpanKind::Server,
        span::SpanKind::Client => SpanKind::Client,
        span::SpanKind::Producer => SpanKind::Producer,
        span::SpanKind::Consumer => SpanKind::Consumer,
        span::SpanKind::Unspecified => SpanKind::Unspecified,
    }
}

fn text_map(attributes: Vec<KeyValue>) -> BTreeMap<String, String> {
    attributes.into_iter().map(|pair| (pair.key, text(pair.value))).collect()
}

fn text(value: Option<AnyValue>) -> String {
    match value.and_then(|value| value.value) {
        None => String::new(),
        Some(any_value::Value::StringValue(text)) => text,
        Some(any_value::Value::BoolValue(value)) => value.to_string(),
        Some(any_value::Value::IntValue(value)) => value.to_string(),
        Some(any_value::Value::DoubleValue(value)) => value.to_string(),
        Some(any_value::Value::ArrayValue(array)) => {
            array.values.into_iter().map(|value| text(Some(value))).collect::<Vec<_>>().join(",")
        }
        Some(other) => format!("{other:?}"),
    }
}

/// The spans of one trace, arranged by parent; its `Display` draws the tree.
#[derive(Debug, Clone, Default)]
pub struct TraceTree {
    spans: Vec<SpanRecord>,
}

impl TraceTree {
    /// Arranges spans, in order of their beginning.
    pub fn new(mut spans: Vec<SpanRecord>) -> Self {
        spans.sort_by_key(|span| (span.start_ns, span.end_ns));
        Self { spans }
    }

    /// Returns all spans, in order of their beginning.
    pub fn spans(&self) -> &[SpanRecord] {
        &self.spans
    }

    /// Returns the spans without a parent.
    pub fn roots(&self) -> Vec<&SpanRecord> {
        self.spans.iter().filter(|span| span.parent_span_id.is_none()).collect()
    }

    /// Returns the spans that name a parent which is not here.
    pub fn orphans(&self) -> Vec<&SpanRecord> {
        let ids: BTreeSet<&str> = self.spans.iter().map(|span| span.span_id.as_str()).collect();
        let parented = self.spans.iter().filter(|span| span.parent_span_id.is_some());
        parented
            .filter(|span| !span.parent_span_id.as_deref().is_some_and(|id| ids.contains(id)))
            .collect()
    }

    /// Returns the direct children of a span, in order of their beginning.
    pub fn children(&self, span_id: &str) -> Vec<&SpanRecord> {
        self.spans.iter().filter(|span| span.parent_span_id.as_deref() == Some(span_id)).collect()
    }

    /// Returns all spans with this name, in order of their beginning.
    pub fn named(&self, name: &str) -> Vec<&SpanRecord> {
        self.spans.iter().filter(|span| span.name == name).collect()
    }

    fn draw(&self, f: &mut fmt::Formatter<'_>, span: &SpanRecord, depth: usize) -> fmt::Result {
        let origin = self.spans.first().map_or(0, |first| first.start_ns);
        let offset_ms = span.start_ns.saturating_sub(origin) as f64 / 1e6;
        let label = format!("{:indent$}{} {}", "", span.service, span.name, indent = depth * 2);
        writeln!(f, "{label:<48} +{offset_ms:9.3} ms {:10.3} ms", span.duration_ms())?;
        if depth < 32 {
            for child in self.children(&span.span_id) {
                self.draw(f, child, depth + 1)?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for TraceTree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for root in self.roots().into_iter().chain(self.orphans()) {
            self.draw(f, root, 0)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(id: u8, parent: Option<u8>, name: &str, start_ns: u64) -> SpanRecord {
        let sent = Span {
            trace_id: vec![0xab; 16],
            span_id: vec![id; 8],
            parent_span_id: parent.map(|parent| vec![parent; 8]).unwrap_or_default(),
            name: name.to_owned(),
            start_time_unix_nano: start_ns,
            end_time_unix_nano: start_ns + 2_000_000,
            ..Span::default()
        };
        SpanRecord::new(sent, "service", "instance")
    }

    #[test]
    fn roots_children_and_orphans_are_distinguished() {
        let tree = TraceTree::new(vec![
            span(3, Some(1), "late", 30),
            span(2, Some(1), "early", 20),
            span(1, None, "root", 10),
            span(9, Some(7), "orphan", 40),
        ]);
        let names = |spans: Vec<&SpanRecord>| {
            spans.into_iter().map(|span| span.name.clone()).collect::<Vec<_>>()
        };
        assert_eq!(names(tree.roots()), ["root"]);
        assert_eq!(names(tree.orphans()), ["orphan"]);
        assert_eq!(names(tree.children(&"01".repeat(8))), ["early", "late"]);
        assert_eq!(names(tree.named("late")), ["late"]);
        assert_eq!(tree.spans()[0].trace_id, "ab".repeat(16));
        let drawn = tree.to_string();
        assert_eq!(drawn.lines().count(), 4, "{drawn}");
        assert!(drawn.contains("\n  service early"), "{drawn}");
    }
}
