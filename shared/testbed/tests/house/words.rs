//! The words of the source: what comments begin with, and what they do not say.

use crate::source::{Breach, hint, hold, sources};
use crate::tokens::{Kind, tokens};

/// A longer file is worth a look; it is no fault.
const LINES_HINT: usize = 450;

#[test]
fn every_file_says_what_it_is_for() {
    hold(|source| {
        let text = "does not begin with a //! sentence".to_owned();
        let is_silent = !source.text.starts_with("//! ");
        is_silent.then_some(Breach { line: 1, text }).into_iter().collect()
    });
}

#[test]
fn long_files_are_named() {
    for source in sources().iter().filter(|source| source.path.starts_with("src/")) {
        let code = source.text.split("\n#[cfg(test)]\nmod tests").next().unwrap_or_default();
        let lines = code.lines().count();
        if lines > LINES_HINT {
            hint(&format!("{}/{} has {lines} lines", source.package, source.path));
        }
    }
}

#[test]
fn nothing_is_left_to_do() {
    // Written in halves, so that this file does not find itself.
    let marks = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X:")];
    hold(|source| {
        let lines = (1..).zip(source.text.lines());
        let open = lines.filter(|(_, line)| marks.iter().any(|mark| line.contains(mark)));
        open.map(|(line, text)| Breach { line, text: text.trim().to_owned() }).collect()
    });
}

#[test]
fn comments_begin_with_a_noun_or_a_verb() {
    let headless = ["What", "How", "Whether", "Who", "Which", "Whose"];
    hold(|source| {
        let tokens = tokens(&source.text);
        let comments = tokens.iter().filter(|token| token.kind == Kind::Comment);
        comments
            .filter(|comment| {
                let words = comment.text.trim_start_matches(['/', '!', '*', ' ']);
                let first = words.split(|c: char| !c.is_alphabetic()).next().unwrap_or_default();
                headless.contains(&first)
            })
            .map(|comment| Breach { line: comment.line, text: comment.text.to_owned() })
            .collect()
    });
}

#[test]
fn words_are_those_of_the_field() {
    // Written in halves, so that this file does not find itself.
    let banned = [
        concat!("to", "ld"),
        concat!("he", "ar"),
        concat!("he", "ars"),
        concat!("fe", "lt"),
        concat!("an", "ew"),
        concat!("some", "body"),
        concat!("no", "body"),
    ];
    let phrase = concat!("so", " many");
    hold(|source| {
        // The longer list for documents names the words; the vocabulary of the simulated model has them.
        let is_list = ["tests/documents.rs", "src/simulated.rs"].contains(&source.path.as_str());
        let lines = (1..).zip(source.text.lines().filter(|_| !is_list));
        lines
            .filter_map(|(line, text)| {
                let lower = text.to_lowercase();
                let mut words = lower.split(|c: char| !c.is_alphabetic());
                let word = words.find(|word| banned.contains(word));
                let word = word.or(lower.contains(phrase).then_some(phrase))?;
                Some(Breach { line, text: format!("`{word}` in: {}", text.trim()) })
            })
            .collect()
    });
}

#[test]
fn time_and_environment_come_from_outside_where_decisions_are_made() {
    let pure = ["shared/protocol", "shared/scheduling", "shared/simulation"];
    let banned =
        ["Instant::now", "SystemTime::now", "std::env::", "thread::spawn", "HashMap", "HashSet"];
    hold(|source| {
        let decides = pure.contains(&source.package.as_str()) && source.path.starts_with("src/");
        let used = banned.iter().filter(|name| decides && source.text.contains(*name));
        used.map(|name| Breach { line: 1, text: format!("uses {name}") }).collect()
    });
}
