//! Rules between the modules of a crate.

use std::collections::{BTreeMap, BTreeSet};

use crate::source::{Breach, Source, after_test_attribute, hold, sources};
use crate::tokens::{Kind, Token, closing};

/// A `crate::` or `super::` path, with the module it stands in.
struct Use {
    /// Top-level module that contains the path; empty for the root.
    from: String,
    /// First word after the root of the crate.
    to: String,
    line: usize,
}

/// Returns the modules that a file is, from the root of its crate.
fn module_path(path: &str) -> Vec<String> {
    let path = path.trim_start_matches("src/").trim_end_matches(".rs");
    let path = path.strip_suffix("/mod").unwrap_or(path);
    let is_root = matches!(path, "lib" | "main" | "mod");
    path.split('/').filter(|_| !is_root).map(str::to_owned).collect()
}

/// Finds every path of a file that starts at the root of the crate.
fn uses(source: &Source) -> Vec<Use> {
    let tokens = source.code();
    let tokens: Vec<Token> = tokens.into_iter().filter(|t| t.kind != Kind::Comment).collect();
    let mut found = Vec::new();
    let mut modules = module_path(&source.path);
    // Ends of the inline modules that are open.
    let mut ends = Vec::new();
    for at in 0..tokens.len() {
        if ends.last() == Some(&at) {
            ends.pop();
            modules.pop();
        }
        let opens = tokens[at].is("mod") && tokens.get(at + 2).is_some_and(|it| it.is("{"));
        if opens {
            modules.push(tokens[at + 1].text.to_owned());
            ends.push(closing(&tokens, at + 2));
        }
        let continues = at > 0 && tokens[at - 1].is("::");
        if !continues && let Some(rest) = after_root(&tokens[at..], modules.len()) {
            let from = modules.first().cloned().unwrap_or_default();
            let heads = heads(&tokens, at + rest);
            found.extend(heads.into_iter().map(|(to, line)| Use { from: from.clone(), to, line }));
        }
    }
    found
}

/// Returns how many tokens lead from here to the root of the crate: `crate::`, `super::super::`.
fn after_root(tokens: &[Token], depth: usize) -> Option<usize> {
    let supers =
        tokens.chunks(2).take_while(|it| it[0].is("super") && it.len() == 2 && it[1].is("::"));
    let supers = supers.count();
    let [first, second, ..] = tokens else { return None };
    if first.is("crate") && second.is("::") {
        Some(2)
    } else {
        (supers > 0 && supers == depth).then_some(2 * supers)
    }
}

/// Returns the first words of a path, or of all paths of a group in braces.
fn heads(tokens: &[Token], at: usize) -> Vec<(String, usize)> {
    let Some(first) = tokens.get(at) else { return Vec::new() };
    if !first.is("{") {
        return vec![(first.text.to_owned(), first.line)];
    }
    let end = closing(tokens, at);
    let mut heads = Vec::new();
    let mut next = at + 1;
    while next < end {
        heads.push((tokens[next].text.to_owned(), tokens[next].line));
        while next < end && !tokens[next].is(",") {
            next = if tokens[next].is("{") { closing(tokens, next) } else { next } + 1;
        }
        next += 1;
    }
    heads
}

/// Returns which module the items that the root re-exports come from.
fn reexports(root: &Source, modules: &BTreeSet<String>) -> BTreeMap<String, String> {
    let tokens = root.code();
    let tokens: Vec<Token> = tokens.into_iter().filter(|t| t.kind != Kind::Comment).collect();
    let mut items = BTreeMap::new();
    for at in 0..tokens.len() {
        let module = tokens.get(at + 1).filter(|it| modules.contains(it.text));
        let (true, Some(module)) = (tokens[at].is("use"), module) else { continue };
        let end = (at..tokens.len()).find(|end| tokens[*end].is(";")).unwrap_or(at);
        for token in &tokens[at + 2..end] {
            if token.kind == Kind::Word {
                items.insert(token.text.to_owned(), module.text.to_owned());
            }
        }
    }
    items
}

/// Returns which modules a module reaches, itself only through others.
fn reached<'a>(
    edges: &'a BTreeMap<String, BTreeMap<String, String>>,
    from: &'a str,
) -> BTreeSet<&'a str> {
    let mut seen = BTreeSet::new();
    let mut open = vec![from];
    while let Some(module) = open.pop() {
        for next in edges.get(module).into_iter().flat_map(BTreeMap::keys) {
            if seen.insert(next.as_str()) {
                open.push(next);
            }
        }
    }
    seen
}

/// Returns the imports that close a circle among the top-level modules of a crate, with their places.
fn circles(files: &[&Source]) -> Vec<String> {
    let modules: BTreeSet<String> =
        files.iter().filter_map(|file| module_path(&file.path).into_iter().next()).collect();
    let root = files.iter().find(|file| matches!(file.path.as_str(), "src/lib.rs" | "src/main.rs"));
    let items = root.map(|root| reexports(root, &modules)).unwrap_or_default();
    let mut edges: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    for file in files {
        for Use { from, to, line } in uses(file) {
            let to = if modules.contains(&to) { Some(&to) } else { items.get(&to) };
            if let Some(to) = to.filter(|to| **to != from && !from.is_empty()) {
                let place = format!("{}/{}:{line}", file.package, file.path);
                edges.entry(from).or_default().entry(to.clone()).or_insert(place);
            }
        }
    }
    let imports = edges.iter().flat_map(|(from, tos)| tos.iter().map(move |to| (from, to)));
    imports
        .filter(|(from, (to, _))| reached(&edges, to).contains(from.as_str()))
        .map(|(from, (to, place))| format!("{place}: {from} -> {to}"))
        .collect()
}

#[test]
fn no_modules_of_a_crate_import_each_other_in_a_circle() {
    let sources = sources();
    let mut packages: BTreeMap<&str, Vec<&Source>> = BTreeMap::new();
    for source in sources.iter().filter(|source| source.path.starts_with("src/")) {
        packages.entry(&source.package).or_default().push(source);
    }
    assert!(packages.len() >= 15, "only {} packages found", packages.len());
    let mut breaches = Vec::new();
    for files in packages.into_values() {
        breaches.extend(circles(&files));
    }
    assert!(
        breaches.is_empty(),
        "{} imports close circles:\n{}",
        breaches.len(),
        breaches.join("\n")
    );
}

#[test]
fn a_circle_is_found_through_groups_super_and_what_the_root_hands_on() {
    let file = |path: &str, text: &str| Source {
        package: "p".to_owned(),
        path: path.to_owned(),
        text: text.to_owned(),
    };
    let root = file("src/lib.rs", "mod a; mod b; mod c; pub use c::Item;");
    let harmless =
        file("src/b/deep.rs", "use super::super::c::X; #[cfg(test)] mod tests { use crate::a; }");
    let c = file("src/c.rs", "// crate::b\nfn f() { let _ = \"crate::b\"; }");
    let a = file("src/a.rs", "use crate::{b::{x, y}, c};");
    assert_eq!(circles(&[&root, &a, &harmless, &c]), Vec::<String>::new());
    let back = file("src/b/deep.rs", "mod inner { use super::super::super::a; }");
    assert_eq!(
        circles(&[&root, &a, &back, &c]),
        ["p/src/a.rs:1: a -> b", "p/src/b/deep.rs:1: b -> a"]
    );
    let c = file("src/c.rs", "use super::a;");
    let a = file("src/a.rs", "use crate::Item;");
    assert_eq!(circles(&[&root, &a, &c]), ["p/src/a.rs:1: a -> c", "p/src/c.rs:1: c -> a"]);
}

#[test]
fn no_crate_hands_out_a_foreign_crate_whole() {
    let foreign = crate::crates::foreign();
    hold(|source| {
        if !source.is_shipped() {
            return Vec::new();
        }
        let tokens = source.code();
        let found = tokens.windows(4).filter(|window| {
            let [public, import, name, end] = window else { return false };
            let is_import = import.is("use") && (public.is("pub") || public.is(")"));
            let is_whole = end.is(";") || end.is("as") || end.is("::");
            is_import && is_whole && foreign.contains(name.text)
        });
        let whole = found.filter(|window| is_whole(&tokens, window));
        whole
            .map(|it| Breach { line: it[0].line, text: format!("hands out {}", it[2].text) })
            .collect()
    });
}

/// Returns whether `pub use name` ends there, or takes everything.
fn is_whole(tokens: &[Token], window: &[Token]) -> bool {
    let start = tokens.iter().position(|token| std::ptr::eq(token.text, window[2].text));
    let after = start.map(|at| &tokens[at + 1..]).unwrap_or_default();
    !after[0].is("::") || after[1].is("*")
}

#[test]
fn no_fixture_is_shipped() {
    let names = ["fixture", "fixtures", "mock", "mocks", "testing", "test_support"];
    hold(|source| {
        let mut found = Vec::new();
        if source.is_shipped() {
            let tokens = source.code();
            for window in tokens.windows(2) {
                let [keyword, name] = window else { continue };
                if keyword.is("mod") && names.contains(&name.text) {
                    found.push(Breach {
                        line: name.line,
                        text: format!("ships `mod {}`", name.text),
                    });
                }
            }
            for at in 0..tokens.len() {
                let after = after_test_attribute(&tokens[at..]);
                if after.is_some_and(|after| !after[0].is("mod")) {
                    let text = "`#[cfg(test)]` belongs on modules alone".to_owned();
                    found.push(Breach { line: tokens[at].line, text });
                }
            }
        }
        found
    });
}
