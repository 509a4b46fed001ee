//! Source text as words, marks and comments, with the lines they stand on.

/// Kind of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// An identifier or keyword.
    Word,
    /// A number.
    Number,
    /// The text of a string literal, without its quotes.
    Text,
    /// A character or byte literal.
    Character,
    /// A lifetime or label.
    Lifetime,
    /// One operator or delimiter.
    Mark,
    /// A comment with its slashes.
    Comment,
}

/// One token.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Token<'a> {
    pub(crate) kind: Kind,
    pub(crate) text: &'a str,
    /// Counted from 1.
    pub(crate) line: usize,
}

impl Token<'_> {
    /// Returns whether it is this word or mark.
    pub(crate) fn is(&self, text: &str) -> bool {
        matches!(self.kind, Kind::Word | Kind::Mark) && self.text == text
    }
}

/// Operators of more than one character that must not be read as several.
const LONG_MARKS: [&str; 22] = [
    "..=", "...", "<<=", ">>=", "<<", "::", "->", "=>", "==", "!=", "<=", ">=", "&&", "||", "..",
    "+=", "-=", "*=", "/=", "%=", "|=", "&=",
];

/// Reads a whole source file.
pub(crate) fn tokens(source: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    let (mut rest, mut line) = (source, 1);
    while let Some(first) = rest.chars().next() {
        let (kind, length) = next(rest, first);
        let (text, after) = rest.split_at(length);
        if let Some(kind) = kind {
            tokens.push(Token { kind, text: bare(kind, text), line });
        }
        line += text.matches('\n').count();
        rest = after;
    }
    tokens
}

/// Returns the kind and length of what `rest` begins with; white space has no kind.
fn next(rest: &str, first: char) -> (Option<Kind>, usize) {
    if first.is_whitespace() {
        (None, first.len_utf8())
    } else if rest.starts_with("//") {
        (Some(Kind::Comment), rest.find('\n').unwrap_or(rest.len()))
    } else if rest.starts_with("/*") {
        (Some(Kind::Comment), rest.find("*/").map_or(rest.len(), |end| end + 2))
    } else if let Some(length) = string(rest) {
        (Some(Kind::Text), length)
    } else if first == '\'' || rest.starts_with("b'") {
        quoted(rest)
    } else if first.is_alphabetic() || first == '_' {
        (Some(Kind::Word), word(rest))
    } else if first.is_ascii_digit() {
        (Some(Kind::Number), number(rest))
    } else {
        let long = LONG_MARKS.iter().find(|mark| rest.starts_with(**mark));
        (Some(Kind::Mark), long.map_or(first.len_utf8(), |mark| mark.len()))
    }
}

fn bare(kind: Kind, text: &str) -> &str {
    match kind {
        Kind::Text => text.trim_start_matches(['b', 'c', 'r', '#']).trim_end_matches('#'),
        _ => text,
    }
}

fn word(rest: &str) -> usize {
    rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len())
}

fn number(rest: &str) -> usize {
    let length = word(rest);
    let after = &rest[length..];
    // `1.5` is one number; `1..5` and `1.max(2)` are not.
    if after.starts_with('.') && after[1..].starts_with(|c: char| c.is_ascii_digit()) {
        length + 1 + word(&after[1..])
    } else {
        length
    }
}

/// Returns the length of a string literal of any kind.
fn string(rest: &str) -> Option<usize> {
    let prefixes = ["br", "cr", "b", "c", "r", ""];
    let prefix = prefixes.iter().find(|it| rest.starts_with(**it))?.len();
    let is_raw = rest[..prefix].ends_with('r');
    if !is_raw {
        let mut escaped = false;
        let body = rest[prefix..].strip_prefix('"')?;
        for (at, c) in body.char_indices() {
            match c {
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                '"' => return Some(prefix + 1 + at + 1),
                _ => {}
            }
        }
        return Some(rest.len());
    }
    let hashes = rest[prefix..].bytes().take_while(|byte| *byte == b'#').count();
    let body = rest[prefix + hashes..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    let length = body.find(&end).map_or(body.len(), |at| at + end.len());
    Some(prefix + hashes + 1 + length)
}

/// Tells a character from a lifetime and returns its length.
fn quoted(rest: &str) -> (Option<Kind>, usize) {
    let start = rest.find('\'').unwrap_or_default() + 1;
    let body = &rest[start..];
    if let Some(escaped) = body.strip_prefix('\\') {
        let skipped = escaped.chars().next().map_or(0, char::len_utf8);
        let end = escaped[skipped..].find('\'').map_or(escaped.len(), |at| skipped + at + 1);
        return (Some(Kind::Character), start + 1 + end);
    }
    let one = body.chars().next().map_or(0, char::len_utf8);
    if body[one..].starts_with('\'') {
        (Some(Kind::Character), start + one + 1)
    } else {
        (Some(Kind::Lifetime), start + word(body))
    }
}

/// Returns the index of the delimiter that closes the one at `open`.
pub(crate) fn closing(tokens: &[Token], open: usize) -> usize {
    let mut depth = 0_usize;
    for (index, token) in tokens.iter().enumerate().skip(open) {
        if token.kind != Kind::Mark {
            continue;
        }
        match token.text {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return index;
        }
    }
    tokens.len() - 1
}

#[test]
fn literals_comments_and_lifetimes_are_kept_apart() {
    let source = r####"fn f<'a>(x: &'a str) { /* } */ let c = '{'; let q = b'\''; // "no text
        let r = r#"a "quoted" }"#; let n = 1.5e3 + 0x1f..2; }"####;
    let tokens = tokens(source);
    let of =
        |kind: Kind| tokens.iter().filter(|t| t.kind == kind).map(|t| t.text).collect::<Vec<_>>();
    assert_eq!(of(Kind::Lifetime), ["'a", "'a"]);
    assert_eq!(of(Kind::Character), ["'{'", r"b'\''"]);
    assert_eq!(of(Kind::Comment), ["/* } */", "// \"no text"]);
    assert_eq!(of(Kind::Text), ["\"a \"quoted\" }\""]);
    assert_eq!(of(Kind::Number), ["1.5e3", "0x1f", "2"]);
    let open = tokens.iter().position(|t| t.is("{")).expect("a body");
    assert_eq!(closing(&tokens, open), tokens.len() - 1);
    assert_eq!(tokens[tokens.len() - 1].line, 2);
}
