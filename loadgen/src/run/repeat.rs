//! The command line of a run, to be run again, without secrets.

/// Flags whose values may be secrets.
const SECRET: [&str; 2] = ["--api-key", "--header"];

/// Joins `words` for a shell. Values of headers become `…`.
pub(super) fn command(words: impl Iterator<Item = String>) -> String {
    let mut hide = false;
    words
        .map(|word| {
            if std::mem::take(&mut hide) {
                return quoted(&hidden(&word));
            }
            hide = SECRET.contains(&word.as_str());
            match word.split_once('=').filter(|(flag, _)| SECRET.contains(flag)) {
                Some((flag, value)) => quoted(&format!("{flag}={}", hidden(value))),
                None => quoted(&word),
            }
        })
        .collect::<Vec<_>>()
        .join(" ")
}

/// Returns a header with its name only.
fn hidden(header: &str) -> String {
    match header.split_once(':') {
        Some((name, _)) => format!("{name}: …"),
        None => "…".to_owned(),
    }
}

fn quoted(word: &str) -> String {
    if !word.is_empty()
        && word.chars().all(|c| c.is_ascii_alphanumeric() || "-_./:=,%+@".contains(c))
    {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_can_be_typed_again_and_tells_no_secret() {
        let words = [
            "loadgen",
            "run",
            "--header",
            "Authorization: Bearer s3cret",
            "--header=x-key: s3cret",
            "--extra-body",
            r#"{"a":"it's"}"#,
            "--api-key",
            "s3cret",
            "--api-key=s3cret",
            "--rate",
            "5",
            "--header",
            "s3cret",
        ];
        let text = command(words.map(str::to_owned).into_iter());
        assert!(!text.contains("s3cret"), "{text}");
        assert_eq!(
            text,
            r#"loadgen run --header 'Authorization: …' '--header=x-key: …' --extra-body '{"a":"it'\''s"}' --api-key '…' '--api-key=…' --rate 5 --header '…'"#
        );
    }
}
