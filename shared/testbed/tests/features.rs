//! The command, the tests, and builds with graphics compile the same dependencies: `unify` turns on
//! what any of them needs.

use std::collections::BTreeMap;
use std::process::Command;

/// Returns the features of every dependency that `cargo tree` lists with these arguments.
fn features(arguments: &[&str]) -> BTreeMap<String, String> {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--locked", "--offline", "--prefix", "none", "--format", "{p}|{f}"])
        .args(arguments)
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("cargo prints UTF-8");
    text.lines()
        .map(|line| line.trim_end_matches(" (*)"))
        .filter_map(|line| line.split_once('|'))
        // Members differ on purpose: the tests turn the feature `reference` on.
        .filter(|(package, _)| !package.contains('/'))
        .map(|(package, features)| (package.to_owned(), features.to_owned()))
        .collect()
}

fn check(command: &BTreeMap<String, String>, tests: &BTreeMap<String, String>) {
    assert!(command.len() > 100, "{command:?}");
    for (package, features) in command {
        let wanted = tests.get(package).expect("the workspace has what one member has");
        assert_eq!(
            features, wanted,
            "{package} has other features in the tests: add them to shared/unify/Cargo.toml"
        );
    }
}

#[test]
fn the_command_and_the_tests_share_their_dependencies() {
    let command = features(&["-p", "tandem", "--edges", "normal,no-proc-macro"]);
    let tests = features(&["--workspace", "--edges", "normal,dev,no-proc-macro"]);
    check(&command, &tests);
}

#[test]
fn builds_with_and_without_graphics_share_their_dependencies() {
    let command = features(&["-p", "tandem", "--edges", "normal,no-proc-macro"]);
    let all = features(&["--workspace", "--all-features", "--edges", "normal,dev,no-proc-macro"]);
    check(&command, &all);
}
