//! W3C trace context in message headers.

use async_nats::HeaderMap;
use protocol::Traceparent;

/// Name of the header, as the W3C writes it.
const TRACEPARENT: &str = "traceparent";
/// Name of the header with the span under which the stages of a request go.
const REQUEST: &str = "tandem-request";

/// The trace context that travels beside a message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Context {
    /// `version-traceid-parentid-flags`; `None` when the sender has no trace.
    pub traceparent: Option<String>,
    /// The span of the request that the message is part of, if the sending has a span of its own.
    pub request: Option<String>,
}

impl Context {
    /// Creates the context of a trace; drops a malformed one.
    pub fn new(traceparent: impl Into<String>) -> Self {
        let traceparent = traceparent.into();
        Self { traceparent: is_valid(&traceparent).then_some(traceparent), request: None }
    }

    /// Creates the context of a message whose sending has a span of its own, within a request's.
    pub fn within(request: impl Into<String>, sending: impl Into<String>) -> Self {
        Self { request: Self::new(request).traceparent, ..Self::new(sending) }
    }

    /// Returns the span of the request that the message is part of.
    pub fn of_request(&self) -> Option<&str> {
        self.request.as_deref().or(self.traceparent.as_deref())
    }

    pub(crate) fn to_headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        if let Some(traceparent) = self.traceparent.as_deref().filter(|text| is_valid(text)) {
            headers.insert(TRACEPARENT, traceparent);
        }
        if let Some(request) = self.request.as_deref().filter(|text| is_valid(text)) {
            headers.insert(REQUEST, request);
        }
        headers
    }

    pub(crate) fn of_headers(headers: Option<&HeaderMap>) -> Self {
        let text = |name: &str| {
            let text = headers?.get(name)?.as_str();
            is_valid(text).then(|| text.to_owned())
        };
        Self { traceparent: text(TRACEPARENT), request: text(REQUEST) }
    }
}

fn is_valid(traceparent: &str) -> bool {
    Traceparent::parse(traceparent).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_context_survives_headers() {
        let context = Context::new(GOOD);
        assert_eq!(context.traceparent.as_deref(), Some(GOOD));
        assert_eq!(Context::of_headers(Some(&context.to_headers())), context);
        let request = GOOD.replace("00f067aa", "11f067aa");
        let context = Context::within(&request, GOOD);
        assert_eq!(Context::of_headers(Some(&context.to_headers())), context);
        assert_eq!(context.of_request(), Some(request.as_str()));
        assert_eq!(Context::new(GOOD).of_request(), Some(GOOD));
    }

    #[test]
    fn a_malformed_context_is_none() {
        let zero_trace = "00-00000000000000000000000000000000-00f067aa0ba902b7-01";
        for bad in ["", "00", &GOOD.to_uppercase(), &format!("{GOOD}-x"), zero_trace, &GOOD[..54]] {
            assert_eq!(Context::new(bad), Context::default(), "{bad:?}");
            let mut headers = HeaderMap::new();
            headers.insert(TRACEPARENT, bad);
            assert_eq!(Context::of_headers(Some(&headers)), Context::default(), "{bad:?}");
        }
    }
}
