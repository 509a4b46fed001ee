//! The assembly of one choice: tokens in, text and log-probabilities out. Pure.

use std::sync::Arc;

use protocol::{Finish, Opening, TokenEvent, TokenId, TokenLogprob};

use crate::text::detokenize::Detokenizer;
use crate::text::model::TokenizedPrompt;
use crate::text::stop::{Scan, StopMatcher, StopRules};
use crate::text::vocabulary::Vocabulary;

/// The rules by which a choice's tokens become text.
#[derive(Clone)]
pub(crate) struct ChoiceRules {
    pub(crate) vocabulary: Arc<dyn Vocabulary>,
    pub(crate) stop: StopRules,
    pub(crate) skip_special_tokens: bool,
}

/// The assembler of one choice.
pub(crate) struct ChoiceAssembler {
    rules: ChoiceRules,
    detokenizer: Detokenizer,
    stops: StopMatcher,
    /// The prompt, until it is sent as the first part of the output.
    echo: Option<TokenizedPrompt>,
    /// Output tokens so far.
    tokens: u32,
    /// Characters of the text so far, held ones included.
    chars: usize,
}

/// The part of a choice that one token event adds.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct ChoiceDelta {
    pub(crate) text: String,
    pub(crate) scores: Vec<TokenScore>,
    /// Output tokens of this delta.
    pub(crate) tokens: u32,
    pub(crate) ended: Option<ChoiceEnd>,
    /// Prompt tokens that were not computed; known with the first delta.
    pub(crate) cached_tokens: Option<u32>,
    /// Time at which the worker sent the event, in microseconds since the Unix epoch.
    pub(crate) sent_us: u64,
}

/// The log-probabilities of one token of the text.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct TokenScore {
    pub(crate) token: TokenId,
    /// The first token of a sequence has none.
    pub(crate) logprob: Option<TokenLogprob>,
    /// Characters before the token.
    pub(crate) offset: usize,
}

/// The end of a choice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ChoiceEnd {
    pub(crate) reason: &'static str,
    pub(crate) stop: Option<StopReason>,
}

/// The client's own stop condition that was met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum StopReason {
    Text(String),
    Token(TokenId),
}

impl ChoiceAssembler {
    pub(crate) fn new(rules: ChoiceRules, echo: Option<TokenizedPrompt>) -> Self {
        let stops = StopMatcher::new(rules.stop.strings.clone());
        Self { rules, detokenizer: Detokenizer::default(), stops, echo, tokens: 0, chars: 0 }
    }

    /// Adds the next event. The delta with `ended` is the last one.
    pub(crate) fn push(&mut self, event: TokenEvent) -> ChoiceDelta {
        let mut delta = ChoiceDelta { sent_us: event.sent_us, ..ChoiceDelta::default() };
        if let Some(prompt) = self.echo.take() {
            delta.scores = self.echoed_scores(&prompt, event.opening.as_deref());
            self.chars = prompt.text.chars().count();
            delta.text = prompt.text;
        }
        delta.cached_tokens = event.opening.as_deref().map(|opening| opening.cached_tokens);
        let mut text = String::new();
        if let Some(token) = event.token {
            self.tokens += 1;
            delta.tokens = 1;
            if let Some(logprob) = event.logprob {
                delta.scores.push(TokenScore { token, logprob: Some(logprob), offset: self.chars });
            }
            if self.is_shown(token, event.finish) {
                text = self.detokenizer.push(&self.rules.vocabulary.token_bytes(token));
            }
        }
        if event.finish.is_some() {
            text += &self.detokenizer.finish();
        }
        self.chars += text.chars().count();
        match self.scan(&text) {
            Scan::Stopped { before, stop } => {
                delta.text += &before;
                if self.rules.stop.included {
                    delta.text += &stop;
                }
                delta.ended =
                    Some(ChoiceEnd { reason: "stop", stop: Some(StopReason::Text(stop)) });
            }
            Scan::Text(passed) => {
                delta.text += &passed;
                if let Some(finish) = event.finish {
                    delta.text += &self.stops.finish();
                    delta.ended = Some(self.ended(finish, event.token));
                }
            }
        }
        delta
    }

    fn is_shown(&self, token: TokenId, finish: Option<Finish>) -> bool {
        let stops = finish == Some(Finish::Stop);
        let special = self.rules.skip_special_tokens && self.rules.vocabulary.is_special(token);
        !special && (!stops || self.rules.stop.included)
    }

    /// Passes text on, without looking for stop strings before `min_tokens`.
    fn scan(&mut self, text: &str) -> Scan {
        if self.tokens > self.rules.stop.min_tokens {
            self.stops.push(text)
        } else {
            Scan::Text(text.to_owned())
        }
    }

    fn ended(&self, finish: Finish, token: Option<TokenId>) -> ChoiceEnd {
        match finish {
            Finish::Length => ChoiceEnd { reason: "length", stop: None },
            Finish::Stop => {
                let asked = token.filter(|token| self.rules.stop.tokens.contains(token));
                ChoiceEnd { reason: "stop", stop: asked.map(StopReason::Token) }
            }
        }
    }

    fn echoed_scores(
        &self,
        prompt: &TokenizedPrompt,
        opening: Option<&Opening>,
    ) -> Vec<TokenScore> {
        let Some(opening) = opening.filter(|opening| !opening.prompt_logprobs.is_empty()) else {
            return Vec::new();
        };
        let mut detokenizer = Detokenizer::default();
        let mut offset = 0;
        let logprobs = opening.prompt_logprobs.iter().cloned().chain(std::iter::repeat(None));
        let mut scores = Vec::with_capacity(prompt.tokens.len());
        for (index, (&token, logprob)) in prompt.tokens.iter().zip(logprobs).enumerate() {
            scores.push(TokenScore { token, logprob, offset });
            if index != 0 || !prompt.bos_added {
                let text = detokenizer.push(&self.rules.vocabulary.token_bytes(token));
                offset += text.chars().count();
            }
        }
        scores
    }
}
