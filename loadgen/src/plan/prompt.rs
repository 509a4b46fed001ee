//! Prompts whose shared prefixes are exactly those of the plan.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use traces::random::{Stream, mix};
use traces::{TokenizerError, Vocabulary};

use crate::plan::vocabulary::{Alphabet, VocabularyError};
use crate::plan::{Origin, PlannedRequest};

/// A prompt as it is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Prompt {
    /// Token ids, exact by nature.
    Tokens(Vec<u32>),
    /// Text.
    Text(String),
    /// Messages of a chat, which alternate between user and model.
    Chat(Vec<String>),
}

/// Tokens that the chat template of a server adds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TemplateTokens {
    /// For a chat of one message.
    pub first: u32,
    /// For each further message.
    pub further: u32,
}

/// A prompt that could not be made.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the message of a variant names its fields")]
pub enum PromptError {
    /// The tokenizer failed.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The text has other tokens than those it was made of.
    #[error(
        "the text of {wanted} tokens is {got} tokens to the tokenizer, the first other one at {at}, \
         {place} of the prompt"
    )]
    NotFaithful { wanted: usize, got: usize, at: usize, place: String },
}

impl PromptError {
    /// Adds the place within the prompt.
    fn within(self, place: String) -> Self {
        let Self::NotFaithful { wanted, got, at, .. } = self else { return self };
        Self::NotFaithful { wanted, got, at, place }
    }

    /// Adds the block, or the boundary of two blocks, at which the text differs.
    fn in_blocks(self, blocks: &[Block]) -> Self {
        let Self::NotFaithful { at, .. } = self else { return self };
        let mut end = 0;
        let starts: Vec<usize> = blocks
            .iter()
            .map(|block| {
                let start = end;
                end += block.tokens as usize;
                start
            })
            .collect();
        let block = starts.partition_point(|start| *start <= at).saturating_sub(1);
        let place = if block > 0 && starts[block] == at {
            format!("at the boundary of blocks {} and {block}", block - 1)
        } else {
            format!("in block {block}")
        };
        self.within(place)
    }
}

/// Form of the prompts.
#[derive(Clone)]
pub enum PromptForm {
    /// Token ids.
    Tokens,
    /// Text of this vocabulary. Each text is checked to have the same tokens.
    ExactText(Arc<dyn Vocabulary>),
    /// Common English words, about one token each.
    Words,
}

/// Words of prompts without a tokenizer. Most tokenizers have one token for each.
const WORDS: &str = "the and for are but not you all any can had her was one our out day get has \
    him his how man new now old see two way who boy did its let put say she too use air end far \
    few got big men own ran run set six sun ten top try war yes act add age ago arm art ask bad \
    bag bar bed bit box bus buy car cat cup cut dog dry due ear eat egg eye fat fit fly fun gas";

/// A maker of the prompts of one run. The content of a block depends only on the seed, the trace
/// and the block's 64-bit id.
#[derive(Clone)]
pub struct PromptMaker {
    alphabet: Alphabet,
    form: PromptForm,
    key: [u8; 32],
    digits: usize,
    template: TemplateTokens,
}

impl PromptMaker {
    /// Creates a maker of prompts for plans with this origin.
    pub fn new(alphabet: Alphabet, form: PromptForm, origin: &Origin) -> Self {
        let mut hasher = blake3::Hasher::new_keyed(&origin.digest);
        hasher.update(b"loadgen prompt blocks v1");
        hasher.update(&origin.seed.to_le_bytes());
        let base = alphabet.ids().len();
        let digits = std::iter::successors(Some(base), |reach| Some(reach.saturating_mul(base)));
        let digits = 1 + digits.take_while(|reach| *reach < origin.blocks).count();
        let key = *hasher.finalize().as_bytes();
        Self { alphabet, form, key, digits, template: TemplateTokens::default() }
    }

    /// Shortens prompts by the `tokens` that the server's chat template adds, so that the server
    /// receives as many as planned. The template comes before each message, so the beginnings of
    /// the messages are shortened.
    pub fn with_template(self, template: TemplateTokens) -> Self {
        Self { template, ..self }
    }

    /// Creates an alphabet for prompts of common words.
    pub fn word_alphabet(seed: u64) -> Result<Alphabet, VocabularyError> {
        let hi = WORDS.split_whitespace().count() as u32;
        Alphabet::of_range(traces::units::Range { lo: 0, hi }, seed)
    }

    /// Form of the prompts.
    pub fn form(&self) -> &PromptForm {
        &self.form
    }

    /// Returns the token ids of a request's prompt (for common words: word numbers), at least one.
    pub fn tokens(&self, request: &PlannedRequest) -> Vec<u32> {
        self.tokens_behind(self.template.first, request)
    }

    /// Returns the token ids of a request's prompt without the first `template` ones.
    fn tokens_behind(&self, template: u32, request: &PlannedRequest) -> Vec<u32> {
        let mut tokens = Vec::with_capacity(request.input_tokens as usize);
        let mut template = template.min(request.input_tokens.saturating_sub(1));
        for block in &request.blocks {
            let room = template.min(block.tokens);
            template -= room;
            self.append_block(Block { tokens: block.tokens - room, ..*block }, &mut tokens);
        }
        tokens
    }

    /// Returns the prompt of a chat of messages with these lengths, which sum to the input tokens of
    /// the request. A message is the same in every prompt that has it at the same place.
    pub fn chat(&self, request: &PlannedRequest, lengths: &[u32]) -> Result<Prompt, PromptError> {
        let whole = self.tokens_behind(0, request);
        let mut rest = &whole[..];
        let mut messages = Vec::with_capacity(lengths.len());
        for (at, length) in lengths.iter().enumerate() {
            let (message, behind) = rest.split_at(rest.len().min(*length as usize));
            rest = behind;
            let template = if at == 0 { self.template.first } else { self.template.further };
            let room = message.len().saturating_sub(1).min(template as usize);
            let text = self.text(&message[room..]);
            messages.push(text.map_err(|error| error.within(format!("in message {at}")))?);
        }
        Ok(Prompt::Chat(messages))
    }

    /// Returns the text of `tokens`, which are words unless there is a tokenizer.
    fn text(&self, tokens: &[u32]) -> Result<String, PromptError> {
        if let PromptForm::ExactText(vocabulary) = &self.form {
            return exact_text(vocabulary.as_ref(), tokens);
        }
        let words: Vec<&str> = WORDS.split_whitespace().collect();
        let chosen: Vec<&str> = tokens.iter().map(|token| words[*token as usize]).collect();
        Ok(chosen.join(" "))
    }

    /// Returns the prompt of a request as it is sent.
    pub fn prompt(&self, request: &PlannedRequest) -> Result<Prompt, PromptError> {
        let tokens = self.tokens(request);
        match &self.form {
            PromptForm::Tokens => Ok(Prompt::Tokens(tokens)),
            PromptForm::ExactText(_) | PromptForm::Words => {
                let text = self.text(&tokens).map_err(|e| e.in_blocks(&request.blocks))?;
                Ok(Prompt::Text(text))
            }
        }
    }

    /// Counts the blocks of `requests` that have the same tokens as another block behind the same
    /// prefix. Only blocks that are too short to spell their number can.
    pub fn collisions(&self, requests: &[PlannedRequest]) -> usize {
        let mut seen: HashMap<(u64, Vec<u32>), u32> = HashMap::new();
        let mut alike = HashSet::new();
        for request in requests {
            let mut beginning = 0;
            for block in &request.blocks {
                if (block.tokens as usize) < self.digits {
                    let mut tokens = Vec::new();
                    self.append_block(*block, &mut tokens);
                    let first = *seen.entry((beginning, tokens)).or_insert(block.number);
                    if first != block.number {
                        alike.insert((beginning, block.number));
                    }
                }
                beginning = mix(beginning ^ mix(u64::from(block.number)));
            }
        }
        alike.len()
    }

    /// Appends the tokens of a block. The first ones spell the block's number, so that two blocks
    /// differ within them. The others come from a stream keyed by the block's id.
    fn append_block(&self, block: Block, into: &mut Vec<u32>) {
        let ids = self.alphabet.ids();
        let base = ids.len() as u64;
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        hasher.update(&block.id.to_le_bytes());
        let mut stream = Stream::keyed(*hasher.finalize().as_bytes());
        let mut rest = u64::from(block.number);
        for at in 0..block.tokens as usize {
            let place = if at < self.digits { rest % base } else { stream.below(base) };
            rest /= base;
            into.push(ids[place as usize]);
        }
    }
}

/// A block of a prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// Dense number in order of first appearance in the whole trace.
    pub number: u32,
    /// Tokens of the block in this prompt: fewer than elsewhere if the prompt ends in the block.
    pub tokens: u32,
    /// Id of the block in the trace.
    pub id: u64,
}

fn exact_text(vocabulary: &dyn Vocabulary, tokens: &[u32]) -> Result<String, PromptError> {
    let text = vocabulary.decode(tokens)?;
    let again = vocabulary.encode(&text)?;
    if again != tokens {
        let at = again.iter().zip(tokens).take_while(|(a, b)| a == b).count();
        let (wanted, got, place) = (tokens.len(), again.len(), String::new());
        return Err(PromptError::NotFaithful { wanted, got, at, place });
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Phase;
    use proptest::prelude::*;
    use traces::units::Range;

    fn origin(seed: u64, digest: [u8; 32], blocks: usize) -> Origin {
        Origin { source: String::new(), digest, seed, blocks }
    }

    fn maker(seed: u64) -> PromptMaker {
        let alphabet = Alphabet::of_range(Range { lo: 1000, hi: 1100 }, seed).unwrap();
        PromptMaker::new(alphabet, PromptForm::Tokens, &origin(seed, [3; 32], 6000))
    }

    fn request(blocks: &[u32], input_tokens: u32, block_tokens: u32) -> PlannedRequest {
        let mut left = input_tokens;
        let blocks = blocks.iter().map(|n| {
            let tokens = left.min(block_tokens);
            left -= tokens;
            Block { number: *n, tokens, id: u64::from(*n) << 32 }
        });
        let blocks = blocks.collect();
        PlannedRequest {
            intended_ns: 0,
            session: None,
            turn: 0,
            think_ns: 0,
            phase: Phase::Measured,
            input_tokens,
            output_tokens: 1,
            blocks,
        }
    }

    /// A vocabulary that splits at spaces as byte-level BPE does: a token is a space and a word.
    struct WordVocabulary {
        merges_pairs: bool,
    }

    impl Vocabulary for WordVocabulary {
        fn encode(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
            let words = text.split(' ').skip(1);
            let ids = words.map(|word| word.bytes().fold(0, |n, b| n * 26 + u32::from(b - b'a')));
            let mut ids: Vec<u32> = ids.collect();
            if self.merges_pairs && ids.len() > 1 {
                ids.truncate(1);
            }
            Ok(ids)
        }

        fn decode(&self, ids: &[u32]) -> Result<String, TokenizerError> {
            let letter = |n: u32| char::from(b'a' + (n % 26) as u8);
            Ok(ids.iter().flat_map(|n| [' ', letter(n / 26), letter(*n)]).collect())
        }

        fn size(&self) -> u32 {
            676
        }
    }

    proptest! {
        #[test]
        fn prefixes_are_shared_exactly_as_the_blocks_are(
            shared in 0_usize..6, left in 1_usize..4, right in 1_usize..4, block in 2_u32..20, seed: u64,
        ) {
            let common: Vec<u32> = (0..shared as u32).collect();
            let tail = |from: u32, n: usize| (from..from + n as u32).collect::<Vec<_>>();
            let a = [common.clone(), tail(100, left)].concat();
            let b = [common, tail(5000, right)].concat();
            let maker = maker(seed);
            let tokens = |blocks: &[u32]| {
                maker.tokens(&request(blocks, blocks.len() as u32 * block, block))
            };
            let (a, b) = (tokens(&a), tokens(&b));
            let same = a.iter().zip(&b).take_while(|(x, y)| x == y).count();
            // 6000 blocks have numbers of two digits in base 100.
            prop_assert!(same >= shared * block as usize);
            prop_assert!(same < shared * block as usize + 2);
        }

        #[test]
        fn a_partial_block_is_a_prefix_of_the_whole(n in 1_u32..40, seed: u64) {
            let maker = maker(seed);
            let whole = maker.tokens(&request(&[7], 40, 40));
            prop_assert_eq!(&maker.tokens(&request(&[7], n, 40))[..], &whole[..n as usize]);
        }
    }

    #[test]
    fn content_depends_on_seed_trace_and_name_only() {
        let asked = request(&[1, 2, 3], 300, 100);
        assert_eq!(maker(1).tokens(&asked), maker(1).tokens(&asked));
        assert_ne!(maker(1).tokens(&asked), maker(2).tokens(&asked));
        let alphabet = Alphabet::of_range(Range { lo: 1000, hi: 1100 }, 1).unwrap();
        let other = PromptMaker::new(alphabet, PromptForm::Tokens, &origin(1, [4; 32], 6000));
        assert_ne!(maker(1).tokens(&asked), other.tokens(&asked));
        assert!(maker(1).tokens(&asked).iter().all(|id| (1000..1100).contains(id)));
    }

    #[test]
    fn text_is_checked_to_give_its_tokens_back() {
        let text_maker = |merges_pairs| {
            let vocabulary = Arc::new(WordVocabulary { merges_pairs });
            let alphabet = Alphabet::of_words(vocabulary.as_ref(), 1).unwrap();
            PromptMaker::new(alphabet, PromptForm::ExactText(vocabulary), &origin(1, [0; 32], 2))
        };
        let asked = request(&[0, 1], 20, 16);
        let good = text_maker(false);
        let Prompt::Text(text) = good.prompt(&asked).unwrap() else { panic!("not text") };
        let vocabulary = WordVocabulary { merges_pairs: false };
        assert_eq!(vocabulary.encode(&text).unwrap(), good.tokens(&asked));
        let error = text_maker(true).prompt(&asked).unwrap_err();
        assert!(matches!(error, PromptError::NotFaithful { wanted: 20, got: 1, at: 1, .. }));
        assert!(error.to_string().ends_with("in block 0 of the prompt"), "{error}");
        let at_boundary = request(&[0, 1], 20, 1);
        let error = text_maker(true).prompt(&at_boundary).unwrap_err().to_string();
        assert!(error.ends_with("at the boundary of blocks 0 and 1 of the prompt"), "{error}");
    }

    fn template(first: u32) -> TemplateTokens {
        TemplateTokens { first, further: 0 }
    }

    #[test]
    fn a_chat_is_cut_into_messages_that_leave_room_for_the_template() {
        let alphabet = PromptMaker::word_alphabet(5).unwrap();
        let maker = PromptMaker::new(alphabet, PromptForm::Words, &origin(5, [0; 32], 10));
        let asked = request(&[0, 1, 2], 24, 8);
        let Prompt::Text(whole) = maker.prompt(&asked).unwrap() else { panic!("not text") };
        let whole: Vec<&str> = whole.split(' ').collect();
        let plain = maker.chat(&asked, &[10, 6, 8]).unwrap();
        let join = |range: std::ops::Range<usize>| whole[range].join(" ");
        assert_eq!(plain, Prompt::Chat(vec![join(0..10), join(10..16), join(16..24)]));
        let short = maker.with_template(TemplateTokens { first: 4, further: 7 });
        let expected = Prompt::Chat(vec![join(4..10), join(15..16), join(23..24)]);
        assert_eq!(short.chat(&asked, &[10, 6, 8]).unwrap(), expected);
        // The turn before sent the first message alone.
        let before = short.chat(&request(&[0, 1], 10, 8), &[10]).unwrap();
        assert_eq!(before, Prompt::Chat(vec![join(4..10)]));
    }

    #[test]
    fn the_template_takes_the_place_of_the_first_tokens() {
        let asked = request(&[0, 1, 2], 24, 8);
        let (plain, with) = (maker(1), maker(1).with_template(template(11)));
        let (whole, left) = (plain.tokens(&asked), with.tokens(&asked));
        assert_eq!(left.len(), 13);
        assert_eq!(left[..5], whole[8..13]);
        assert_eq!(left[5..], whole[16..]);
        assert_eq!(maker(1).with_template(template(99)).tokens(&asked).len(), 1);
    }

    #[test]
    fn blocks_too_short_to_differ_are_counted() {
        // 6000 blocks over 100 ids need two digits: 1 and 101 agree in their first one.
        let long = [request(&[7, 1], 4, 2), request(&[7, 101], 4, 2)];
        assert_eq!(maker(1).collisions(&long), 0);
        let short = [request(&[7, 1], 3, 2), request(&[7, 101], 3, 2), request(&[8, 101], 3, 2)];
        assert_eq!(maker(1).collisions(&short), 1);
    }

    #[test]
    fn plain_words_need_no_tokenizer() {
        let alphabet = PromptMaker::word_alphabet(5).unwrap();
        let maker = PromptMaker::new(alphabet, PromptForm::Words, &origin(5, [0; 32], 10));
        let Prompt::Text(text) = maker.prompt(&request(&[9], 12, 12)).unwrap() else {
            panic!("not text")
        };
        assert_eq!(text.split(' ').count(), 12);
    }
}
