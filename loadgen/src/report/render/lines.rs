//! One JSON line per sent request.

use std::io::{self, Write};

use serde_json::json;

use crate::plan::Plan;
use crate::send::RunOutcome;

/// Writes the records, cancelled ones last. Times are nanoseconds from the start of the run.
pub fn write(out: &mut impl Write, plan: &Plan, outcome: &RunOutcome) -> io::Result<()> {
    for record in outcome.records.iter().chain(&outcome.cancelled) {
        let planned = &plan.requests[record.index];
        let line = json!({
            "schema_version": crate::report::SCHEMA_VERSION,
            "index": record.index,
            "request_id": record.request_id,
            "trace_id": record.trace_id,
            "intended_ns": record.intended_ns,
            "issued_ns": record.issued_ns,
            "dispatched_ns": record.dispatched_ns,
            "written_ns": record.written_ns,
            "first_byte_ns": record.first_byte_ns,
            "first_token_ns": record.reply.first_token_ns(),
            "token_ns": record.reply.tokens.iter().collect::<Vec<_>>(),
            "finished_ns": record.finished_ns,
            "planned_input_tokens": planned.input_tokens,
            "planned_output_tokens": planned.output_tokens,
            "prompt_tokens": record.reply.usage.map(|u| u.prompt_tokens),
            "completion_tokens": record.reply.usage.map(|u| u.completion_tokens),
            "cached_tokens": record.reply.usage.and_then(|u| u.cached_tokens),
            "server_ttft_ms": record.reply.timings.as_ref().map(|t| t.ttft_ms),
            "stages": record.stages(),
            "finish_reason": record.reply.finish_reason.as_ref().map(|r| r.as_str()),
            "error_class": record.failure.as_ref().map(|f| f.class.to_string()),
            "error": record.failure.as_ref().map(|f| &f.message),
        });
        writeln!(out, "{line}")?;
    }
    Ok(())
}
