//! The search for stop strings in text that arrives in pieces. Text that may become a stop string is
//! held back.
//!
//! **Invariant**: the text that passes and the place of the cut depend on the whole text only, not on
//! its pieces: the match that *ends* first wins, the longest of those that end together.

use protocol::TokenId;

/// Stop tokens that are taken from the model.
pub(crate) const MODEL_STOP_TOKENS_MAX: usize = 64;

/// The conditions under which a choice stops.
#[derive(Clone, Debug, Default)]
pub(crate) struct StopRules {
    pub(crate) strings: Vec<String>,
    pub(crate) tokens: Vec<TokenId>,
    pub(crate) min_tokens: u32,
    pub(crate) ignore_eos: bool,
    /// The stop string or stop token is part of the output.
    pub(crate) included: bool,
}

impl StopRules {
    /// Returns the tokens that end a sequence: the client's and the model's `own`.
    pub(crate) fn stop_tokens(&self, own: &[TokenId]) -> Vec<TokenId> {
        let own = if self.ignore_eos { &[] } else { &own[..own.len().min(MODEL_STOP_TOKENS_MAX)] };
        let mut tokens: Vec<TokenId> = own.iter().chain(&self.tokens).copied().collect();
        tokens.sort_unstable();
        tokens.dedup();
        tokens
    }
}

/// A search for stop strings.
#[derive(Clone, Debug, Default)]
pub(crate) struct StopMatcher {
    stops: Vec<String>,
    held: String,
}

/// The result of one more piece of text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Scan {
    /// The text that certainly does not belong to a stop string.
    Text(String),
    /// A stop string was found.
    Stopped {
        /// The text before the stop string.
        before: String,
        /// The stop string.
        stop: String,
    },
}

impl StopMatcher {
    /// Returns a matcher for `stops`; empty strings are ignored.
    pub(crate) fn new(stops: Vec<String>) -> Self {
        let stops = stops.into_iter().filter(|stop| !stop.is_empty()).collect();
        Self { stops, held: String::new() }
    }

    /// Scans the next piece of text.
    pub(crate) fn push(&mut self, piece: &str) -> Scan {
        if self.stops.is_empty() {
            return Scan::Text(piece.to_owned());
        }
        self.held += piece;
        if let Some((start, stop)) = self.first_match() {
            let stop = stop.to_owned();
            let mut before = std::mem::take(&mut self.held);
            before.truncate(start);
            return Scan::Stopped { before, stop };
        }
        let kept_from = self.held.len() - self.open_bytes();
        let kept = self.held.split_off(kept_from);
        Scan::Text(std::mem::replace(&mut self.held, kept))
    }

    /// Returns the text that is still held, at the end of the text.
    pub(crate) fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    fn first_match(&self) -> Option<(usize, &str)> {
        let matches = self.stops.iter().filter_map(|stop| {
            let start = self.held.find(stop.as_str())?;
            Some((start + stop.len(), start, stop.as_str()))
        });
        matches.min_by_key(|(end, start, _)| (*end, *start)).map(|(_, start, stop)| (start, stop))
    }

    /// Returns the length of the longest suffix of the held text that a stop string begins with.
    fn open_bytes(&self) -> usize {
        let longest = self.stops.iter().filter_map(|stop| {
            let limit = self.held.len().min(stop.len() - 1);
            (1..=limit).rev().find(|&bytes| {
                self.held.as_bytes()[self.held.len() - bytes..] == stop.as_bytes()[..bytes]
            })
        });
        longest.max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn run(stops: &[&str], pieces: &[&str]) -> (String, Option<String>) {
        let mut matcher = StopMatcher::new(stops.iter().map(|&stop| stop.to_owned()).collect());
        let mut text = String::new();
        for piece in pieces {
            match matcher.push(piece) {
                Scan::Text(passed) => text += &passed,
                Scan::Stopped { before, stop } => return (text + &before, Some(stop)),
            }
        }
        (text + &matcher.finish(), None)
    }

    #[test]
    fn a_stop_string_over_three_pieces_is_found_and_cut() {
        let (text, stop) = run(&["\n\nQ:"], &["yes\n", "\nQ", ": no"]);
        assert_eq!((text.as_str(), stop.as_deref()), ("yes", Some("\n\nQ:")));
    }

    #[test]
    fn only_what_may_become_a_stop_string_is_held() {
        let mut matcher = StopMatcher::new(vec!["END".to_owned()]);
        assert_eq!(matcher.push("the E"), Scan::Text("the ".to_owned()));
        assert_eq!(matcher.push("N"), Scan::Text(String::new()));
        assert_eq!(matcher.push("E"), Scan::Text("EN".to_owned()));
        assert_eq!(matcher.finish(), "E");
    }

    #[test]
    fn the_match_that_ends_first_wins_and_the_longest_of_equals() {
        assert_eq!(run(&["abcd", "bc"], &["abcd"]), ("a".to_owned(), Some("bc".to_owned())));
        assert_eq!(run(&["bc", "abc"], &["abc"]), (String::new(), Some("abc".to_owned())));
    }

    #[test]
    fn a_cut_inside_a_character_of_a_stop_string_does_not_panic() {
        // "é" and "è" share their first byte.
        assert_eq!(run(&["xé"], &["xè", "x", "é"]).0, "xè");
        assert_eq!(run(&["é"], &["è"]), ("è".to_owned(), None));
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_text_and_the_same_stop(
            text in "[abé]{0,24}",
            stops in prop::collection::vec("[abé]{1,4}", 0..4),
            cuts in prop::collection::vec(any::<usize>(), 0..10),
        ) {
            let stops: Vec<&str> = stops.iter().map(String::as_str).collect();
            let chars: Vec<char> = text.chars().collect();
            let mut ends: Vec<usize> = cuts.iter().map(|cut| cut % (chars.len() + 1)).collect();
            ends.push(chars.len());
            ends.sort_unstable();
            let mut start = 0;
            let mut pieces = Vec::new();
            for end in ends {
                pieces.push(chars[start..end].iter().collect::<String>());
                start = end;
            }
            let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
            let (whole, stop) = run(&stops, &[&text]);
            prop_assert_eq!(run(&stops, &pieces), (whole.clone(), stop.clone()));
            match stop {
                Some(stop) => prop_assert!(text.starts_with(&(whole.clone() + &stop))),
                None => prop_assert_eq!(&whole, &text),
            }
            prop_assert!(stops.iter().all(|stop| !whole.contains(stop)));
        }
    }
}
