//! Server-sent events from byte chunks cut anywhere, with a bound on what is held.

/// The most bytes of one event that are held.
pub const MAX_EVENT_BYTES: usize = 1 << 20;

/// One event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// The `event` field; empty when there is none.
    pub name: String,
    /// The `data` lines, joined by line feeds.
    pub data: String,
}

/// Why the stream is not a stream of events.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SseError {
    /// An event grew beyond the bound.
    #[error("an event is longer than {MAX_EVENT_BYTES} bytes")]
    TooLong,
    /// A line is not UTF-8.
    #[error("a line is not valid UTF-8")]
    Utf8,
}

/// Takes chunks and gives events.
#[derive(Default)]
pub struct SseDecoder {
    line: Vec<u8>,
    event: Event,
    has_data: bool,
    after_cr: bool,
    started: bool,
}

impl SseDecoder {
    /// Takes the next bytes and appends the events they complete.
    pub fn push(&mut self, mut bytes: &[u8], events: &mut Vec<Event>) -> Result<(), SseError> {
        while !bytes.is_empty() {
            if std::mem::take(&mut self.after_cr) && bytes[0] == b'\n' {
                bytes = &bytes[1..];
                continue;
            }
            let end = bytes.iter().position(|b| *b == b'\n' || *b == b'\r');
            let held = self.line.len() + self.event.data.len() + end.unwrap_or(bytes.len());
            if held > MAX_EVENT_BYTES {
                return Err(SseError::TooLong);
            }
            let Some(end) = end else {
                self.line.extend_from_slice(bytes);
                return Ok(());
            };
            self.line.extend_from_slice(&bytes[..end]);
            self.after_cr = bytes[end] == b'\r';
            bytes = &bytes[end + 1..];
            self.end_line(events)?;
        }
        Ok(())
    }

    fn end_line(&mut self, events: &mut Vec<Event>) -> Result<(), SseError> {
        let line = std::mem::take(&mut self.line);
        let mut text = std::str::from_utf8(&line).map_err(|_| SseError::Utf8)?;
        if !std::mem::replace(&mut self.started, true) {
            text = text.trim_start_matches('\u{feff}');
        }
        if text.is_empty() {
            let event = std::mem::take(&mut self.event);
            if std::mem::take(&mut self.has_data) {
                events.push(event);
            }
        } else {
            let (field, value) = text.split_once(':').unwrap_or((text, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "data" => {
                    if std::mem::replace(&mut self.has_data, true) {
                        self.event.data.push('\n');
                    }
                    self.event.data.push_str(value);
                }
                "event" => self.event.name = value.to_owned(),
                // Comments have an empty field name; id and retry mean nothing here.
                _ => {}
            }
        }
        self.line = line;
        self.line.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decode(chunks: &[&[u8]]) -> Result<Vec<Event>, SseError> {
        let (mut decoder, mut events) = (SseDecoder::default(), Vec::new());
        chunks.iter().try_for_each(|chunk| decoder.push(chunk, &mut events))?;
        Ok(events)
    }

    fn data(text: &str) -> Event {
        Event { name: String::new(), data: text.to_owned() }
    }

    #[test]
    fn comments_names_and_line_ends() {
        let text =
            "\u{feff}: ping\n\ndata: a\r\n\r\nevent: error\rdata:b\rdata: c\r\rid: 5\n\ndata\n\n";
        let named = Event { name: "error".to_owned(), data: "b\nc".to_owned() };
        assert_eq!(decode(&[text.as_bytes()]), Ok(vec![data("a"), named, data("")]));
        assert_eq!(decode(&[b"data: unfinished\n"]), Ok(vec![]));
    }

    #[test]
    fn what_is_held_is_bounded() {
        let chunk = vec![b'x'; MAX_EVENT_BYTES / 2];
        assert_eq!(decode(&[b"data: ", &chunk, &chunk]), Err(SseError::TooLong));
        let mut decoder = SseDecoder::default();
        let line = format!("data: {}\n", "y".repeat(1000));
        let pushed = (0..2000).map(|_| decoder.push(line.as_bytes(), &mut Vec::new()));
        assert!(pushed.into_iter().any(|r| r == Err(SseError::TooLong)));
        assert_eq!(decode(&[b"data: \xff\xfe\n\n"]), Err(SseError::Utf8));
    }

    proptest! {
        #[test]
        fn cuts_do_not_matter(
            texts in prop::collection::vec("[a-zé:\u{1F600} ]{0,12}", 0..8),
            ends in prop::sample::select(vec!["\n", "\r\n", "\r"]),
            cut in 1_usize..7,
        ) {
            let wire: String = texts.iter().map(|t| format!(": hi{ends}data: {t}{ends}{ends}")).collect();
            let expected: Vec<Event> = texts.iter().map(|t| data(t)).collect();
            let chunks: Vec<&[u8]> = wire.as_bytes().chunks(cut).collect();
            prop_assert_eq!(decode(&chunks), Ok(expected));
        }

        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = decode(&[&bytes]);
        }
    }
}
