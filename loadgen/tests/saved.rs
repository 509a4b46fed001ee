//! Saved reports: read, rendered again, compared, and found by searches.

#![allow(clippy::unwrap_used, reason = "what helps a test may fail like a test")]

#[allow(dead_code, reason = "each test program uses a part of it")]
mod mock;

use std::path::Path;
use std::time::Duration;

use clap::Parser;
use loadgen::cli::{self, Cli, Command, Ending};
use mock::{Act, Mock};
use serde_json::Value;
use tokio::sync::mpsc;

/// Executes a command line, without a limit on the lag of a busy test machine.
async fn carry_out(arguments: &str) -> anyhow::Result<(String, Ending)> {
    let (_stop, stopped) = mpsc::channel(1);
    let words = std::iter::once("loadgen").chain(arguments.split_whitespace());
    match Cli::try_parse_from(words)?.command {
        Command::Run(args) => cli::run::execute(&args, stopped).await,
        Command::Search(args) => cli::search::execute(*args, stopped).await,
        Command::Compare(args) => cli::compare::execute(&args),
        Command::Report(args) => cli::report::execute(&args),
        other => panic!("{other:?}"),
    }
}

async fn run_to(mock: &Mock, path: &Path, more: &str) -> (String, Ending) {
    let arguments = format!(
        "run --url {} --rate 300 --requests 120 --output-tokens 3 --progress none --lag-limit 60s \
         --slo ttft=60s --json {} {more}",
        mock.url,
        path.display()
    );
    carry_out(&arguments).await.unwrap()
}

fn read(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

async fn instant() -> Mock {
    let act = Act::Stream { first: Duration::ZERO, gap: Duration::ZERO };
    Mock::start(Some(4096), move |_| act.clone()).await
}

#[tokio::test]
async fn a_saved_report_renders_the_same_page_again() {
    let (mock, folder) = (instant().await, tempfile::tempdir().unwrap());
    let at = |name: &str| folder.path().join(name);
    let files = format!(
        "--html {} --markdown {} --csv {} --jaeger http://jaeger.example --warmup 20",
        at("first.html").display(),
        at("first.md").display(),
        at("first.csv").display()
    );
    run_to(&mock, &at("run.json"), &files).await;
    let report = read(&at("run.json"));
    assert_eq!(report["schema_version"], 2);
    assert_eq!(report["window"]["warmup_requests"], 20);
    assert_eq!(report["goodput"]["offered"], 100);
    assert_eq!(report["samples"]["ttft_ms"].as_array().unwrap().len(), 100);
    let again = format!(
        "report {} --html {} --jaeger http://jaeger.example",
        at("run.json").display(),
        at("again.html").display()
    );
    let (text, ending) = carry_out(&again).await.unwrap();
    assert!(ending == Ending::Good && text.contains("warm-up 20: 20 left out"), "{text}");
    let page = |name: &str| std::fs::read_to_string(at(name)).unwrap();
    // The last digit of the numbers for the script may differ after a round trip through JSON.
    let text = |name: &str| page(name).split("<script").next().unwrap().to_owned();
    assert!(text("first.html") == text("again.html"), "the pages differ");
    assert_eq!(page("first.csv").lines().count(), 101);
    let slowest = report["slowest"][0]["trace_id"].as_str().unwrap();
    assert!(page("first.html").contains(&format!("http://jaeger.example/trace/{slowest}")));
    assert!(page("first.md").contains("| TTFT response (from intended) | 100 |"));
}

#[tokio::test]
async fn only_valid_runs_of_one_schedule_are_compared() {
    let (mock, folder) = (instant().await, tempfile::tempdir().unwrap());
    let at = |name: &str| folder.path().join(name).display().to_string();
    let compare = async |a: &str, b: &str, more: &str| {
        carry_out(&format!("compare {} {} {more}", at(a), at(b))).await
    };
    for (name, more) in [("a", ""), ("b", ""), ("other", "--seed 5")] {
        run_to(&mock, Path::new(&at(name)), more).await;
    }
    let json = at("comparison.json");
    // A run compared with itself has no differences.
    let gate = format!("--gate ttft_p50=+5000% --gate errors=0% --json {json}");
    let (text, ending) = compare("a", "a", &gate).await.unwrap();
    assert!(ending == Ending::Good && text.contains("no difference"), "{text}");
    assert!(!text.contains("WORSE") && text.contains("gate errors=+0%  kept"), "{text}");
    assert_eq!(read(Path::new(&json))["gates"][1]["passage"], "kept");
    // Ten times as slow, by an edit of the file.
    let mut slow = read(Path::new(&at("b")));
    for value in slow["samples"]["ttft_ms"].as_array_mut().unwrap() {
        *value = (value.as_f64().unwrap() * 10.0 + 100.0).into();
    }
    std::fs::write(at("slow"), slow.to_string()).unwrap();
    let (text, ending) = compare("a", "slow", "--gate ttft_p50=+5%").await.unwrap();
    assert!(ending == Ending::Missed && text.contains("gate ttft_p50=+5%  BROKEN"), "{text}");
    let refused = async |a: &str, b: &str| format!("{:#}", compare(a, b, "").await.unwrap_err());
    assert!(refused("a", "other").await.contains("the schedules differ"));
    let mut invalid = read(Path::new(&at("b")));
    invalid["verdict"]["reasons"] = serde_json::json!([{"finding": "late", "advice": "hurry"}]);
    std::fs::write(at("invalid"), invalid.to_string()).unwrap();
    assert!(refused("a", "invalid").await.contains("the second report is INVALID"));
    invalid["schema_version"] = 1.into();
    std::fs::write(at("old"), invalid.to_string()).unwrap();
    assert!(refused("old", "a").await.contains("schema version is 1"));
    let unknown = compare("a", "b", "--gate ttft_p98=+5%").await.unwrap_err();
    assert!(format!("{unknown:#}").contains("no figure \"ttft_p98\""), "{unknown:#}");
}

#[tokio::test]
async fn a_search_says_what_it_found_and_saves_the_run_it_rests_on() {
    let (mock, folder) = (instant().await, tempfile::tempdir().unwrap());
    let (json, html) = (folder.path().join("search.json"), folder.path().join("search.html"));
    let search = async |more: &str| {
        let arguments = format!(
            "search --url {} --rate 40 --highest 80 --output-tokens 2 --probe 1s --longest 1s \
             --settle 0s --lag-limit 60s --json {} --html {} {more}",
            mock.url,
            json.display(),
            html.display()
        );
        carry_out(&arguments).await
    };
    let (text, ending) = search("--slo ttft_p50=60s").await.unwrap();
    assert!(ending == Ending::Good && text.contains("the capacity lies above"), "{text}");
    let report = read(&json);
    let found = &report["search"];
    assert_eq!(found["outcome"]["kind"], "held_at_highest");
    let rates: Vec<f64> =
        found["probes"].as_array().unwrap().iter().map(|p| p["rate"].as_f64().unwrap()).collect();
    assert_eq!(rates, [40.0, 80.0]);
    assert!(report["schedule"]["offered_rps"].as_f64().unwrap() > 60.0);
    assert!(std::fs::read_to_string(&html).unwrap().contains("data-chart=\"search\""));
    let (text, ending) = search("--slo ttft_p50=1ns --lowest 20").await.unwrap();
    assert!(ending == Ending::Missed && text.contains("no rate holds it"), "{text}");
    let wrong = search("--slo ttft_p50=1s --lowest 50").await.unwrap_err();
    assert!(format!("{wrong:#}").contains("does not lie between"), "{wrong:#}");
}
