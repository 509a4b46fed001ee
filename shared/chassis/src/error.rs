//! Errors for people: one text for an error and its causes.

use std::error::Error;

/// Returns the error and its causes as one line, each cause once.
///
/// Many errors name their cause in their own text and give it as their source, too.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let said = cause.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("ask the server: {source}")]
    struct Ask {
        source: Connect,
    }

    #[derive(Debug, thiserror::Error)]
    #[error("connect: {0}")]
    struct Connect(#[source] std::io::Error);

    fn ask() -> Ask {
        Ask { source: Connect(std::io::Error::other("connection refused")) }
    }

    #[test]
    fn a_cause_that_was_named_is_not_named_again() {
        assert_eq!(chain(&ask()), "ask the server: connect: connection refused");
        let wrapped = anyhow::Error::new(ask()).context("no status");
        let text = chain(wrapped.as_ref());
        assert_eq!(text, "no status: ask the server: connect: connection refused");
    }

    #[test]
    fn causes_that_were_not_named_are() {
        let wrapped = anyhow::Error::new(std::io::Error::other("disk full")).context("write it");
        assert_eq!(chain(wrapped.as_ref()), "write it: disk full");
    }
}
