//! The conversion of token bytes to text, which never splits a character.
//!
//! **Invariant**: the concatenated output depends on the concatenated input only, not on where
//! tokens begin and end.

/// An incremental UTF-8 decoder. It holds the bytes of an unfinished character, at most three.
#[derive(Clone, Debug, Default)]
pub(crate) struct Detokenizer {
    held: Vec<u8>,
}

impl Detokenizer {
    /// Adds the bytes of the next token and returns the text that is certain now. U+FFFD replaces
    /// bytes that can no longer become a character.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> String {
        if self.held.is_empty()
            && let Ok(text) = std::str::from_utf8(bytes)
        {
            return text.to_owned();
        }
        self.held.extend_from_slice(bytes);
        let kept_from = self.held.len() - unfinished_bytes(&self.held);
        let text = String::from_utf8_lossy(&self.held[..kept_from]).into_owned();
        self.held.drain(..kept_from);
        text
    }

    /// Returns the held bytes as text, at the end of the sequence: a character that was never
    /// finished.
    pub(crate) fn finish(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.held)).into_owned()
    }
}

/// Returns the number of bytes at the end of `bytes` that begin a character whose rest may follow.
fn unfinished_bytes(bytes: &[u8]) -> usize {
    let mut rest = bytes;
    loop {
        match std::str::from_utf8(rest) {
            Ok(_) => return 0,
            Err(error) => match error.error_len() {
                None => return rest.len() - error.valid_up_to(),
                Some(invalid) => rest = &rest[error.valid_up_to() + invalid..],
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn in_pieces(bytes: &[u8], cuts: &[usize]) -> String {
        let mut detokenizer = Detokenizer::default();
        let mut text = String::new();
        let mut start = 0;
        let mut ends: Vec<usize> = cuts.iter().map(|cut| cut % (bytes.len() + 1)).collect();
        ends.push(bytes.len());
        ends.sort_unstable();
        for end in ends {
            text += &detokenizer.push(&bytes[start..end]);
            start = end;
        }
        text + &detokenizer.finish()
    }

    #[test]
    fn a_character_comes_whole_with_its_last_byte() {
        let mut detokenizer = Detokenizer::default();
        let bytes = "é🦀".as_bytes();
        let pieces: Vec<String> = bytes.iter().map(|&byte| detokenizer.push(&[byte])).collect();
        assert_eq!(pieces, ["", "é", "", "", "", "🦀"]);
        assert_eq!(detokenizer.finish(), "");
    }

    #[test]
    fn an_unfinished_character_is_replaced_only_at_the_end() {
        let mut detokenizer = Detokenizer::default();
        assert_eq!(detokenizer.push(b"a\xf0\x9f"), "a");
        assert_eq!(detokenizer.finish(), "\u{fffd}");
    }

    #[test]
    fn bytes_that_cannot_become_a_character_are_replaced_at_once() {
        let mut detokenizer = Detokenizer::default();
        assert_eq!(detokenizer.push(b"\xff"), "\u{fffd}");
        assert_eq!(detokenizer.push(b"\xf0\x9f"), "");
        assert_eq!(detokenizer.push(b"b"), "\u{fffd}b");
    }

    proptest! {
        #[test]
        fn any_split_of_any_bytes_gives_the_same_text(
            bytes in prop::collection::vec(any::<u8>(), 0..64),
            cuts in prop::collection::vec(any::<usize>(), 0..20),
        ) {
            prop_assert_eq!(in_pieces(&bytes, &cuts), String::from_utf8_lossy(&bytes));
        }

        #[test]
        fn any_split_of_any_text_gives_it_back(
            text in ".{0,40}",
            cuts in prop::collection::vec(any::<usize>(), 0..20),
        ) {
            prop_assert_eq!(in_pieces(text.as_bytes(), &cuts), text);
        }
    }
}
