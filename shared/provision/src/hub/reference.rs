//! `hf:owner/repo[@revision][:file]`.

use std::fmt;
use std::path::{Component, Path};
use std::str::FromStr;

const SCHEME: &str = "hf:";

/// A model on a hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubRef {
    /// `owner/name`.
    pub repo: String,
    /// A branch, a tag or a commit.
    pub revision: String,
    /// The GGUF file, or nothing for a model in safetensors or the only GGUF.
    pub file: Option<String>,
}

/// A text that names no model on a hub.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is not hf:owner/repo, hf:owner/repo:file.gguf or hf:owner/repo@revision:file.gguf"
)]
pub struct ParseHubRefError {
    text: String,
}

impl HubRef {
    /// Returns the reference that `path` is, if it begins as one.
    pub fn from_path(path: &Path) -> Option<Result<Self, ParseHubRefError>> {
        let text = path.to_str()?;
        text.starts_with(SCHEME).then(|| text.parse())
    }

    /// Returns the short name of the model.
    pub fn name(&self) -> &str {
        self.repo.rsplit_once('/').map_or(&self.repo, |(_, name)| name)
    }
}

impl FromStr for HubRef {
    type Err = ParseHubRefError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text).ok_or_else(|| ParseHubRefError { text: text.to_owned() })
    }
}

fn parse(text: &str) -> Option<HubRef> {
    let rest = text.strip_prefix(SCHEME)?;
    let (at, file) = match rest.split_once(':') {
        Some((at, file)) => (at, Some(file)),
        None => (rest, None),
    };
    let (repo, revision) = at.split_once('@').unwrap_or((at, "main"));
    let (owner, name) = repo.split_once('/')?;
    let is_sound =
        is_name(owner) && is_name(name) && is_relative(revision) && file.is_none_or(is_relative);
    is_sound.then(|| HubRef {
        repo: repo.to_owned(),
        revision: revision.to_owned(),
        file: file.map(str::to_owned),
    })
}

/// Returns whether a part is what a hub allows as the name of an owner or a repository.
fn is_name(part: &str) -> bool {
    let mut chars = part.chars();
    !part.is_empty()
        && !part.starts_with('.')
        && chars.all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
}

impl fmt::Display for HubRef {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{SCHEME}{}", self.repo)?;
        if self.revision != "main" {
            write!(formatter, "@{}", self.revision)?;
        }
        match &self.file {
            Some(file) => write!(formatter, ":{file}"),
            None => Ok(()),
        }
    }
}

/// Returns whether a path of a repository stays below the directory that it is joined to.
pub(super) fn is_relative(path: &str) -> bool {
    let mut components = Path::new(path).components();
    !path.is_empty()
        && !path.contains(['\\', '\0'])
        && components.all(|component| matches!(component, Component::Normal(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_read_and_written_the_same() {
        let parse = |text: &str| text.parse::<HubRef>().unwrap();
        let bare = parse("hf:Qwen/Qwen3-0.6B");
        assert_eq!((bare.repo.as_str(), bare.name()), ("Qwen/Qwen3-0.6B", "Qwen3-0.6B"));
        assert_eq!((bare.revision.as_str(), bare.file.as_deref()), ("main", None));
        let full = parse("hf:a/b.c@refs/pr/1:Q4/x_1.gguf");
        assert_eq!(full.revision, "refs/pr/1");
        assert_eq!(full.file.as_deref(), Some("Q4/x_1.gguf"));
        for text in ["hf:Qwen/Qwen3-0.6B", "hf:a/b.c@refs/pr/1:Q4/x_1.gguf", "hf:a/b:c.gguf"] {
            assert_eq!(parse(text).to_string(), text);
        }
    }

    #[test]
    fn what_is_no_reference_is_refused() {
        let texts = [
            "hf:",
            "hf:repo",
            "hf:a/b/c",
            "hf:/b",
            "hf:a/",
            "hf:a/..",
            "hf:a b/c",
            "hf:a/b:",
            "hf:a/b:../x",
            "hf:a/b:/x",
            "hf:a/b@:x",
            "hf:a/b@../..",
            "hf:a/b@",
        ];
        for text in texts {
            assert!(text.parse::<HubRef>().is_err(), "{text}");
            assert!(HubRef::from_path(Path::new(text)).unwrap().is_err(), "{text}");
        }
        for path in ["model.gguf", "/a/hf:b/c", "./hf:a/b"] {
            assert_eq!(HubRef::from_path(Path::new(path)), None);
        }
    }
}
