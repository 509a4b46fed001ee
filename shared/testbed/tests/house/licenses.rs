//! Licenses and sources of everything the workspace is built from, by the list in `deny.toml`.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use crate::source::root;

const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// Returns the licenses that `deny.toml` allows.
fn allowed() -> BTreeSet<String> {
    let text = std::fs::read_to_string(root().join("deny.toml")).expect("deny.toml can be read");
    let (_, list) = text.split_once("\nallow = [").expect("deny.toml allows licenses");
    let (list, _) = list.split_once(']').expect("the list ends");
    let licenses = list.split(',').map(|license| license.trim().trim_matches('"').to_owned());
    licenses.filter(|license| !license.is_empty()).collect()
}

/// Returns the licenses that `deny.toml` states for crates whose manifest names none.
fn clarified() -> BTreeMap<String, String> {
    let text = std::fs::read_to_string(root().join("deny.toml")).expect("deny.toml can be read");
    let tables = text.split("[[licenses.clarify]]").skip(1).map(|table| {
        let value = |key: &str| {
            let line = table.lines().find_map(|line| line.strip_prefix(key));
            let value = line.and_then(|line| line.trim().strip_prefix('='));
            value.expect("a clarification has this key").trim().trim_matches('"').to_owned()
        };
        (value("crate"), value("expression"))
    });
    tables.collect()
}

/// Returns whether an SPDX expression can be met by the allowed licenses alone.
fn is_met(expression: &str, allowed: &BTreeSet<String>) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut rest = words.as_slice();
    alternatives(&mut rest, allowed) && rest.is_empty()
}

fn alternatives(rest: &mut &[&str], allowed: &BTreeSet<String>) -> bool {
    let mut met = all_of(rest, allowed);
    while let ["OR", after @ ..] = *rest {
        *rest = after;
        met |= all_of(rest, allowed);
    }
    met
}

fn all_of(rest: &mut &[&str], allowed: &BTreeSet<String>) -> bool {
    let mut met = license(rest, allowed);
    while let ["AND", after @ ..] = *rest {
        *rest = after;
        met &= license(rest, allowed);
    }
    met
}

fn license(rest: &mut &[&str], allowed: &BTreeSet<String>) -> bool {
    match *rest {
        ["(", after @ ..] => {
            *rest = after;
            let met = alternatives(rest, allowed);
            *rest = rest.strip_prefix(&[")"]).unwrap_or(&["unclosed"]);
            met
        }
        [name, "WITH", exception, after @ ..] => {
            *rest = after;
            allowed.contains(&format!("{name} WITH {exception}"))
        }
        [name, after @ ..] => {
            *rest = after;
            allowed.contains(*name)
        }
        [] => false,
    }
}

/// Returns the target that Cargo builds for on this machine.
fn host() -> String {
    let output = Command::new("rustc").arg("-vV").output().expect("rustc runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    host.expect("rustc names its host").to_owned()
}

#[test]
fn dependencies_have_allowed_licenses_and_come_from_the_registry() {
    let (allowed, clarified) = (allowed(), clarified());
    let mut command = cargo_metadata::MetadataCommand::new();
    command.manifest_path(root().join("Cargo.toml"));
    let options = ["--locked", "--all-features", "--filter-platform"].map(str::to_owned);
    command.other_options([&options[..], &[host()]].concat());
    let metadata = command.exec().expect("cargo metadata reads the lock file");
    let mut breaches = Vec::new();
    let mut checked = 0;
    for package in &metadata.packages {
        let Some(source) = &package.source else { continue };
        checked += 1;
        let license = package.license.as_ref().or_else(|| clarified.get(package.name.as_str()));
        let license = license.map(String::as_str).unwrap_or_default();
        if !is_met(license, &allowed) {
            breaches.push(format!("{} {}: license `{license}`", package.name, package.version));
        }
        if source.repr != REGISTRY {
            breaches.push(format!("{} {}: comes from {source}", package.name, package.version));
        }
    }
    assert!(checked > 200, "only {checked} dependencies found");
    assert!(breaches.is_empty(), "{}", breaches.join("\n"));
}

#[test]
fn license_expressions_are_read_as_spdx_says() {
    let allowed = ["MIT", "Zlib", "Apache-2.0 WITH LLVM-exception"].map(str::to_owned).into();
    for met in ["MIT", "GPL-3.0 OR MIT", "MIT/GPL-3.0", "(MIT OR X) AND Zlib", "X OR MIT AND Zlib"]
    {
        assert!(is_met(met, &allowed), "{met}");
    }
    assert!(is_met("Apache-2.0 WITH LLVM-exception", &allowed));
    for unmet in ["", "GPL-3.0", "MIT AND GPL-3.0", "(MIT", "Apache-2.0", "MIT MIT"] {
        assert!(!is_met(unmet, &allowed), "{unmet}");
    }
}
