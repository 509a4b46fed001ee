//! House rules for source files that no lint checks.

use std::fs;
use std::path::{Path, PathBuf};

const LINES_MAX: usize = 450;

fn sources() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut folders: Vec<PathBuf> =
        ["services", "shared", "loadgen", "bench"].iter().map(|name| root.join(name)).collect();
    let mut sources = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of the workspace can be read") {
            let path = entry.expect("a folder of the workspace can be read").path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if path.is_dir() {
                if name != "target" && !name.starts_with('.') {
                    folders.push(path);
                }
            } else if name.ends_with(".rs") {
                let text = fs::read_to_string(&path).expect("a source file is UTF-8");
                sources.push((path, text));
            }
        }
    }
    assert!(50 < sources.len(), "only {} source files found", sources.len());
    sources.sort();
    sources
}

/// Lines before the tests at the bottom of the file.
fn lines(text: &str) -> usize {
    let code = text.split("\n#[cfg(test)]\nmod tests").next().unwrap_or_default();
    code.lines().count()
}

fn offenders(is: impl Fn(&Path, &str) -> Option<String>) -> Vec<String> {
    let found = |(path, text): &(PathBuf, String)| {
        is(path, text).map(|what| format!("{}: {what}", path.display()))
    };
    sources().iter().filter_map(found).collect()
}

#[test]
fn every_file_says_what_it_is_for() {
    let silent = offenders(|_, text| {
        (!text.starts_with("//! ")).then(|| "does not begin with a //! sentence".to_owned())
    });
    assert!(silent.is_empty(), "{}", silent.join("\n"));
}

#[test]
fn no_file_is_too_long_to_read() {
    let long = offenders(|path, text| {
        let lines = if path.components().any(|part| part.as_os_str() == "tests") {
            return None;
        } else {
            lines(text)
        };
        (LINES_MAX < lines).then(|| format!("{lines} lines, at most {LINES_MAX}"))
    });
    assert!(long.is_empty(), "{}", long.join("\n"));
}

#[test]
fn nothing_is_left_to_do() {
    // Written in halves, so that this file does not find itself.
    let marks = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X:")];
    let open = offenders(|_, text| {
        let hit = |(number, line): (usize, &str)| {
            marks.iter().any(|mark| line.contains(mark)).then(|| format!("line {}", number + 1))
        };
        text.lines().enumerate().find_map(hit)
    });
    assert!(open.is_empty(), "{}", open.join("\n"));
}

#[test]
fn time_and_environment_come_from_outside_where_decisions_are_made() {
    let pure = ["shared/protocol/src", "shared/scheduling/src", "shared/simulation/src"];
    let banned =
        ["Instant::now", "SystemTime::now", "std::env::", "thread::spawn", "HashMap", "HashSet"];
    let acting = offenders(|path, text| {
        let path = path.to_string_lossy();
        let decides = pure.iter().any(|folder| path.contains(folder));
        let used = banned.iter().find(|name| text.contains(*name));
        used.filter(|_| decides).map(|name| format!("uses {name}"))
    });
    assert!(acting.is_empty(), "{}", acting.join("\n"));
}
