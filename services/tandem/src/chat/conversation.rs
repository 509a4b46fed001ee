//! The messages so far.

use serde_json::{Value, json};

/// The messages of one conversation, in order.
#[derive(Debug, Clone)]
pub(super) struct Conversation {
    system: Option<String>,
    messages: Vec<Value>,
}

impl Conversation {
    /// Returns an empty conversation.
    pub(super) fn new(system: Option<String>) -> Self {
        let mut conversation = Self { system, messages: Vec::new() };
        conversation.reset();
        conversation
    }

    /// Forgets everything but the instructions.
    pub(super) fn reset(&mut self) {
        let system = self.system.iter();
        self.messages = system.map(|text| json!({ "role": "system", "content": text })).collect();
    }

    /// The messages with a question at the end. It stays asked only when it is answered.
    pub(super) fn asked(&self, question: String) -> Vec<Value> {
        let mut messages = self.messages.clone();
        messages.push(json!({ "role": "user", "content": question }));
        messages
    }

    /// Keeps a question and its answer, which may have been stopped half-way.
    pub(super) fn answered(&mut self, asked: Vec<Value>, answer: String) {
        self.messages = asked;
        self.messages.push(json!({ "role": "assistant", "content": answer }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn roles(messages: &[Value]) -> Vec<&str> {
        messages.iter().map(|message| message["role"].as_str().unwrap()).collect()
    }

    #[test]
    fn a_question_without_an_answer_is_not_kept() {
        let mut conversation = Conversation::new(None);
        let lost = conversation.asked("lost".to_owned());
        assert_eq!(roles(&lost), ["user"]);
        let asked = conversation.asked("first".to_owned());
        assert_eq!(roles(&asked), ["user"]);
        conversation.answered(asked, "yes".to_owned());
        assert_eq!(roles(&conversation.asked("second".to_owned())), ["user", "assistant", "user"]);
    }

    #[test]
    fn reset_keeps_the_instructions() {
        let mut conversation = Conversation::new(Some("be short".to_owned()));
        let asked = conversation.asked("first".to_owned());
        conversation.answered(asked, "yes".to_owned());
        conversation.reset();
        assert_eq!(roles(&conversation.asked("again".to_owned())), ["system", "user"]);
    }
}
