//! Which requests are worth a trace although nobody chose them beforehand, and what their spans may
//! tell. Pure.

use chassis::settings::TelemetrySettings;
use serde_json::json;

/// Longest text that an attribute carries.
const TEXT_BYTES_MAX: usize = 16 << 10;
/// Longest run id taken from a client.
const RUN_ID_BYTES_MAX: usize = 64;
const RUN_ID_KEY: &str = "loadgen.run_id";

/// What spans of requests are to tell, and when they are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Judge {
    /// Longest time to the first token.
    pub ttft_ms: Option<f64>,
    /// Longest time for each token after it.
    pub tpot_ms: Option<f64>,
    /// Whether spans carry what was asked and answered.
    pub contents: bool,
}

impl Judge {
    /// As the settings say.
    pub fn new(settings: &TelemetrySettings) -> Self {
        let slo = &settings.slo;
        Self { ttft_ms: slo.ttft_ms, tpot_ms: slo.tpot_ms, contents: settings.contents }
    }

    /// Whether the first token came too late.
    pub(crate) fn is_late(&self, ttft_ms: f64) -> bool {
        self.ttft_ms.is_some_and(|limit| limit < ttft_ms)
    }

    /// Whether `tokens` tokens after the first took too long together.
    pub(crate) fn is_slow(&self, rest_ms: f64, tokens: u64) -> bool {
        self.tpot_ms.is_some_and(|limit| tokens != 0 && limit < rest_ms / tokens as f64)
    }
}

/// The load run that a request says it belongs to, in its `baggage` header.
pub(crate) fn run_id(baggage: &str) -> Option<&str> {
    let members = baggage.split(',').map(|member| member.split(';').next().unwrap_or_default());
    let mut pairs = members.filter_map(|member| member.split_once('='));
    let (_, id) = pairs.find(|(key, _)| key.trim() == RUN_ID_KEY)?;
    let id = id.trim();
    let written = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let fits = !id.is_empty() && id.len() <= RUN_ID_BYTES_MAX && id.bytes().all(written);
    fits.then_some(id)
}

/// What was asked and answered, for spans that may tell.
#[derive(Debug, Default)]
pub(crate) struct Contents {
    asked: Vec<String>,
    answered: Vec<String>,
}

impl Contents {
    /// These prompts, for so many answers.
    pub(crate) fn new<'a>(prompts: impl Iterator<Item = &'a str>, answers: usize) -> Self {
        let asked = prompts.map(|prompt| cut(prompt).to_owned()).collect();
        Self { asked, answered: vec![String::new(); answers] }
    }

    /// One more piece of an answer.
    pub(crate) fn add(&mut self, answer: usize, text: &str) {
        if let Some(answered) = self.answered.get_mut(answer)
            && answered.len() < TEXT_BYTES_MAX
        {
            answered.push_str(cut(text));
        }
    }

    /// The prompts as the conventions write messages.
    pub(crate) fn asked(&self) -> String {
        messages("user", &self.asked)
    }

    /// The answers as the conventions write messages.
    pub(crate) fn answered(&self) -> String {
        messages("assistant", &self.answered)
    }
}

fn messages(role: &str, texts: &[String]) -> String {
    let message =
        |text: &String| json!({ "role": role, "parts": [{ "type": "text", "content": text }] });
    json!(texts.iter().map(message).collect::<Vec<_>>()).to_string()
}

fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(TEXT_BYTES_MAX)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_asked_for_is_judged() {
        let none = Judge::default();
        assert!(!none.is_late(1e9) && !none.is_slow(1e9, 1));
        let strict = Judge { ttft_ms: Some(100.0), tpot_ms: Some(10.0), contents: false };
        assert!(strict.is_late(100.1) && !strict.is_late(100.0));
        assert!(strict.is_slow(101.0, 10) && !strict.is_slow(100.0, 10));
        assert!(!strict.is_slow(1e9, 0), "a single token has no rest");
    }

    #[test]
    fn a_run_id_is_found_among_other_baggage() {
        assert_eq!(run_id("loadgen.run_id=ab-12"), Some("ab-12"));
        assert_eq!(run_id("user=x;p=1, loadgen.run_id = 7 ;ttl=2"), Some("7"));
        let long = format!("loadgen.run_id={}", "a".repeat(65));
        for bad in ["", "loadgen.run_id", "loadgen.run_id=", "loadgen.run_id=a b", &long] {
            assert_eq!(run_id(bad), None, "{bad}");
        }
    }

    #[test]
    fn contents_are_cut_between_characters() {
        let long = "ä".repeat(TEXT_BYTES_MAX);
        let mut contents = Contents::new([long.as_str()].into_iter(), 1);
        assert_eq!(contents.asked[0].len(), TEXT_BYTES_MAX);
        contents.add(0, "Hel");
        contents.add(0, "lo");
        contents.add(1, "nobody");
        assert_eq!(
            contents.answered(),
            r#"[{"role":"assistant","parts":[{"type":"text","content":"Hello"}]}]"#
        );
    }
}
