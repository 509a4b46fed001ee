//! The two generation endpoints and the names that go with each.

/// A generation endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Endpoint {
    Chat,
    Completion,
}

impl Endpoint {
    /// Returns the path.
    pub(crate) fn path(self) -> &'static str {
        match self {
            Self::Chat => "/v1/chat/completions",
            Self::Completion => "/v1/completions",
        }
    }

    /// Returns `gen_ai.operation.name` of the GenAI conventions.
    pub(crate) fn operation(self) -> &'static str {
        match self {
            Self::Chat => "chat",
            Self::Completion => "text_completion",
        }
    }

    /// Returns the name of the root span.
    pub(crate) fn span(self) -> &'static str {
        match self {
            Self::Chat => "POST /v1/chat/completions",
            Self::Completion => "POST /v1/completions",
        }
    }

    /// Returns the prefix of response ids.
    pub(crate) fn id_prefix(self) -> &'static str {
        match self {
            Self::Chat => "chatcmpl-",
            Self::Completion => "cmpl-",
        }
    }
}
