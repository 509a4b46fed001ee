//! The model that needs no file: the tokens that gateway and workers share for the simulated engine.
//!
//! Its tokens are all bytes, some five hundred common words, each with and without a space before
//! it, and one token that ends a text. A prompt of common words has a token per word.

use std::sync::LazyLock;

use crate::blocks::FileDigest;
use crate::ids::TokenId;

/// The name of the served model.
pub const NAME: &str = "simulated";
/// Longest sequence.
pub const CONTEXT_TOKENS: u32 = 32_768;
/// The token that ends a text.
pub const END: TokenId = FIRST_WORD + 2 * WORDS as TokenId;
/// One more than the largest token.
pub const VOCABULARY: usize = END as usize + 1;

/// Token of the first word; those before are bytes.
const FIRST_WORD: TokenId = 256;
/// The number of words.
const WORDS: usize = 517;

/// The words, sorted, each once.
const SORTED: &str = "\
    a able about above across act add after again against age ago air all almost alone along \
    already also although always am among an and animal another answer any anything appear are \
    area arm around art as ask at away back bad base be bear beat beautiful became because \
    become bed been before began begin behind being below best better between big bird black \
    blue boat body book both box boy bring brought build busy but buy by call came can car care \
    carry case cat catch cause center certain change check children circle city class clean \
    clear close cold color come common complete contain cook cool copy correct cost could \
    country course cover cross cry current cut dark day deep did differ direction distance do \
    dog done door down draw dream drive dry during each early earth ease east eat end energy \
    enough even evening ever every example eye face fact fall family far farm fast father feel \
    feet few field figure fill final find fine fire first fish five floor fly follow food foot \
    for force form found four free friend from front full game gave get girl give glass go gold \
    good got govern great green ground group grow had half hand happen hard has have he head \
    hear heart heat help her here high him his hold home hope horse hot hour house how hundred \
    idea if in inch is island it just keep kind king knew know land language large last late \
    laugh lay lead learn leave left less let letter life light like line list listen little live \
    long look love low machine made main make man many map mark may me mean measure men might \
    mile mind minute miss money moon more morning most mother mountain move much music must my \
    name near need never new next night no north note nothing notice now number object ocean of \
    off often oh old on once one only open or order other our out over own page paper part pass \
    pattern people perhaps person picture piece place plain plan plane plant play point port \
    power press problem product pull put question quick rain ran reach read ready real red \
    remember rest right river road rock room round rule run said same saw say school science sea \
    second see seem self sentence set several shape she ship short should show side simple since \
    sing sit six size sleep slow small snow so some song soon sound south special spell stand \
    star start state stay step still stood stop story street strong study such sun sure table \
    take talk teach tell ten test than that the their them then there these they thing think \
    this those though thought through time to together told too took top toward town travel tree \
    true try turn two under unit until up us use usual very voice vowel walk want war warm was \
    watch water way we week well went were west what wheel when where which while white who \
    whole why will wind with wonder wood word work world would write year yes yet you young your";

static LIST: LazyLock<Vec<&str>> = LazyLock::new(|| SORTED.split(' ').collect());

/// Returns the digest in place of that of files.
pub fn files() -> FileDigest {
    FileDigest(blake3::derive_key("tandem 2026-11 simulated model", b"bytes and common words"))
}

/// Returns the words that are a single token after a space.
pub fn words() -> &'static [&'static str] {
    &LIST
}

/// Returns the token of a word after a space; the number wraps around.
pub fn word(number: u64) -> TokenId {
    FIRST_WORD + 2 * (number % WORDS as u64) as TokenId + 1
}

/// Returns the tokens of a text: whole words where it has common ones, bytes elsewhere.
pub fn encode(text: &str) -> Vec<TokenId> {
    let bytes = text.as_bytes();

    let mut tokens = Vec::with_capacity(text.len() / 4 + 1);
    let mut at = 0;
    while at < bytes.len() {
        let space = usize::from(bytes[at] == b' ');
        let rest = &bytes[at + space..];
        let length = rest.iter().take_while(|byte| byte.is_ascii_alphabetic()).count();
        let known = std::str::from_utf8(&rest[..length])
            .ok()
            .and_then(|word| LIST.binary_search(&word).ok());
        match known {
            Some(index) => {
                tokens.push(FIRST_WORD + 2 * index as TokenId + space as TokenId);
                at += space + length;
            }
            None => {
                // Unknown words whole, so that no word is found in the midst of another.
                let end = at + (space + length).max(1);
                tokens.extend(bytes[at..end].iter().map(|byte| TokenId::from(*byte)));
                at = end;
            }
        }
    }
    tokens
}

/// Returns the bytes of a token; none for [`END`].
pub fn token_bytes(token: TokenId) -> Vec<u8> {
    if let Ok(byte) = u8::try_from(token) {
        return vec![byte];
    }
    let index = (token - FIRST_WORD) as usize;
    match LIST.get(index / 2) {
        Some(word) if index.is_multiple_of(2) => word.as_bytes().to_vec(),
        Some(word) => [b" ", word.as_bytes()].concat(),
        None => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(tokens: &[TokenId]) -> String {
        let bytes: Vec<u8> = tokens.iter().flat_map(|token| token_bytes(*token)).collect();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn words_are_sorted_and_unique() {
        assert_eq!(LIST.len(), WORDS);
        assert!(LIST.is_sorted_by(|a, b| a < b));
        assert!(LIST.iter().all(|word| word.bytes().all(|byte| byte.is_ascii_lowercase())));
    }

    #[test]
    fn every_text_survives() {
        for text in ["", " ", "the time of day", "  The\nquick  brown-fox é 語 thermal", "the then"]
        {
            assert_eq!(decode(&encode(text)), text, "{text:?}");
        }
    }

    #[test]
    fn a_common_word_is_one_token_and_never_part_of_another() {
        assert_eq!(encode(&format!(" {}", LIST.join(" "))).len(), WORDS);
        assert_eq!(encode(" thequ").len(), 6);
        let tokens: Vec<TokenId> = (0..WORDS as u64).map(word).collect();
        assert_eq!(encode(&decode(&tokens)), tokens);
    }

    #[test]
    fn the_end_is_the_last_token_and_no_text() {
        assert_eq!(VOCABULARY, 256 + 2 * WORDS + 1);
        assert_eq!(token_bytes(END), b"");
    }
}
