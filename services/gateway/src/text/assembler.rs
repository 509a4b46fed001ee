//! One choice of an answer: tokens in, text and scores out. Pure.

use std::sync::Arc;

use protocol::{Finish, Opening, TokenEvent, TokenId, TokenLogprob};

use crate::text::detokenize::Detokenizer;
use crate::text::model::Prepared;
use crate::text::stop::{Passed, StopMatcher, StopRules};
use crate::text::vocabulary::Vocabulary;

/// How a choice turns tokens into text.
#[derive(Clone)]
pub(crate) struct ChoiceRules {
    pub(crate) vocabulary: Arc<dyn Vocabulary>,
    pub(crate) stop: StopRules,
    pub(crate) skip_special_tokens: bool,
}

/// The state of a choice between two tokens.
pub(crate) struct Choice {
    rules: ChoiceRules,
    detokenizer: Detokenizer,
    stops: StopMatcher,
    /// Sent first, with the scores of its tokens.
    echo: Option<Prepared>,
    /// Output tokens so far.
    tokens: u32,
    /// Characters of the text so far, held ones included.
    chars: usize,
}

/// What one event adds to a choice.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Step {
    pub(crate) text: String,
    pub(crate) scores: Vec<Score>,
    /// Output tokens in this step.
    pub(crate) tokens: u32,
    pub(crate) ended: Option<Ended>,
    /// Prompt tokens that were not computed; known with the first step.
    pub(crate) cached_tokens: Option<u32>,
    /// When the worker sent the event, in microseconds since the Unix epoch.
    pub(crate) sent_us: u64,
}

/// Log-probabilities at one place of the text.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Score {
    pub(crate) token: TokenId,
    /// The first token of a sequence has none.
    pub(crate) logprob: Option<TokenLogprob>,
    /// Characters before the token.
    pub(crate) offset: usize,
}

/// How a choice ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) reason: &'static str,
    pub(crate) stop: Option<StopReason>,
}

/// The client's own stop condition that was met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum StopReason {
    Text(String),
    Token(TokenId),
}

impl Choice {
    pub(crate) fn new(rules: ChoiceRules, echo: Option<Prepared>) -> Self {
        let stops = StopMatcher::new(rules.stop.strings.clone());
        Self { rules, detokenizer: Detokenizer::default(), stops, echo, tokens: 0, chars: 0 }
    }

    /// Takes the next event. A step with `ended` is the last one.
    pub(crate) fn push(&mut self, event: TokenEvent) -> Step {
        let mut step = Step { sent_us: event.sent_us, ..Step::default() };
        if let Some(prompt) = self.echo.take() {
            step.scores = self.echoed_scores(&prompt, event.opening.as_deref());
            self.chars = prompt.text.chars().count();
            step.text = prompt.text;
        }
        step.cached_tokens = event.opening.as_deref().map(|opening| opening.cached_tokens);
        let mut text = String::new();
        if let Some(token) = event.token {
            self.tokens += 1;
            step.tokens = 1;
            if let Some(logprob) = event.logprob {
                step.scores.push(Score { token, logprob: Some(logprob), offset: self.chars });
            }
            if self.is_shown(token, event.finish) {
                text = self.detokenizer.push(&self.rules.vocabulary.token_bytes(token));
            }
        }
        if event.finish.is_some() {
            text += &self.detokenizer.finish();
        }
        self.chars += text.chars().count();
        match self.passed(&text) {
            Passed::Stopped { before, stop } => {
                step.text += &before;
                if self.rules.stop.included {
                    step.text += &stop;
                }
                step.ended = Some(Ended { reason: "stop", stop: Some(StopReason::Text(stop)) });
            }
            Passed::Text(passed) => {
                step.text += &passed;
                if let Some(finish) = event.finish {
                    step.text += &self.stops.finish();
                    step.ended = Some(self.ended(finish, event.token));
                }
            }
        }
        step
    }

    fn is_shown(&self, token: TokenId, finish: Option<Finish>) -> bool {
        let stops = finish == Some(Finish::Stop);
        let special = self.rules.skip_special_tokens && self.rules.vocabulary.is_special(token);
        !special && (!stops || self.rules.stop.included)
    }

    /// Text that begins before `min_tokens` cannot stop the choice.
    fn passed(&mut self, text: &str) -> Passed {
        if self.rules.stop.min_tokens < self.tokens {
            self.stops.push(text)
        } else {
            Passed::Text(text.to_owned())
        }
    }

    fn ended(&self, finish: Finish, token: Option<TokenId>) -> Ended {
        match finish {
            Finish::Length => Ended { reason: "length", stop: None },
            Finish::Stop => {
                let asked = token.filter(|token| self.rules.stop.tokens.contains(token));
                Ended { reason: "stop", stop: asked.map(StopReason::Token) }
            }
        }
    }

    fn echoed_scores(&self, prompt: &Prepared, opening: Option<&Opening>) -> Vec<Score> {
        let Some(opening) = opening.filter(|opening| !opening.prompt_logprobs.is_empty()) else {
            return Vec::new();
        };
        let mut detokenizer = Detokenizer::default();
        let mut offset = 0;
        let logprobs = opening.prompt_logprobs.iter().cloned().chain(std::iter::repeat(None));
        let scored = |(index, (&token, logprob)): (usize, (&TokenId, Option<TokenLogprob>))| {
            let score = Score { token, logprob, offset };
            if index != 0 || !prompt.bos_added {
                let text = detokenizer.push(&self.rules.vocabulary.token_bytes(token));
                offset += text.chars().count();
            }
            score
        };
        prompt.tokens.iter().zip(logprobs).enumerate().map(scored).collect()
    }
}
