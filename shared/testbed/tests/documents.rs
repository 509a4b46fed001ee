//! Rules for the documents: length, links, words, and the list of decisions.

use std::fs;
use std::path::{Path, PathBuf};

const README_LINES_MAX: usize = 150;
const ARCHITECTURE_WORDS_MAX: usize = 2_000;
/// Words that the glossary replaces, and British spellings.
const WORDS_BANNED: [&str; 20] = [
    "told",
    "hears",
    "heard",
    "felt",
    "anew",
    "so many",
    "somebody",
    "nobody",
    "whoever",
    "made-up",
    "for want of",
    "behaviour",
    "colour",
    "licence",
    "neighbour",
    "normalise",
    "optimise",
    "quantise",
    "recognise",
    "serialise",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn text(path: &str) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every Markdown file of the project, generated folders left out.
fn documents() -> Vec<PathBuf> {
    let mut folders = vec![root()];
    let mut documents = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of the workspace can be read") {
            let path = entry.expect("a folder of the workspace can be read").path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if path.is_dir() {
                let generated = ["target", "node_modules", "reports"].contains(&name.as_str());
                if !generated && !name.starts_with('.') {
                    folders.push(path);
                }
            } else if name.ends_with(".md") {
                documents.push(path);
            }
        }
    }
    assert!(documents.len() > 20, "only {} documents found", documents.len());
    documents.sort();
    documents
}

/// Returns the text outside of code blocks and code spans, where brackets are not links.
fn prose(text: &str) -> String {
    let mut prose = String::new();
    let mut in_block = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            in_block = !in_block;
        } else if !in_block {
            prose.extend(line.split('`').step_by(2));
            prose.push('\n');
        }
    }
    prose
}

/// Returns the targets of all links and pictures.
fn links(text: &str) -> Vec<String> {
    let prose = prose(text);
    let targets = prose.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
    targets.map(|(target, _)| target.to_owned()).collect()
}

/// Returns the anchors of all headings, as GitHub derives them.
fn anchors(text: &str) -> Vec<String> {
    let headings = text.lines().filter(|line| line.starts_with('#'));
    headings.map(|line| anchor(line.trim_start_matches('#').trim())).collect()
}

fn anchor(heading: &str) -> String {
    let characters = heading.to_lowercase().replace(' ', "-");
    characters.chars().filter(|c| c.is_alphanumeric() || matches!(c, '-' | '_')).collect()
}

/// Returns the reason why a relative link leads nowhere.
fn broken(document: &Path, link: &str) -> Option<String> {
    if link.contains("://") || link.starts_with("mailto:") {
        return None;
    }
    let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
    let target = if path.is_empty() {
        document.to_owned()
    } else {
        document.parent().unwrap_or(Path::new("")).join(path)
    };
    if !target.exists() {
        return Some(format!("{}: {link} does not exist", document.display()));
    }
    let headings = fs::read_to_string(&target).map(|text| anchors(&text)).unwrap_or_default();
    let found = anchor.is_empty() || headings.iter().any(|heading| heading == anchor);
    (!found).then(|| format!("{}: {link} names no heading", document.display()))
}

#[test]
fn every_relative_link_leads_somewhere() {
    let mut checked = 0;
    let mut faults = Vec::new();
    for document in documents() {
        let text = fs::read_to_string(&document).expect("a document is UTF-8");
        for link in links(&text) {
            checked += 1;
            faults.extend(broken(&document, &link));
        }
    }
    assert!(checked > 40, "only {checked} links found");
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn words_are_those_of_the_glossary() {
    let mut faults = Vec::new();
    for document in documents() {
        // The glossary lists the words that it replaces.
        if document.ends_with("docs/GLOSSARY.md") {
            continue;
        }
        let text = fs::read_to_string(&document).expect("a document is UTF-8");
        let words =
            format!(" {} ", prose(&text).to_lowercase().replace(['\n', '.', ',', ';', ':'], " "));
        for banned in WORDS_BANNED {
            if words.contains(&format!(" {banned} ")) {
                faults.push(format!("{}: {banned:?}", document.display()));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn the_readme_is_an_introduction() {
    let lines = text("README.md").lines().count();
    assert!(lines <= README_LINES_MAX, "{lines} lines, at most {README_LINES_MAX}");
}

#[test]
fn the_architecture_is_one_page() {
    let words = text("ARCHITECTURE.md").split_whitespace().count();
    assert!(words <= ARCHITECTURE_WORDS_MAX, "{words} words, at most {ARCHITECTURE_WORDS_MAX}");
}

#[test]
fn the_architecture_names_every_crate() {
    let text = text("ARCHITECTURE.md");
    let mut crates = vec!["bench".to_owned(), "loadgen".to_owned()];
    for folder in ["services", "shared"] {
        for entry in fs::read_dir(root().join(folder)).expect("the folder can be read") {
            let path = entry.expect("the folder can be read").path();
            if path.join("Cargo.toml").exists() {
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                crates.push(format!("{folder}/{name}"));
            }
        }
    }
    assert!(crates.len() > 12, "only {} crates found", crates.len());
    crates.retain(|name| !text.contains(&format!("`{name}`")));
    assert!(crates.is_empty(), "ARCHITECTURE.md lacks {}", crates.join(", "));
}

#[test]
fn every_decision_is_listed_once_under_its_number() {
    let list = text("docs/decisions/README.md");
    let mut numbers = Vec::new();
    for entry in fs::read_dir(root().join("docs/decisions")).expect("the folder can be read") {
        let name = entry.expect("the folder can be read").file_name();
        let name = name.to_string_lossy().into_owned();
        if name == "README.md" {
            continue;
        }
        let number = name.split('-').next().unwrap_or_default().to_owned();
        assert!(number.len() == 3 && number.parse::<u16>().is_ok(), "{name}: no number");
        assert_eq!(list.matches(&format!("[{number}]({name})")).count(), 1, "{name}: not listed");
        let page = text(&format!("docs/decisions/{name}"));
        assert!(page.starts_with(&format!("# {number} ")), "{name}: the title has another number");
        numbers.push(number);
    }
    let count = numbers.len();
    numbers.sort();
    numbers.dedup();
    assert_eq!(numbers.len(), count, "two decisions have one number: {numbers:?}");
}
