//! W3C trace context as text, in and out.

use std::str::FromStr as _;

use opentelemetry::trace::{SpanContext, SpanId, TraceFlags, TraceId, TraceState};
use protocol::Traceparent;

/// Parses a caller's `traceparent`; `None` if it is not a valid one.
pub(super) fn parse(traceparent: &str, tracestate: Option<&str>) -> Option<SpanContext> {
    let Traceparent { trace_id, parent_id, flags } = Traceparent::parse(traceparent.trim())?;
    let state = tracestate.and_then(|text| TraceState::from_str(text).ok()).unwrap_or_default();
    let sampled = TraceFlags::new(flags & TraceFlags::SAMPLED.to_u8());
    let (trace_id, span_id) = (TraceId::from_bytes(trace_id), SpanId::from_bytes(parent_id));
    Some(SpanContext::new(trace_id, span_id, sampled, true, state))
}

/// Writes a `traceparent`.
pub(super) fn format(context: &SpanContext) -> String {
    let traceparent = Traceparent {
        trace_id: context.trace_id().to_bytes(),
        parent_id: context.span_id().to_bytes(),
        flags: (context.trace_flags() & TraceFlags::SAMPLED).to_u8(),
    };
    traceparent.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
    const SPAN: &str = "b7ad6b7169203331";

    #[test]
    fn a_valid_header_survives_reading_and_writing() {
        let text = format!("00-{TRACE}-{SPAN}-01");
        let context = parse(&text, Some("vendor=value")).unwrap();
        assert_eq!(format(&context), text);
        assert!(context.is_sampled() && context.is_remote());
        assert_eq!(context.trace_state().header(), "vendor=value");
    }

    #[test]
    fn a_broken_tracestate_does_not_cost_the_parent() {
        let context = parse(&format!("00-{TRACE}-{SPAN}-00"), Some("no equals sign")).unwrap();
        assert!(!context.is_sampled());
        assert_eq!(context.trace_state().header(), "");
    }

    #[test]
    fn spaces_and_unknown_flags_are_dropped() {
        let context = parse(&format!(" 00-{TRACE}-{SPAN}-ff\t"), None).unwrap();
        assert_eq!(context.trace_flags(), TraceFlags::SAMPLED);
    }
}
