//! One sequence's part of a step: its row of the batch, and the token and events that follow.

use model::sampling::{self, Choice, Chooser};
use model::{BatchSequence, RowOutput, StepOutput, Wanted};
use protocol::{Opening, TokenId, TokenLogprob};
use scheduling::planner::{Logits, Outcome, Row};
use scheduling::sequence::{Part, Sequence};

use crate::events::{StepEvent, StepToken};
use crate::handle::SamplingState;

/// Returns the batch row of a sequence.
pub(super) fn batch_row<'a>(
    row: &Row,
    sequence: &'a Sequence,
    sampling_state: &SamplingState,
) -> BatchSequence<'a> {
    BatchSequence {
        tokens: &sequence.tokens[row.start..row.start + row.count],
        position: row.start,
        pages: &sequence.pages,
        logits: match row.logits {
            Logits::None => Wanted::None,
            Logits::All => Wanted::All,
            Logits::Last if sequence.wants_no_token() => Wanted::None,
            Logits::Last => {
                let whole = sampling_state.top_logprobs.is_some();
                sampling::wanted(&sampling_state.sampling, sequence.banned().len(), whole)
            }
        },
    }
}

/// Empties a batch so that its memory serves sequences of another lifetime.
pub(super) fn recycled<'a>(mut batch: Vec<BatchSequence<'_>>) -> Vec<BatchSequence<'a>> {
    batch.clear();
    // Collecting in place keeps the allocation; there is nothing to map.
    batch.into_iter().map(|_| unreachable!("the batch was emptied")).collect()
}

/// A chosen token, with its log-probabilities where they are asked for.
pub(super) type Chosen = (TokenId, Option<TokenLogprob>);

/// Chooses the next token from a row's last logits, if the row ends what is known and one is
/// wanted.
pub(super) fn choose(
    row: &Row,
    last: Option<RowOutput<'_>>,
    sequence: &Sequence,
    sampling_state: &SamplingState,
    chooser: &mut Chooser,
) -> Option<Chosen> {
    let ends = row.start + row.count == sequence.tokens.len();
    if !ends || sequence.wants_no_token() {
        return None;
    }
    let last = last?;
    let (prompt, output) = sequence.tokens.split_at(sequence.prompt_tokens);
    let token = chooser.choose(
        last,
        &Choice {
            sampling: &sampling_state.sampling,
            prompt,
            output,
            position: sequence.tokens.len() as u64,
            banned: sequence.banned(),
        },
    );
    let logprob = match (sampling_state.top_logprobs, last) {
        (Some(top), RowOutput::Whole(logits)) => Some(logprob(logits, token, top)),
        _ => None,
    };
    Some((token, logprob))
}

fn logprob(logits: &[f32], token: TokenId, top: u8) -> TokenLogprob {
    let (logprob, top) = sampling::logprobs(logits, token, usize::from(top));
    TokenLogprob { logprob, top }
}

/// Collects the log-probabilities of prompt tokens: row `i` predicts token `i + 1`.
pub(super) fn score_prompt(
    row: &Row,
    output: &StepOutput,
    index: usize,
    sequence: &Sequence,
    sampling_state: &mut SamplingState,
) {
    let Some(top) = sampling_state.prompt_logprobs.filter(|_| row.logits == Logits::All) else {
        return;
    };
    if sampling_state.scored.is_empty() {
        sampling_state.scored.push(None);
    }
    for (offset, scored) in output.sequence(index).enumerate() {
        let predicted = row.start + offset + 1;
        let RowOutput::Whole(logits) = scored else { continue };
        if predicted < sequence.prompt_tokens && predicted == sampling_state.scored.len() {
            sampling_state.scored.push(Some(logprob(logits, sequence.tokens[predicted], top)));
        }
    }
}

/// Returns the event of a committed row, if it has one.
pub(super) fn token_event(
    sequence: &Sequence,
    sampling_state: &mut SamplingState,
    chosen: Option<Chosen>,
    outcome: &Outcome,
) -> Option<StepEvent> {
    if outcome.index.is_none() && outcome.finish.is_none() {
        return None;
    }
    let (token, logprob) = chosen.map_or((None, None), |(token, logprob)| (Some(token), logprob));
    let opening = (!sampling_state.opened && sequence.part != Part::Decode).then(|| {
        Box::new(Opening {
            cached_tokens: (sequence.local_tokens + sequence.stored_tokens) as u32,
            stored_tokens: sequence.stored_tokens as u32,
            prompt_logprobs: std::mem::take(&mut sampling_state.scored),
        })
    });
    sampling_state.opened = true;
    Some(StepEvent::Token(StepToken {
        key: sequence.key,
        index: outcome.index.unwrap_or(sequence.output().len() as u32),
        token,
        logprob,
        finish: outcome.finish,
        opening,
        chunks: sampling_state.chunks,
        preemptions: sequence.preemptions,
    }))
}
