//! The texts of a request, for deployments that let spans carry them.

use serde_json::{Value, json};

/// Longest text of an attribute, in bytes.
const TEXT_BYTES_MAX: usize = 16 << 10;

/// The prompts and outputs of one request, for its root span.
#[derive(Debug, Default)]
pub(crate) struct Contents {
    prompts: Vec<String>,
    outputs: Vec<String>,
}

impl Contents {
    /// Returns the contents of a request with `choices` empty outputs.
    pub(crate) fn new<'a>(prompts: impl Iterator<Item = &'a str>, choices: usize) -> Self {
        let prompts = prompts.map(|prompt| cut(prompt).to_owned()).collect();
        Self { prompts, outputs: vec![String::new(); choices] }
    }

    /// Appends text to the output of a choice.
    pub(crate) fn add(&mut self, choice: usize, text: &str) {
        if let Some(output) = self.outputs.get_mut(choice)
            && output.len() < TEXT_BYTES_MAX
        {
            output.push_str(cut(text));
        }
    }

    /// Returns `gen_ai.input.messages` of the GenAI conventions.
    pub(crate) fn input_messages(&self) -> String {
        messages("user", &self.prompts)
    }

    /// Returns `gen_ai.output.messages` of the GenAI conventions.
    pub(crate) fn output_messages(&self) -> String {
        messages("assistant", &self.outputs)
    }
}

fn messages(role: &str, texts: &[String]) -> String {
    let messages: Vec<Value> = texts
        .iter()
        .map(|text| json!({ "role": role, "parts": [{ "type": "text", "content": text }] }))
        .collect();
    Value::from(messages).to_string()
}

fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(TEXT_BYTES_MAX)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_are_cut_between_characters() {
        let long = "ä".repeat(TEXT_BYTES_MAX);
        let mut contents = Contents::new([long.as_str()].into_iter(), 1);
        assert_eq!(contents.prompts[0].len(), TEXT_BYTES_MAX);
        contents.add(0, "Hel");
        contents.add(0, "lo");
        contents.add(1, "other");
        assert_eq!(
            contents.output_messages(),
            r#"[{"role":"assistant","parts":[{"type":"text","content":"Hello"}]}]"#
        );
    }
}
