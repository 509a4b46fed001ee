//! The reading of the answers of a run: fields with tokens, finish reasons, chunks passed over.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::send::record::RequestRecord;
use crate::send::reply::TokenField;

/// Name in place of a finish reason that the server did not give.
const NO_REASON: &str = "none given";

/// Reading of the answers of a run, over all requests, those of the warm-up included.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counting {
    /// Chunks with text by the field that carried it.
    pub chunks_by_field: BTreeMap<String, u64>,
    /// Answers by their `finish_reason`. Requests without any answer are not among them.
    pub finish_reasons: BTreeMap<String, usize>,
    /// Chunks without a choice and without usage, which were passed over.
    pub empty_chunks: u64,
    /// Answers whose `[DONE]` lacked the blank line after it.
    pub unclosed_done: usize,
    /// Completed answers without usage, whose output tokens are the chunks with text.
    pub without_usage: usize,
}

impl Counting {
    /// Sums up `records`.
    pub fn of(records: &[RequestRecord]) -> Self {
        let mut all = Self::default();
        for record in records {
            let reply = &record.reply;
            for (field, chunks) in TokenField::ALL.iter().zip(reply.chunks_by_field) {
                if chunks > 0 {
                    *all.chunks_by_field.entry(field.name().to_owned()).or_default() +=
                        u64::from(chunks);
                }
            }
            if reply.first_choice_ns.is_some() {
                let reason = reply.finish_reason.as_ref().map_or(NO_REASON, |it| it.as_str());
                *all.finish_reasons.entry(reason.to_owned()).or_default() += 1;
            }
            all.empty_chunks += u64::from(reply.empty_chunks);
            all.unclosed_done += usize::from(reply.unclosed_done);
            all.without_usage += usize::from(record.succeeded() && reply.usage.is_none());
        }
        all
    }

    /// Returns the fields with their chunks, for people.
    pub fn fields(&self) -> String {
        list(self.chunks_by_field.iter().map(|(name, chunks)| format!("{name} {chunks}")))
    }

    /// Returns the finish reasons with their answers, for people.
    pub fn reasons(&self) -> String {
        list(self.finish_reasons.iter().map(|(name, answers)| format!("{name} {answers}")))
    }

    /// Returns what was out of the ordinary, for people.
    pub fn oddities(&self) -> Vec<String> {
        let mut all = Vec::new();
        if self.empty_chunks > 0 {
            all.push(format!("{} chunks without a choice passed over", self.empty_chunks));
        }
        if self.unclosed_done > 0 {
            all.push(format!("{} answers with an unfinished [DONE]", self.unclosed_done));
        }
        if self.without_usage > 0 {
            all.push(format!(
                "{} answers without usage: their tokens are chunks with text",
                self.without_usage
            ));
        }
        all
    }
}

fn list(parts: impl Iterator<Item = String>) -> String {
    let parts: Vec<String> = parts.collect();
    if parts.is_empty() { "none".to_owned() } else { parts.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::measured::tests::outcome;
    use crate::send::reply::FinishReason;

    #[test]
    fn answers_are_summed_up_by_field_and_reason() {
        let mut records = outcome(3, |_| 1).records;
        for (record, word) in records.iter_mut().zip(["stop", "stop", "tool_calls"]) {
            record.reply.finish_reason = Some(FinishReason::from(word));
            record.reply.chunks_by_field = [0, 2, 0, 3, 0, 0];
            record.reply.first_choice_ns = Some(1);
            record.reply.usage = None;
        }
        records[2].reply.empty_chunks = 1;
        records[2].reply.unclosed_done = true;
        let counting = Counting::of(&records);
        assert_eq!(counting.fields(), "content 6, reasoning 9");
        assert_eq!(counting.reasons(), "stop 2, tool_calls 1");
        assert_eq!(
            counting.oddities(),
            [
                "1 chunks without a choice passed over",
                "1 answers with an unfinished [DONE]",
                "3 answers without usage: their tokens are chunks with text",
            ]
        );
        assert_eq!(Counting::default().fields(), "none");
    }
}
