//! A decoder of server-sent events, with bounded memory.

/// Largest size of one event.
pub const EVENT_BYTES_MAX: usize = 1 << 20;

/// One event, borrowed from the received bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event<'a> {
    /// The `event` field; empty if there is none.
    pub name: &'a str,
    /// The `data` lines, joined by line feeds.
    pub data: &'a str,
}

/// A stream that is not a stream of events.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SseError {
    /// An event is larger than the bound.
    #[error("an event is longer than {EVENT_BYTES_MAX} bytes")]
    TooLong,
    /// A line is not UTF-8.
    #[error("a line is not valid UTF-8")]
    Utf8,
}

/// A decoder of chunks that are cut anywhere. It buffers only the incomplete event.
#[derive(Debug, Default)]
pub struct SseDecoder {
    line: Vec<u8>,
    name: String,
    data: String,
    has_data: bool,
    after_cr: bool,
    started: bool,
}

impl SseDecoder {
    /// Decodes the next bytes and passes the completed events to `sink`, until it returns an error.
    pub fn push<E: From<SseError>>(
        &mut self,
        mut bytes: &[u8],
        mut sink: impl FnMut(Event<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        while !bytes.is_empty() {
            if let Some((data, rest)) = self.whole_event(bytes) {
                let data = std::str::from_utf8(data).map_err(|_| SseError::Utf8)?;
                sink(Event { name: "", data })?;
                bytes = rest;
                continue;
            }
            if std::mem::take(&mut self.after_cr) && bytes[0] == b'\n' {
                bytes = &bytes[1..];
                continue;
            }
            let end = bytes.iter().position(|b| *b == b'\n' || *b == b'\r');
            let held = self.line.len() + self.data.len() + end.unwrap_or(bytes.len());
            if held > EVENT_BYTES_MAX {
                return Err(SseError::TooLong.into());
            }
            let Some(end) = end else {
                self.line.extend_from_slice(bytes);
                return Ok(());
            };
            self.line.extend_from_slice(&bytes[..end]);
            self.after_cr = bytes[end] == b'\r';
            bytes = &bytes[end + 1..];
            if self.end_line()? {
                let event = Event { name: &self.name, data: &self.data };
                let accepted = sink(event);
                self.name.clear();
                self.data.clear();
                accepted?;
            }
        }
        Ok(())
    }

    /// Returns the data of the event that the end of the body left incomplete, if it has any.
    pub fn unfinished(&self) -> Option<String> {
        let line = std::str::from_utf8(&self.line).ok()?;
        let value =
            line.strip_prefix("data:").map(|value| value.strip_prefix(' ').unwrap_or(value));
        match (self.has_data, value) {
            (true, None) => Some(self.data.clone()),
            (true, Some(value)) => Some(format!("{}\n{value}", self.data)),
            (false, value) => value.map(str::to_owned),
        }
    }

    /// Decodes the common case in place: nothing is buffered, and a whole `data: …` event of one
    /// line with two line feeds comes next. Returns its data and the rest.
    fn whole_event<'a>(&self, bytes: &'a [u8]) -> Option<(&'a [u8], &'a [u8])> {
        let nothing_held = self.line.is_empty() && !self.has_data && self.name.is_empty();
        let rest = bytes.strip_prefix(b"data: ").filter(|_| nothing_held && self.started)?;
        let end = rest.iter().position(|b| *b == b'\n')?;
        let (data, rest) = (&rest[..end], rest[end + 1..].strip_prefix(b"\n")?);
        (end <= EVENT_BYTES_MAX && !data.contains(&b'\r')).then_some((data, rest))
    }

    /// Processes a complete line. Returns whether it ends an event.
    fn end_line(&mut self) -> Result<bool, SseError> {
        let line = std::mem::take(&mut self.line);
        let mut text = std::str::from_utf8(&line).map_err(|_| SseError::Utf8)?;
        if !std::mem::replace(&mut self.started, true) {
            text = text.trim_start_matches('\u{feff}');
        }
        let mut ended = false;
        if text.is_empty() {
            ended = std::mem::take(&mut self.has_data);
            if !ended {
                self.name.clear();
            }
        } else {
            let (field, value) = text.split_once(':').unwrap_or((text, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "data" => {
                    if std::mem::replace(&mut self.has_data, true) {
                        self.data.push('\n');
                    }
                    self.data.push_str(value);
                }
                "event" => {
                    self.name.clear();
                    self.name.push_str(value);
                }
                // Comments have an empty field name; id and retry have no meaning here.
                _ => {}
            }
        }
        self.line = line;
        self.line.clear();
        Ok(ended)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Name and data of the events in `chunks`.
    fn decode(chunks: &[&[u8]]) -> Result<Vec<(String, String)>, SseError> {
        let (mut decoder, mut events) = (SseDecoder::default(), Vec::new());
        chunks.iter().try_for_each(|chunk| {
            decoder.push(chunk, |event| {
                events.push((event.name.to_owned(), event.data.to_owned()));
                Ok(())
            })
        })?;
        Ok(events)
    }

    fn data(text: &str) -> (String, String) {
        (String::new(), text.to_owned())
    }

    #[test]
    fn comments_names_and_line_ends() {
        let text =
            "\u{feff}: ping\n\ndata: a\r\n\r\nevent: error\rdata:b\rdata: c\r\rid: 5\n\ndata\n\n";
        let named = ("error".to_owned(), "b\nc".to_owned());
        assert_eq!(decode(&[text.as_bytes()]), Ok(vec![data("a"), named, data("")]));
        assert_eq!(decode(&[b"data: unfinished\n"]), Ok(vec![]));
    }

    #[test]
    fn the_end_of_a_body_leaves_an_event_unfinished() {
        for (bytes, expected) in [
            ("data: [DONE]\n", Some("[DONE]")),
            ("data: [DONE]", Some("[DONE]")),
            ("data:a\ndata: b", Some("a\nb")),
            ("data: whole\n\n", None),
            ("data: whole\n\n: comment", None),
        ] {
            let mut decoder = SseDecoder::default();
            decoder.push(bytes.as_bytes(), |_| Ok::<_, SseError>(())).unwrap();
            assert_eq!(decoder.unfinished().as_deref(), expected, "{bytes:?}");
        }
    }

    #[test]
    fn what_is_held_is_bounded() {
        let chunk = vec![b'x'; EVENT_BYTES_MAX / 2];
        assert_eq!(decode(&[b"data: ", &chunk, &chunk]), Err(SseError::TooLong));
        let mut decoder = SseDecoder::default();
        let line = format!("data: {}\n", "y".repeat(1000));
        let pushed = (0..2000).map(|_| decoder.push(line.as_bytes(), |_| Ok(())));
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
            let expected: Vec<_> = texts.iter().map(|t| data(t)).collect();
            let chunks: Vec<&[u8]> = wire.as_bytes().chunks(cut).collect();
            prop_assert_eq!(decode(&chunks), Ok(expected));
        }

        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = decode(&[&bytes]);
        }
    }
}
