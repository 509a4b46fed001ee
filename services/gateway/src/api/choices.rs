//! Starts the generations of a request and merges their steps.

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

use crate::api::params::GenerationParams;
use crate::dispatch::backend::{Backend, Pieces};
use crate::dispatch::{Generation, Piece};
use crate::observe::recorder::Account;
use crate::observe::stages::StageNotes;
use crate::text::assembler::{Choice, ChoiceRules, Ended, Score, Step, StopReason};
use crate::text::model::{Prepared, Text};

/// How much longer than the deadline the gateway waits for a generation to say that it is over.
const GRACE: Duration = Duration::from_secs(1);

/// A request, ready to be generated.
pub(crate) struct Work {
    pub(crate) params: GenerationParams,
    /// Each with its most output tokens.
    pub(crate) prompts: Vec<(Prepared, u32)>,
    /// Alternatives to report with each token.
    pub(crate) top_logprobs: Option<u8>,
    /// The prompts are part of the answer.
    pub(crate) echo: bool,
}

/// When a request began, where its trace goes on, and when it must be over.
pub(crate) struct Times {
    pub(crate) trace: Trace,
    pub(crate) tokenized: SystemTime,
    pub(crate) timeout: Duration,
    /// Where each choice notes its stages, when the client asked for them.
    pub(crate) stages: Vec<StageNotes>,
}

/// One step of one choice, or why the choice failed.
pub(crate) type Item = (u32, Result<Step, Refusal>);

/// The choices of a request, running. Dropping them gives them up.
pub(crate) struct Choices {
    /// How many there are.
    pub(crate) count: usize,
    steps: SelectAll<BoxStream<'static, Item>>,
}

/// A choice that has ended.
pub(crate) struct Finished {
    pub(crate) index: u32,
    pub(crate) text: String,
    pub(crate) scores: Vec<Score>,
    pub(crate) ended: Ended,
}

/// Starts every choice of a request, or none: choice `prompt * n + k` is the `k`-th of its prompt.
pub(crate) async fn start(
    backend: &Arc<dyn Backend>,
    text: &Text,
    work: &Work,
    first: RequestId,
    times: Times,
) -> Result<Choices, Refusal> {
    let rules = ChoiceRules {
        vocabulary: Arc::clone(&text.vocabulary),
        stop: work.params.stop.clone(),
        skip_special_tokens: work.params.skip_special_tokens,
    };
    let end = Instant::now() + times.timeout + GRACE;
    let generations = generations(text, work, first, &times);
    let running = try_join_all(generations.into_iter().map(|it| backend.start(it))).await?;
    let choices = work.params.choices as usize;
    let steps = running.into_iter().enumerate().map(|(index, pieces)| {
        let echo = work.echo.then(|| work.prompts[index / choices].0.clone());
        let choice = Choice::new(rules.clone(), echo);
        steps(index as u32, pieces, choice, end).boxed()
    });
    let steps: SelectAll<_> = steps.collect();
    Ok(Choices { count: steps.len(), steps })
}

fn generations(text: &Text, work: &Work, first: RequestId, times: &Times) -> Vec<Generation> {
    let params = &work.params;
    let deadline = SystemTime::now() + times.timeout;
    let mut generations = Vec::with_capacity(work.prompts.len() * params.choices as usize);
    for (prompt, max_tokens) in &work.prompts {
        let seed = params.seed.unwrap_or_else(rand::random);
        for choice in 0..params.choices {
            let request = if generations.is_empty() { first } else { RequestId(rand::random()) };
            let mut sampling = params.sampling.clone();
            sampling.seed = choice_seed(seed, choice);
            generations.push(Generation {
                request,
                prompt: Arc::clone(&prompt.tokens),
                sampling,
                stopping: Stopping {
                    max_tokens: *max_tokens,
                    min_tokens: params.stop.min_tokens,
                    stop_tokens: params.stop.stop_tokens(&text.stop_tokens),
                },
                top_logprobs: work.top_logprobs,
                prompt_logprobs: work.top_logprobs.filter(|_| work.echo),
                scope: Scope::of_tenant("", params.cache_salt.as_deref()),
                deadline,
                trace: times.trace.clone(),
                tokenized: times.tokenized,
                stages: times.stages.get(generations.len()).cloned(),
            });
        }
    }
    generations
}

/// The seed of a prompt's `choice`-th choice; the first has the request's own, so that `n` does not
/// change it.
fn choice_seed(seed: u64, choice: u32) -> u64 {
    if choice == 0 {
        return seed;
    }
    // Well mixed even for neighboring seeds.
    mix64(seed.wrapping_add(u64::from(choice).wrapping_mul(GOLDEN_GAMMA)))
}

fn steps(
    index: u32,
    pieces: Box<dyn Pieces>,
    choice: Choice,
    end: Instant,
) -> impl Stream<Item = Item> + Send + 'static {
    futures::stream::unfold(Some((pieces, choice)), move |running| async move {
        let (mut pieces, mut choice) = running?;
        let failed = |refusal| Some(((index, Err(refusal)), None));
        let event = match tokio::time::timeout_at(end, pieces.next()).await {
            Ok(Some(Piece::Token(event))) => event,
            Ok(Some(Piece::Failed(refusal))) => return failed(refusal),
            Ok(None) => {
                let message = "the generation ended without its last token";
                return failed(Refusal::new(ErrorClass::Internal, message));
            }
            Err(_) => {
                pieces.stop(CancelReason::Deadline);
                let message = "the deadline passed before the answer was complete";
                return failed(Refusal::new(ErrorClass::Deadline, message));
            }
        };
        let step = choice.push(event);
        let running = match &step.ended {
            None => Some((pieces, choice)),
            Some(Ended { stop: Some(StopReason::Text(_)), .. }) => {
                pieces.stop(CancelReason::StopString);
                None
            }
            Some(_) => None,
        };
        Some(((index, Ok(step)), running))
    })
}

impl Choices {
    /// The next step of any choice; `None` when all have ended.
    pub(crate) async fn next(&mut self) -> Option<Item> {
        self.steps.next().await
    }

    /// Gives up what still runs.
    pub(crate) fn give_up(&mut self) {
        self.steps.clear();
    }

    /// Waits for the whole answer, of which `first` has arrived already.
    pub(crate) async fn collect(
        mut self,
        first: Item,
        account: &mut Account,
    ) -> Result<Vec<Finished>, Refusal> {
        let mut texts: Vec<(String, Vec<Score>)> = vec![Default::default(); self.count];
        let mut finished = Vec::with_capacity(self.count);
        let mut item = Some(first);
        while let Some((index, step)) = item {
            let step = step?;
            account.step(&step, index);
            account.written();
            let (text, scores) = &mut texts[index as usize];
            *text += &step.text;
            scores.extend(step.scores);
            if let Some(ended) = step.ended {
                let (text, scores) = std::mem::take(&mut texts[index as usize]);
                finished.push(Finished { index, text, scores, ended });
            }
            item = self.next().await;
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
