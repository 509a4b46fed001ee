//! The dashboards and alert rules as files: every query parses, asks for what exists and follows the house rules.
//!
//! `scripts/dashboards-check --live` sends the queries to a running system.

mod board;
mod query;
mod rules;

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

/// A file or folder of `dashboards/`.
fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../dashboards").join(name)
}

fn text(name: &str) -> String {
    let path = path(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The series of every metric that the services export, as METRICS.md has them from the services.
fn exported() -> BTreeSet<String> {
    let mut series = BTreeSet::from(["up".to_owned(), "ALERTS".to_owned()]);
    for line in text("../METRICS.md").lines().filter(|line| line.starts_with("| `")) {
        let mut cells = line.split('|').map(str::trim).skip(1);
        let name = cells.next().unwrap_or_default().trim_matches('`');
        let suffixes: &[&str] = match cells.next() {
            Some("counter") => &["_total"],
            Some("histogram") => &["_bucket", "_sum", "_count"],
            Some("gauge") => &[""],
            Some("info") => &["_info"],
            other => panic!("{name} is of type {other:?}"),
        };
        series.extend(suffixes.iter().map(|suffix| format!("{name}{suffix}")));
    }
    assert!(series.len() > 50, "only {} series in METRICS.md", series.len());
    series
}

/// All dashboards, by file name.
fn boards() -> Vec<(String, board::Board)> {
    let mut boards = Vec::new();
    for entry in fs::read_dir(path("grafana")).expect("the folder of dashboards") {
        let path = entry.expect("a dashboard").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        boards.push((name.clone(), board::Board::read(&text(&format!("grafana/{name}")))));
    }
    assert!(boards.len() >= 5, "only {} dashboards", boards.len());
    boards.sort_by(|a, b| a.0.cmp(&b.0));
    boards
}

/// Every problem that `check` finds, behind the name of its dashboard.
fn over_all(check: impl Fn(&board::Board) -> Vec<String>) -> Vec<String> {
    boards()
        .iter()
        .flat_map(|(name, board)| {
            check(board).into_iter().map(move |problem| format!("{name}: {problem}"))
        })
        .collect()
}

#[test]
fn every_board_is_well_formed() {
    let problems = over_all(board::Board::problems);
    assert!(problems.is_empty(), "{}", problems.join("\n"));
    let mut uids: Vec<String> = boards().into_iter().map(|(_, board)| board.uid).collect();
    let count = uids.len();
    uids.sort();
    uids.dedup();
    assert_eq!(uids.len(), count, "two dashboards share a uid: {uids:?}");
}

#[test]
fn every_panel_says_what_it_shows() {
    let problems = over_all(board::Board::panel_problems);
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
fn every_query_parses_and_shows_rates_of_counters() {
    let problems = over_all(board::Board::query_problems);
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
fn an_average_never_stands_without_its_quantiles() {
    let problems = over_all(board::Board::lonely_averages);
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
fn every_rule_parses_and_every_alert_says_what_to_do() {
    let rules = rules::read(&text("prometheus/rules.yml"));
    assert!(rules.len() > 10, "only {} rules", rules.len());
    let recorded: Vec<&str> =
        rules.iter().filter(|rule| !rule.alert).map(|rule| rule.name.as_str()).collect();
    let mut problems = Vec::new();
    for rule in &rules {
        problems.extend(rule.problems().into_iter().map(|why| format!("{}: {why}", rule.name)));
        for name in query::metrics(&rule.expression).unwrap_or_default() {
            if name.starts_with("tandem:") && !recorded.contains(&name.as_str()) {
                problems.push(format!("{}: no rule records {name}", rule.name));
            }
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
fn every_alert_has_a_test() {
    let tests = text("prometheus/rules_test.yml");
    for rule in rules::read(&text("prometheus/rules.yml")) {
        assert!(!rule.alert || tests.contains(&format!("{:?}", rule.name)), "{}", rule.name);
    }
}

#[test]
fn recorded_names_of_dashboards_are_recorded() {
    let rules = rules::read(&text("prometheus/rules.yml"));
    for (file, board) in boards() {
        for name in board.metrics().iter().filter(|name| name.starts_with("tandem:")) {
            assert!(rules.iter().any(|rule| !rule.alert && rule.name == *name), "{file}: {name}");
        }
    }
}

#[test]
fn every_metric_is_one_that_a_service_exports() {
    let exported = exported();
    let mut asked: Vec<(String, String)> = Vec::new();
    for (file, board) in boards() {
        asked.extend(board.metrics().into_iter().map(|metric| (file.clone(), metric)));
    }
    for rule in rules::read(&text("prometheus/rules.yml")) {
        let metrics = query::metrics(&rule.expression).expect("a rule parses");
        asked.extend(metrics.into_iter().map(|metric| (rule.name.clone(), metric)));
    }
    // Recorded ones are looked for above; the load generator's own are asked for live.
    let of_services = asked.into_iter().filter(|(_, metric)| {
        !["tandem:", "loadgen_"].iter().any(|start| metric.starts_with(start))
    });
    let unknown: Vec<String> = of_services
        .filter(|(_, metric)| !exported.contains(metric))
        .map(|(place, metric)| format!("{place}: no service exports {metric}"))
        .collect();
    assert!(unknown.is_empty(), "{}", unknown.join("\n"));
}

#[test]
fn what_is_wrong_is_found() {
    let board = board::Board::read(include_str!("wrong.json"));
    let all: Vec<String> =
        [board.problems(), board.panel_problems(), board.query_problems(), board.lonely_averages()]
            .concat();
    for expected in [
        "editable",
        "no description",
        "no unit",
        "covers",
        "no variable called instance",
        "no query uses the variable model",
        "the data source is fixed",
        "is shown raw",
        "does not parse",
        "a range other than $__rate_interval",
        "without exemplars",
        "exemplars of what is no histogram",
        "the same exemplars twice",
        "unknown variable $unknown",
        "neither job nor instance",
        "le is missing",
        "without a quantile",
    ] {
        assert!(all.iter().any(|problem| problem.contains(expected)), "{expected}: {all:#?}");
    }
}
