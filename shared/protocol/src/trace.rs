//! W3C trace context, and the decisions of gateways about which traces to export.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::blocks::{hex, parse_hex};

/// Most trace ids of either kind in one [`TraceVerdicts`] message.
pub const VERDICTS_MAX: usize = 8_192;

/// A W3C `traceparent`: the span that caused a request or a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Traceparent {
    /// Id of the trace, not zero.
    pub trace_id: [u8; 16],
    /// Id of the parent span, not zero.
    pub parent_id: [u8; 8],
    /// Flags; bit 0 is "sampled".
    pub flags: u8,
}

impl Traceparent {
    /// Parses `version-traceid-parentid-flags` in lower-case hexadecimal digits; `None` if it is
    /// malformed or an id is zero. Versions after 00 may carry more fields; ff is forbidden.
    pub fn parse(text: &str) -> Option<Self> {
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return None;
        }
        let mut fields = text.split('-');
        let [version] = lower_hex(fields.next()?)?;
        let trace_id: [u8; 16] = lower_hex(fields.next()?)?;
        let parent_id: [u8; 8] = lower_hex(fields.next()?)?;
        let [flags] = lower_hex(fields.next()?)?;
        let version_allows = match version {
            0 => fields.next().is_none(),
            0xff => false,
            _ => true,
        };
        let is_valid = version_allows && trace_id != [0; 16] && parent_id != [0; 8];
        is_valid.then_some(Self { trace_id, parent_id, flags })
    }
}

fn lower_hex<const BYTES: usize>(text: &str) -> Option<[u8; BYTES]> {
    if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return None;
    }
    let mut bytes = [0; BYTES];
    parse_hex(text, &mut bytes)?;
    Some(bytes)
}

impl fmt::Display for Traceparent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{}-{}-{:02x}", hex(&self.trace_id), hex(&self.parent_id), self.flags)
    }
}

/// Gateway → everyone: which traces to export and which to discard, by id.
///
/// A lost message is not repeated: services discard the oldest undecided spans when they need room.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceVerdicts {
    /// Ids of traces to export.
    pub keep: Vec<[u8; 16]>,
    /// Ids of traces to discard.
    pub forget: Vec<[u8; 16]>,
}

impl TraceVerdicts {
    /// Returns true if no trace is decided.
    pub fn is_empty(&self) -> bool {
        self.keep.is_empty() && self.forget.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
    const SPAN: &str = "b7ad6b7169203331";

    #[test]
    fn a_valid_traceparent_survives_reading_and_writing() {
        let text = format!("00-{TRACE}-{SPAN}-01");
        assert_eq!(Traceparent::parse(&text).unwrap().to_string(), text);
    }

    #[test]
    fn a_later_version_may_have_more_fields() {
        let text = format!("cc-{TRACE}-{SPAN}-01-what-the-future-will-be");
        assert_eq!(Traceparent::parse(&text).unwrap().flags, 1);
    }

    #[test]
    fn malformed_traceparents_are_refused() {
        let zero_trace = "0".repeat(32);
        for text in [
            String::new(),
            "00".to_owned(),
            format!("00-{TRACE}-{SPAN}"),
            format!("00-{TRACE}-{SPAN}-01-more"),
            format!("ff-{TRACE}-{SPAN}-01"),
            format!("cc-{TRACE}-{SPAN}-01-line\r\nbreak"),
            format!("00-{zero_trace}-{SPAN}-01"),
            format!("00-{TRACE}-0000000000000000-01"),
            format!("00-{}-{SPAN}-01", TRACE.to_uppercase()),
            format!("00-{TRACE}x-{SPAN}-01"),
            format!("00-{TRACE}-{SPAN}-1"),
            format!("00-+{}-{SPAN}-01", &TRACE[1..]),
        ] {
            assert_eq!(Traceparent::parse(&text), None, "{text:?}");
        }
    }
}
