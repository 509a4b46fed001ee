//! Spans as Jaeger's HTTP API returns them: OTLP in JSON. Pure.

use std::collections::BTreeMap;

use serde_json::Value;

/// One finished span; times in nanoseconds since 1970.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Span {
    pub(super) trace_id: String,
    pub(super) id: String,
    /// Empty for a root.
    pub(super) parent: String,
    pub(super) name: String,
    pub(super) service: String,
    /// The instance of the service.
    pub(super) instance: String,
    pub(super) start_ns: u64,
    pub(super) end_ns: u64,
    pub(super) attributes: BTreeMap<String, String>,
    pub(super) events: Vec<Event>,
    /// Traces of the spans that it links to.
    pub(super) links: Vec<String>,
    /// The message, if its status is error.
    pub(super) error: Option<String>,
}

/// Something that happened during a span.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Event {
    pub(super) name: String,
    pub(super) at_ns: u64,
    pub(super) attributes: BTreeMap<String, String>,
}

impl Span {
    pub(super) fn ms(&self) -> f64 {
        self.end_ns.saturating_sub(self.start_ns) as f64 / 1e6
    }

    /// An attribute, empty where it is not there.
    pub(super) fn attribute(&self, key: &str) -> &str {
        self.attributes.get(key).map_or("", String::as_str)
    }

    /// An attribute that is a number.
    pub(super) fn number(&self, key: &str) -> Option<f64> {
        self.attribute(key).parse().ok()
    }
}

/// The spans of an answer, grouped by trace; an error says what the answer lacks.
pub(super) fn parse(answer: &str) -> Result<BTreeMap<String, Vec<Span>>, String> {
    let mut traces: BTreeMap<String, Vec<Span>> = BTreeMap::new();
    // Jaeger may send one document, or one after the other.
    for document in serde_json::Deserializer::from_str(answer).into_iter::<Value>() {
        let document = document.map_err(|error| format!("not JSON: {error}"))?;
        let result = document.get("result").unwrap_or(&document);
        let resources = result["resourceSpans"].as_array();
        for resource in resources.ok_or("no resourceSpans in the answer")? {
            let of = attributes(&resource["resource"]["attributes"]);
            let scopes = resource["scopeSpans"].as_array().into_iter().flatten();
            for raw in scopes.flat_map(|scope| scope["spans"].as_array().into_iter().flatten()) {
                let span = span(raw, &of).ok_or_else(|| format!("a span without ids: {raw}"))?;
                traces.entry(span.trace_id.clone()).or_default().push(span);
            }
        }
    }
    for spans in traces.values_mut() {
        spans.sort_by_key(|span| (span.start_ns, span.end_ns));
    }
    Ok(traces)
}

fn span(raw: &Value, resource: &BTreeMap<String, String>) -> Option<Span> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let of_resource = |key: &str| resource.get(key).cloned().unwrap_or_default();
    let status = &raw["status"];
    let failed = matches!(status["code"].as_str(), Some("STATUS_CODE_ERROR"))
        || status["code"].as_u64() == Some(2);
    let each = |key: &str| raw[key].as_array().into_iter().flatten();
    let events = each("events").map(|raw| Event {
        name: text(&raw["name"]).unwrap_or_default(),
        at_ns: nanoseconds(&raw["timeUnixNano"]),
        attributes: attributes(&raw["attributes"]),
    });
    Some(Span {
        trace_id: text(&raw["traceId"])?,
        id: text(&raw["spanId"])?,
        parent: text(&raw["parentSpanId"]).unwrap_or_default(),
        name: text(&raw["name"])?,
        service: of_resource("service.name"),
        instance: of_resource("service.instance.id"),
        start_ns: nanoseconds(&raw["startTimeUnixNano"]),
        end_ns: nanoseconds(&raw["endTimeUnixNano"]),
        attributes: attributes(&raw["attributes"]),
        events: events.collect(),
        links: each("links").filter_map(|link| text(&link["traceId"])).collect(),
        error: failed.then(|| text(&status["message"]).unwrap_or_default()),
    })
}

/// JSON has no 64-bit integers, so OTLP writes them as text.
fn nanoseconds(value: &Value) -> u64 {
    let text = value.as_str().and_then(|text| text.parse().ok());
    text.or_else(|| value.as_u64()).unwrap_or_default()
}

fn attributes(value: &Value) -> BTreeMap<String, String> {
    let pairs = value.as_array().into_iter().flatten();
    let attributes = pairs.filter_map(|pair| {
        let key = pair["key"].as_str()?.to_owned();
        let value = pair["value"].as_object()?.values().next()?;
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        Some((key, text))
    });
    attributes.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_whether_numbers_are_text_or_not() {
        let traces = parse(include_str!("fixtures/retried.json")).unwrap();
        assert_eq!(traces.len(), 1);
        let spans = traces.values().next().unwrap();
        let root = spans.iter().find(|span| span.parent.is_empty()).unwrap();
        assert_eq!(root.service, "gateway");
        assert_eq!(root.attribute("http.response.status_code"), "200");
        assert!(root.ms() > 0.0 && root.error.is_none());
        assert!(spans.iter().any(|span| !span.events.is_empty()));
        assert!(spans.iter().any(|span| !span.links.is_empty()));
    }

    #[test]
    fn documents_may_follow_each_other_and_broken_ones_are_named() {
        let one = r#"{"result":{"resourceSpans":[]}}"#;
        assert_eq!(parse(&format!("{one}\n{one}")), Ok(BTreeMap::new()));
        assert!(parse("{").unwrap_err().contains("not JSON"));
        assert!(parse("{}").unwrap_err().contains("resourceSpans"));
    }
}
