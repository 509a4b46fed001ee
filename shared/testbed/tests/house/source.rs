//! The source files of the workspace, and rules over them.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use crate::tokens::{Token, closing, tokens};

/// A Rust file of the workspace.
pub(crate) struct Source {
    /// Relative to the workspace, such as `shared/bus`.
    pub(crate) package: String,
    /// Relative to the package, such as `src/tokens.rs`.
    pub(crate) path: String,
    pub(crate) text: String,
}

/// A breach of a rule.
pub(crate) struct Breach {
    pub(crate) line: usize,
    pub(crate) text: String,
}

impl Source {
    /// Returns whether the file is part of a library or program.
    pub(crate) fn is_shipped(&self) -> bool {
        self.path.starts_with("src/") && !UNSHIPPED.contains(&self.package.as_str())
    }

    /// Returns the tokens in front of the tests at the bottom of the file.
    pub(crate) fn code(&self) -> Vec<Token<'_>> {
        let mut tokens = tokens(&self.text);
        while let Some(start) = test_module(&tokens) {
            let open = (start..tokens.len()).find(|at| tokens[*at].is("{")).unwrap_or(start);
            let end = closing(&tokens, open);
            tokens.drain(start..=end);
        }
        tokens
    }
}

/// Packages that only tests use.
const UNSHIPPED: [&str; 4] =
    ["shared/testbed", "shared/testbed/macros", "shared/tinymodel", "shared/simulation"];

/// Returns the first token of `#[cfg(test)] mod name {`.
fn test_module(tokens: &[Token]) -> Option<usize> {
    (0..tokens.len()).find(|start| {
        let after = after_test_attribute(&tokens[*start..]);
        matches!(after, Some([keyword, _, open, ..]) if keyword.is("mod") && open.is("{"))
    })
}

/// Returns the tokens behind `#[cfg(test)]` and a visibility, if that is where `tokens` begin.
pub(crate) fn after_test_attribute<'a, 'b>(tokens: &'b [Token<'a>]) -> Option<&'b [Token<'a>]> {
    let attribute = ["#", "[", "cfg", "(", "test", ")", "]"];
    let (start, mut rest) = tokens.split_at_checked(attribute.len())?;
    if !attribute.iter().zip(start).all(|(text, token)| token.is(text)) {
        return None;
    }
    if let [public, after @ ..] = rest
        && public.is("pub")
    {
        rest = after;
        if rest.first()?.is("(") {
            rest = &rest[closing(rest, 0) + 1..];
        }
    }
    Some(rest)
}

/// Returns the folder of the workspace.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Reads all Rust files of the workspace, in the order of their paths.
pub(crate) fn sources() -> Vec<Source> {
    let mut sources = Vec::new();
    collect(&root(), "", "", &mut sources);
    assert!(sources.len() > 50, "only {} source files found", sources.len());
    sources.sort_by(|a, b| (&a.package, &a.path).cmp(&(&b.package, &b.path)));
    sources
}

/// Reads a folder; below a manifest, paths are relative to its folder.
fn collect(folder: &Path, package: &str, path: &str, sources: &mut Vec<Source>) {
    for entry in fs::read_dir(folder).expect("a folder of the workspace can be read") {
        let entry = entry.expect("a folder of the workspace can be read").path();
        let name = entry.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let path = format!("{path}{name}");
        if entry.join("Cargo.toml").exists() {
            let parent = if package.is_empty() { String::new() } else { format!("{package}/") };
            collect(&entry, &format!("{parent}{path}"), "", sources);
        } else if entry.is_dir() && name != "target" && !name.starts_with('.') {
            collect(&entry, package, &format!("{path}/"), sources);
        } else if name.ends_with(".rs") {
            let text = fs::read_to_string(&entry).expect("a source file is UTF-8");
            sources.push(Source { package: package.to_owned(), path, text });
        }
    }
}

/// Asserts that no source breaks a rule.
pub(crate) fn hold(rule: impl Fn(&Source) -> Vec<Breach>) {
    let mut breaches = Vec::new();
    for source in sources() {
        let found = rule(&source);
        let Source { package, path, .. } = source;
        breaches.extend(
            found.into_iter().map(|it| format!("{package}/{path}:{}: {}", it.line, it.text)),
        );
    }
    assert!(breaches.is_empty(), "{} breaches:\n{}", breaches.len(), breaches.join("\n"));
}

/// Prints a line past the capture of the harness.
pub(crate) fn hint(text: &str) {
    // A hint that cannot be printed changes nothing.
    let _ = writeln!(std::io::stderr(), "hint: {text}");
}
