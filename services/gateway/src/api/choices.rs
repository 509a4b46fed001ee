//! The choices of a request: starts their generations and merges their output.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use chassis::Trace;
use futures::future::try_join_all;
use futures::stream::{BoxStream, SelectAll};
use futures::{Stream, StreamExt as _};
use protocol::{
    CancelReason, ErrorClass, GOLDEN_GAMMA, Refusal, RequestId, Scope, Stopping, mix64,
};
use tokio::time::Instant;

use crate::api::params::CommonParams;
use crate::dispatch::backend::{Backend, GenerationStream};
use crate::dispatch::{Generation, GenerationEvent};
use crate::observe::recorder::RequestRecorder;
use crate::observe::stages::StageNotes;
use crate::text::TextModel;
use crate::text::assembler::{
    ChoiceAssembler, ChoiceDelta, ChoiceEnd, ChoiceRules, StopReason, TokenScore,
};
use crate::text::model::TokenizedPrompt;

/// Time after the deadline within which a generation must end by itself.
const GRACE: Duration = Duration::from_secs(1);

/// A request that was parsed and tokenized.
pub(crate) struct PreparedRequest {
    pub(crate) params: CommonParams,
    pub(crate) prompts: Vec<PromptBudget>,
    /// Alternatives to report with each token.
    pub(crate) top_logprobs: Option<u8>,
    /// The prompts are part of the output.
    pub(crate) echo: bool,
}

/// A prompt with the room for its output.
pub(crate) struct PromptBudget {
    pub(crate) prompt: TokenizedPrompt,
    /// Most output tokens of a choice.
    pub(crate) max_tokens: u32,
}

/// The time and the trace in which a request's generations run.
pub(crate) struct RunContext {
    pub(crate) trace: Trace,
    /// End of tokenizing.
    pub(crate) tokenized: SystemTime,
    pub(crate) timeout: Duration,
    /// Stage notes of each choice; empty unless the client asked for stages.
    pub(crate) stages: Vec<StageNotes>,
}

/// One delta of one choice, or the reason why the choice failed.
pub(crate) struct ChoiceEvent {
    pub(crate) index: u32,
    pub(crate) delta: Result<ChoiceDelta, Refusal>,
}

/// The running choices of a request. Dropping them cancels their generations.
pub(crate) struct Choices {
    pub(crate) count: usize,
    events: SelectAll<BoxStream<'static, ChoiceEvent>>,
}

/// A choice that has ended.
pub(crate) struct FinishedChoice {
    pub(crate) index: u32,
    pub(crate) text: String,
    pub(crate) scores: Vec<TokenScore>,
    pub(crate) ended: ChoiceEnd,
}

/// Starts every choice of a request, or none: choice `prompt * n + k` is the `k`-th of its prompt.
pub(crate) async fn start(
    backend: &Arc<dyn Backend>,
    text: &TextModel,
    request: &PreparedRequest,
    first: RequestId,
    context: RunContext,
) -> Result<Choices, Refusal> {
    let rules = ChoiceRules {
        vocabulary: Arc::clone(&text.vocabulary),
        stop: request.params.stop.clone(),
        skip_special_tokens: request.params.skip_special_tokens,
    };
    let end = Instant::now() + context.timeout + GRACE;
    let generations = generations(text, request, first, &context);
    let streams = try_join_all(generations.into_iter().map(|it| backend.start(it))).await?;
    let choices = request.params.choices as usize;
    let events: SelectAll<_> = streams
        .into_iter()
        .enumerate()
        .map(|(index, stream)| {
            let echo = request.echo.then(|| request.prompts[index / choices].prompt.clone());
            let assembler = ChoiceAssembler::new(rules.clone(), echo);
            choice_events(index as u32, stream, assembler, end).boxed()
        })
        .collect();
    Ok(Choices { count: events.len(), events })
}

fn generations(
    text: &TextModel,
    request: &PreparedRequest,
    first: RequestId,
    context: &RunContext,
) -> Vec<Generation> {
    let params = &request.params;
    let deadline = SystemTime::now() + context.timeout;
    let mut generations = Vec::with_capacity(request.prompts.len() * params.choices as usize);
    for PromptBudget { prompt, max_tokens } in &request.prompts {
        let seed = params.seed.unwrap_or_else(rand::random);
        for choice in 0..params.choices {
            let id = if generations.is_empty() { first } else { RequestId(rand::random()) };
            let mut sampling = params.sampling.clone();
            sampling.seed = choice_seed(seed, choice);
            generations.push(Generation {
                request: id,
                prompt: Arc::clone(&prompt.tokens),
                sampling,
                stopping: Stopping {
                    max_tokens: *max_tokens,
                    min_tokens: params.stop.min_tokens,
                    stop_tokens: params.stop.stop_tokens(&text.stop_tokens),
                },
                top_logprobs: request.top_logprobs,
                prompt_logprobs: request.top_logprobs.filter(|_| request.echo),
                scope: Scope::of_tenant("", params.cache_salt.as_deref()),
                deadline,
                trace: context.trace.clone(),
                tokenized: context.tokenized,
                stages: context.stages.get(generations.len()).cloned(),
            });
        }
    }
    generations
}

/// Returns the seed of a prompt's `choice`-th choice. The first has the request's own, so that `n` does
/// not change it.
fn choice_seed(seed: u64, choice: u32) -> u64 {
    if choice == 0 {
        return seed;
    }
    // Well mixed even for neighboring seeds.
    mix64(seed.wrapping_add(u64::from(choice).wrapping_mul(GOLDEN_GAMMA)))
}

fn choice_events(
    index: u32,
    stream: Box<dyn GenerationStream>,
    assembler: ChoiceAssembler,
    end: Instant,
) -> impl Stream<Item = ChoiceEvent> + Send + 'static {
    futures::stream::unfold(Some((stream, assembler)), move |running| async move {
        let (mut stream, mut assembler) = running?;
        let failed = |refusal| Some((ChoiceEvent { index, delta: Err(refusal) }, None));
        let event = match tokio::time::timeout_at(end, stream.next()).await {
            Ok(Some(GenerationEvent::Token(event))) => event,
            Ok(Some(GenerationEvent::Failed(refusal))) => return failed(refusal),
            Ok(None) => {
                let message = "the generation ended without its last token";
                return failed(Refusal::new(ErrorClass::Internal, message));
            }
            Err(_) => {
                stream.stop(CancelReason::Deadline);
                let message = "the deadline passed before the answer was complete";
                return failed(Refusal::new(ErrorClass::Deadline, message));
            }
        };
        let delta = assembler.push(event);
        let running = match &delta.ended {
            None => Some((stream, assembler)),
            Some(ChoiceEnd { stop: Some(StopReason::Text(_)), .. }) => {
                stream.stop(CancelReason::StopString);
                None
            }
            Some(_) => None,
        };
        Some((ChoiceEvent { index, delta: Ok(delta) }, running))
    })
}

impl Choices {
    /// Returns the next event of any choice; `None` when all have ended.
    pub(crate) async fn next(&mut self) -> Option<ChoiceEvent> {
        self.events.next().await
    }

    /// Cancels the generations that still run.
    pub(crate) fn cancel(&mut self) {
        self.events.clear();
    }

    /// Waits for the whole response, of which `first` has arrived already.
    pub(crate) async fn collect(
        mut self,
        first: ChoiceEvent,
        recorder: &mut RequestRecorder,
    ) -> Result<Vec<FinishedChoice>, Refusal> {
        let mut texts: Vec<(String, Vec<TokenScore>)> = vec![Default::default(); self.count];
        let mut finished = Vec::with_capacity(self.count);
        let mut event = Some(first);
        while let Some(ChoiceEvent { index, delta }) = event {
            let delta = delta?;
            recorder.delta(&delta, index);
            recorder.written();
            let (text, scores) = &mut texts[index as usize];
            *text += &delta.text;
            scores.extend(delta.scores);
            if let Some(ended) = delta.ended {
                let (text, scores) = std::mem::take(&mut texts[index as usize]);
                finished.push(FinishedChoice { index, text, scores, ended });
            }
            event = self.next().await;
        }
        finished.sort_by_key(|choice| choice.index);
        Ok(finished)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_have_seeds_of_their_own_and_the_first_keeps_the_clients() {
        let seeds: std::collections::BTreeSet<u64> =
            (0..4).flat_map(|seed| (0..16).map(move |choice| choice_seed(seed, choice))).collect();
        assert_eq!(seeds.len(), 64);
        assert_eq!(choice_seed(42, 0), 42);
    }
}
