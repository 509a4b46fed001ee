//! One way to write a thing.

use std::collections::BTreeMap;

use crate::source::{Breach, Source, hold, sources};
use crate::tokens::{Kind, Token, closing};

fn words(source: &Source) -> Vec<Token<'_>> {
    crate::tokens::tokens(&source.text).into_iter().filter(|t| t.kind != Kind::Comment).collect()
}

#[test]
fn functions_take_structs_instead_of_tuples() {
    hold(|source| {
        let tokens = words(source);
        let starts = (0..tokens.len()).filter(|at| tokens[*at].is("fn"));
        starts.flat_map(|at| tuple_parameters(&tokens, at)).collect()
    });
}

/// Returns the parameters of the function at `at` that are tuples, by pattern or by type.
fn tuple_parameters(tokens: &[Token], at: usize) -> Vec<Breach> {
    let is_named = tokens.get(at + 1).is_some_and(|name| name.kind == Kind::Word);
    let Some(open) = (at..tokens.len()).find(|at| tokens[*at].is("(")).filter(|_| is_named) else {
        return Vec::new();
    };
    // The parentheses of a bound such as `F: Fn(u32)` come before those of the parameters.
    let open = skip_generics(tokens, at + 2).unwrap_or(open);
    let end = closing(tokens, open);
    if tokens[open..end].iter().any(|token| token.is("in")) {
        // The strategies of a property, `x in 0..9`, are no parameters.
        return Vec::new();
    }
    let mut found = Vec::new();
    let mut index = open + 1;
    while index < end {
        let starts = tokens[index - 1].is(":")
            || tokens[index - 1].is(",")
            || index == open + 1
            || (tokens[index - 1].is("&") && tokens[index - 2].is(":"));
        if tokens[index].is("(") {
            let close = closing(tokens, index);
            if starts && tokens[index + 1..close].iter().any(|token| token.is(",")) {
                found.push(Breach { line: tokens[index].line, text: "takes a tuple".to_owned() });
                // The type that belongs to the pattern is no second breach.
                index = next_parameter(tokens, close, end);
                continue;
            }
            index = close;
        } else if tokens[index].is("[") {
            index = closing(tokens, index);
        }
        index += 1;
    }
    found
}

fn next_parameter(tokens: &[Token], from: usize, end: usize) -> usize {
    let mut index = from + 1;
    while index < end && !tokens[index].is(",") {
        let opens = ["(", "[", "{"].iter().any(|mark| tokens[index].is(mark));
        index = if opens { closing(tokens, index) } else { index } + 1;
    }
    index + 1
}

/// Returns where the parameters open after `<…>`, if generics follow the name.
fn skip_generics(tokens: &[Token], at: usize) -> Option<usize> {
    if !tokens.get(at)?.is("<") {
        return None;
    }
    let mut depth = 0_i32;
    for (index, token) in tokens.iter().enumerate().skip(at) {
        match token.text {
            "<" if token.kind == Kind::Mark => depth += 1,
            "<<" if token.kind == Kind::Mark => depth += 2,
            ">" if token.kind == Kind::Mark => depth -= 1,
            "(" if token.kind == Kind::Mark && depth == 0 => return Some(index),
            _ => {}
        }
    }
    None
}

#[test]
fn comparisons_begin_with_what_varies() {
    hold(|source| {
        let tokens = words(source);
        (1..tokens.len()).filter_map(|at| constant_first(&tokens, at)).collect()
    });
}

/// Returns the comparison at `at` if its left side is a constant alone.
fn constant_first(tokens: &[Token], at: usize) -> Option<Breach> {
    let operators = ["<", "<=", ">", ">=", "==", "!="];
    let operator = operators.iter().find(|operator| tokens[at].is(operator))?;
    if !is_constant(&tokens[at - 1]) {
        return None;
    }
    // The path in front of the constant, such as `Self::` or `limits::`.
    let mut start = at - 1;
    while start >= 2 && tokens[start - 1].is("::") {
        start -= 2;
    }
    let begins = [
        "(", "{", "}", ";", ",", "=", "=>", "if", "while", "&&", "||", "!", "return", "|", "[",
        "in", "else",
    ];
    let before = start.checked_sub(1).map(|before| &tokens[before])?;
    if is_generic_argument(&tokens[..at]) {
        return None;
    }
    // Two constants have no order.
    let right = tokens.get(at + 1)?;
    let compares_constants = is_constant(right) && !tokens.get(at + 2)?.is("::");
    let is_breach = begins.iter().any(|mark| before.is(mark)) && !compares_constants;
    is_breach.then(|| Breach {
        line: tokens[at].line,
        text: format!("`{} {operator} …`", tokens[at - 1].text),
    })
}

/// Returns whether the last token is among the arguments of a generic, as in `f::<KB, 2>()`.
fn is_generic_argument(before: &[Token]) -> bool {
    let open = before
        .iter()
        .rposition(|token| token.kind == Kind::Mark && !token.is(",") && !token.is("::"));
    match open {
        Some(open) if open > 0 && before[open].is("<") => {
            let name = before[open - 1].text;
            name == "::" || name.starts_with(|c: char| c.is_ascii_uppercase())
        }
        _ => false,
    }
}

fn is_constant(token: &Token) -> bool {
    match token.kind {
        Kind::Number => true,
        Kind::Word => {
            let mut bytes = token.text.bytes();
            token.text.len() > 1
                && bytes.all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_')
        }
        _ => false,
    }
}

#[test]
fn closures_used_once_stand_where_they_are_used() {
    hold(|source| {
        let tokens = words(source);
        (0..tokens.len()).filter_map(|at| closure_used_once(&tokens, at)).collect()
    });
}

/// Returns the closure that `let` at `at` names, if its block mentions it only once more.
fn closure_used_once(tokens: &[Token], at: usize) -> Option<Breach> {
    let is_mutable = tokens.get(at + 1)?.is("mut");
    let name = tokens.get(at + 1 + usize::from(is_mutable))?;
    let equals = at + 2 + usize::from(is_mutable);
    if !tokens[at].is("let") || !tokens.get(equals)?.is("=") {
        return None;
    }
    let moves = usize::from(tokens.get(equals + 1)?.is("move"));
    let bar = tokens.get(equals + 1 + moves)?;
    if !bar.is("|") && !bar.is("||") {
        return None;
    }
    let end = block_end(tokens, at);
    let uses =
        tokens[equals..end].iter().filter(|it| it.kind == Kind::Word && it.text == name.text);
    (uses.count() == 1)
        .then(|| Breach { line: name.line, text: format!("`{}` is used once", name.text) })
}

/// Returns the end of the block that contains `at`.
fn block_end(tokens: &[Token], at: usize) -> usize {
    let mut index = at;
    while index < tokens.len() && !tokens[index].is("}") {
        let opens = ["(", "[", "{"].iter().any(|mark| tokens[index].is(mark));
        index = if opens { closing(tokens, index) } else { index } + 1;
    }
    index
}

#[test]
fn limits_end_in_max() {
    hold(|source| {
        let tokens = words(source);
        let named =
            tokens.windows(2).filter(|it| it[0].is("const") && it[1].text.starts_with("MAX_"));
        named.map(|it| Breach { line: it[1].line, text: format!("`{}`", it[1].text) }).collect()
    });
}

#[test]
fn small_helpers_have_one_home() {
    let helpers = ["hex", "epoch_ms", "epoch_us", "unix_ms", "unix_us", "eventually"];
    // The multiplier of SplitMix64.
    let constants = ["0xbf58_476d_1ce4_e5b9"];
    let mut homes: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for source in sources() {
        let tokens = words(&source);
        for window in tokens.windows(2) {
            let is_helper = window[0].is("fn") && helpers.contains(&window[1].text);
            if is_helper || constants.contains(&window[1].text) {
                let place = format!("{}/{}:{}", source.package, source.path, window[1].line);
                homes.entry(window[1].text.to_owned()).or_default().push(place);
            }
        }
    }
    assert!(!homes.is_empty(), "none of {helpers:?} is found");
    homes.retain(|_, places| places.len() > 1);
    assert!(homes.is_empty(), "more than one home: {homes:#?}");
}

#[test]
fn suites_that_show_skips_have_no_tests_that_nothing_runs() {
    // A `#[test]` without Cargo's harness is never compiled.
    let suites: Vec<(String, String)> = sources()
        .into_iter()
        .filter(|source| source.text.contains("\ntestbed::suite!();\n"))
        .map(|source| {
            let folder = source.path.strip_suffix("main.rs").unwrap_or(&source.path);
            (source.package.clone(), folder.to_owned())
        })
        .collect();
    hold(|source| {
        let runs = suites.iter().any(|(package, folder)| {
            source.package == *package && source.path.starts_with(folder.as_str())
        });
        if !runs {
            return Vec::new();
        }
        let tokens = words(source);
        let lost =
            tokens.windows(3).filter(|it| it[0].is("[") && it[1].is("test") && it[2].is("]"));
        let tokio = tokens.windows(3).filter(|it| it[0].is("tokio") && it[2].is("test"));
        let text = "must be `#[testbed::test]`";
        lost.chain(tokio).map(|it| Breach { line: it[0].line, text: text.to_owned() }).collect()
    });
}

#[test]
fn each_rule_finds_what_it_forbids() {
    let source = |text: &str| Source {
        package: "p".to_owned(),
        path: "src/lib.rs".to_owned(),
        text: text.to_owned(),
    };
    let tuples = |text: &str| {
        let source = source(text);
        let tokens = words(&source);
        (0..tokens.len())
            .filter(|at| tokens[*at].is("fn"))
            .flat_map(|at| tuple_parameters(&tokens, at))
            .count()
    };
    assert_eq!(tuples("fn f((a, b): (u8, u8), c: &(u8, u8)) {}"), 2);
    assert_eq!(
        tuples("fn f<F: Fn(u8, u8)>(f: F, g: impl Fn((u8, u8)), h: &[(u8, u8)]) -> (u8, u8) {}"),
        0
    );
    let constants = |text: &str| {
        let source = source(text);
        let tokens = words(&source);
        (1..tokens.len()).filter_map(|at| constant_first(&tokens, at)).count()
    };
    assert_eq!(constants("if MAX < x { return 0 == y; } f(Self::MIN <= z)"), 3);
    assert_eq!(constants("if x > MAX && a + 1 < b && MIN < MAX { v::<KB, 2>() }"), 0);
    let closures = |text: &str| {
        let source = source(text);
        let tokens = words(&source);
        (0..tokens.len()).filter_map(|at| closure_used_once(&tokens, at)).count()
    };
    assert_eq!(closures("fn f() { let g = |x| x + 1; v.map(g); }"), 1);
    assert_eq!(closures("fn f() { let g = |x| x + 1; g(g(1)); let a = b | c; }"), 0);
}
