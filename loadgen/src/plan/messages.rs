//! The messages of a chat: where in each prompt the answers of earlier turns lie. Pure.

use std::collections::HashMap;

use crate::plan::PlannedRequest;
use crate::plan::prompt::Block;

/// Form of the prompts of a chat.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Messages {
    /// One message per turn: what users and the model said before, and the new question.
    #[default]
    Turns,
    /// The whole prompt as one message of the user.
    One,
}

/// Earlier turns of the requests of a plan, as far as their prompts contain them.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// Preceding turn that the prompt continues, by request.
    before: Vec<Option<u32>>,
}

impl History {
    /// Finds, for each request, the turn of its session that its prompt continues: the blocks of
    /// that prompt come first, but for the last one, which may have been partly filled, and behind
    /// its answer there is room for a new message. A session whose prompt was rewritten begins again.
    pub fn of(requests: &[PlannedRequest]) -> Self {
        let mut last_of: HashMap<u32, usize> = HashMap::new();
        let before = requests.iter().enumerate().map(|(index, request)| {
            let before = last_of.insert(request.session?, index)?;
            continues(&requests[before], request).then_some(before as u32)
        });
        Self { before: before.collect() }
    }

    /// Returns the lengths in tokens of the messages of a prompt, which alternate between user and
    /// model, and begin and end with the user. They sum to its input tokens.
    pub fn messages(&self, requests: &[PlannedRequest], index: usize) -> Vec<u32> {
        let mut ends = vec![requests[index].input_tokens];
        let mut at = index;
        while let Some(before) = self.before.get(at).copied().flatten() {
            let (earlier, later) = (&requests[before as usize], &requests[at]);
            ends.push(answer_end(earlier, later));
            ends.push(earlier.input_tokens);
            at = before as usize;
        }
        let mut start = 0;
        let lengths = ends.into_iter().rev().map(|end| end - std::mem::replace(&mut start, end));
        lengths.collect()
    }

    /// Returns the number of requests that continue another.
    pub fn continued(&self) -> usize {
        self.before.iter().flatten().count()
    }
}

/// Returns where the answer to `earlier` ends in the prompt of `later`, with a token for the new
/// message behind it.
fn answer_end(earlier: &PlannedRequest, later: &PlannedRequest) -> u32 {
    let end = earlier.input_tokens.saturating_add(earlier.output_tokens);
    end.min(later.input_tokens.saturating_sub(1))
}

fn continues(earlier: &PlannedRequest, later: &PlannedRequest) -> bool {
    let whole = earlier.blocks.len().saturating_sub(1);
    let starts = |blocks: &[Block]| blocks.iter().map(|block| block.number).collect::<Vec<_>>();
    whole > 0
        && later.blocks.len() >= earlier.blocks.len()
        && starts(&earlier.blocks[..whole]) == starts(&later.blocks[..whole])
        && answer_end(earlier, later) > earlier.input_tokens
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Phase;

    /// A turn of session 7 with blocks of 10 tokens.
    fn turn(numbers: &[u32], input_tokens: u32, output_tokens: u32) -> PlannedRequest {
        let mut left = input_tokens;
        let mut blocks = Vec::new();
        for &number in numbers {
            let tokens = left.min(10);
            left -= tokens;
            blocks.push(Block { number, tokens, id: u64::from(number) });
        }
        PlannedRequest {
            intended_ns: 0,
            session: Some(7),
            turn: 0,
            think_ns: 0,
            phase: Phase::Measured,
            input_tokens,
            output_tokens,
            blocks,
        }
    }

    #[test]
    fn a_chat_alternates_between_user_and_model() {
        // The last block of a prompt is partly filled, and has another number when it is full.
        let requests =
            [turn(&[0, 1, 2], 25, 8), turn(&[0, 1, 3, 4], 40, 5), turn(&[0, 1, 3, 4, 5, 6], 60, 1)];
        let history = History::of(&requests);
        assert_eq!(history.messages(&requests, 0), [25]);
        assert_eq!(history.messages(&requests, 1), [25, 8, 7]);
        assert_eq!(history.messages(&requests, 2), [25, 8, 7, 5, 15]);
        assert_eq!(history.continued(), 2);
    }

    #[test]
    fn a_rewritten_prompt_begins_again() {
        for later in [
            // Other content, a shorter prompt, no room for a message behind the answer.
            turn(&[0, 9, 3, 4], 40, 5),
            turn(&[0, 1], 20, 5),
            turn(&[0, 1, 3], 25, 5),
        ] {
            let requests = [turn(&[0, 1, 2], 25, 8), later];
            let tokens = requests[1].input_tokens;
            assert_eq!(History::of(&requests).messages(&requests, 1), [tokens]);
        }
        let alone = PlannedRequest { session: None, ..turn(&[0, 1, 3, 4], 40, 5) };
        let requests = [turn(&[0, 1, 2], 25, 8), alone];
        assert_eq!(History::of(&requests).messages(&requests, 1), [40]);
    }

    #[test]
    fn a_shortened_answer_leaves_a_token_for_the_question() {
        let requests = [turn(&[0, 1, 2], 25, 90), turn(&[0, 1, 3], 28, 5)];
        assert_eq!(History::of(&requests).messages(&requests, 1), [25, 2, 1]);
    }
}
