//! Flags from a YAML file.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::CommandFactory;
use config::{Config, File, FileFormat, Map, Value, ValueKind};

use super::Cli;

/// A file of flags that cannot be used.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the message of a variant names its fields")]
pub enum FileError {
    /// The file cannot be read, or is not YAML.
    #[error("cannot read the flags in {path}: {source}")]
    Read { path: PathBuf, source: config::ConfigError },
    /// A key is not a flag of the command.
    #[error("{path}: {command} has no flag --{key}; `loadgen {command} --help` lists them")]
    Unknown { path: PathBuf, command: String, key: String },
    /// A value cannot be the value of a flag.
    #[error("{path}: {key} is {found}: expected a text, a number, true, false or a list of them")]
    Value { path: PathBuf, key: String, found: &'static str },
}

/// Returns the words of a command line with the flags of its `--config FILE` before the others. A
/// flag that the command line has, too, is not taken from the file.
pub fn expand(words: Vec<OsString>) -> Result<Vec<OsString>, FileError> {
    let Some(path) = value_of(&words, "config") else { return Ok(words) };
    let Some(command) = words.get(1).and_then(|word| word.to_str()).map(str::to_owned) else {
        return Ok(words);
    };
    let flags = flags(Path::new(&path), &command, &words)?;
    let mut all = words;
    all.splice(2..2, flags);
    Ok(all)
}

/// Returns the value of the last `--name VALUE` or `--name=VALUE`.
fn value_of(words: &[OsString], name: &str) -> Option<OsString> {
    let joined = format!("--{name}=");
    let mut found = None;
    for (at, word) in words.iter().enumerate() {
        let Some(text) = word.to_str() else { continue };
        if let Some(value) = text.strip_prefix(&joined) {
            found = Some(value.into());
        } else if text.strip_prefix("--") == Some(name) {
            found = words.get(at + 1).cloned();
        }
    }
    found
}

fn flags(path: &Path, command: &str, words: &[OsString]) -> Result<Vec<OsString>, FileError> {
    let file = File::new(&path.to_string_lossy(), FileFormat::Yaml);
    let read = Config::builder().add_source(file).build();
    let keys: Map<String, Value> = read
        .and_then(Config::try_deserialize)
        .map_err(|source| FileError::Read { path: path.to_owned(), source })?;
    let known: Vec<String> = Cli::command()
        .find_subcommand(command)
        .into_iter()
        .flat_map(|command| command.get_arguments().filter_map(|it| it.get_long()))
        .map(str::to_owned)
        .collect();
    // The order of a map is random, and that of repeated runs must not be.
    let mut keys: Vec<(String, Value)> = keys.into_iter().collect();
    keys.sort_by(|(one, _), (other, _)| one.cmp(other));
    let mut flags = Vec::new();
    for (key, value) in keys {
        let name = key.replace('_', "-");
        if !known.contains(&name) || name == "config" {
            let command = command.to_owned();
            return Err(FileError::Unknown { path: path.to_owned(), command, key: name });
        }
        if is_given(words, &name) {
            continue;
        }
        push(&mut flags, &name, value.kind).map_err(|found| FileError::Value {
            path: path.to_owned(),
            key,
            found,
        })?;
    }
    Ok(flags)
}

fn is_given(words: &[OsString], name: &str) -> bool {
    let (alone, joined) = (format!("--{name}"), format!("--{name}="));
    words.iter().filter_map(|word| word.to_str()).any(|it| it == alone || it.starts_with(&joined))
}

/// Adds the words of one flag; each item of a list is the flag once more. Fails with what was found
/// instead of a value.
fn push(flags: &mut Vec<OsString>, name: &str, kind: ValueKind) -> Result<(), &'static str> {
    let flag = || OsString::from(format!("--{name}"));
    match kind {
        ValueKind::Boolean(true) => flags.push(flag()),
        ValueKind::Boolean(false) => {}
        ValueKind::Array(items) => {
            for item in items {
                match item.kind {
                    // Such as `at: [[60s, kill -9 4711]]`.
                    ValueKind::Array(values) => {
                        flags.push(flag());
                        for value in values {
                            flags.push(scalar(value.kind)?.into());
                        }
                    }
                    kind => push(flags, name, kind)?,
                }
            }
        }
        kind => flags.push(format!("--{name}={}", scalar(kind)?).into()),
    }
    Ok(())
}

fn scalar(kind: ValueKind) -> Result<String, &'static str> {
    match kind {
        ValueKind::String(text) => Ok(text),
        ValueKind::I64(number) => Ok(number.to_string()),
        ValueKind::U64(number) => Ok(number.to_string()),
        ValueKind::I128(number) => Ok(number.to_string()),
        ValueKind::U128(number) => Ok(number.to_string()),
        ValueKind::Float(number) => Ok(number.to_string()),
        ValueKind::Nil => Err("empty"),
        ValueKind::Table(_) => Err("a map"),
        ValueKind::Boolean(_) => Err("true or false within a list"),
        ValueKind::Array(_) => Err("a list within a list"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Command;
    use clap::Parser;

    fn words(text: &str) -> Vec<OsString> {
        text.split(' ').map(OsString::from).collect()
    }

    /// Expands `loadgen run MORE` with a file of this content.
    fn expanded(content: &str, more: &str) -> Result<Vec<OsString>, FileError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.yaml");
        std::fs::write(&path, content).unwrap();
        expand(words(&format!("loadgen run --config {}{more}", path.display())))
    }

    #[test]
    fn a_file_holds_a_whole_run() {
        let content = "url: http://a:1\nrate: 2.5\nrequests: 7\nslo: [ttft=1s, tpot=50ms]\n\
                       heed-eos: true\non_full: drop\nat: [[60s, kill -9 4711], [2m, 'true']]\n";
        let all = expanded(content, " --url http://b:2").unwrap();
        let Command::Run(args) = Cli::try_parse_from(all).unwrap().command else {
            panic!("no run")
        };
        assert_eq!(args.target.url, "http://b:2");
        assert_eq!((args.load.rate, args.load.requests), (Some(2.5), Some(7)));
        assert!(args.sending.respect_eos && args.reporting.slos.len() == 2);
        assert_eq!(args.sending.at, ["60s", "kill -9 4711", "2m", "true"]);
    }

    #[test]
    fn what_is_no_flag_is_named() {
        for (content, expected) in [
            ("ratte: 1\n", "run has no flag --ratte; `loadgen run --help` lists them"),
            ("config: x\n", "run has no flag --config"),
            ("rate:\n", "rate is empty: expected a text"),
            ("rate: {a: 1}\n", "rate is a map: expected a text"),
            ("rate: [\n", "cannot read the flags in "),
        ] {
            let error = expanded(content, "").unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        let absent = expand(words("loadgen run --config /nonexistent.yaml")).unwrap_err();
        assert!(absent.to_string().contains("/nonexistent.yaml"), "{absent}");
        let plain = words("loadgen run --rate 1");
        assert_eq!(expand(plain.clone()).unwrap(), plain);
    }
}
