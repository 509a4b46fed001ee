//! Traces written in other formats, cut, scaled, thinned and spread by the command line.

#![allow(clippy::unwrap_used, reason = "what helps a test may fail like a test")]

use std::path::{Path, PathBuf};

use clap::Parser;
use loadgen::cli::{Cli, Command};
use traces::stats::stats;
use traces::{Format, ReadOptions, Trace, read};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/traces/tests").join(name)
}

const EXCERPT: &str = "data/mooncake_conversation_60s.jsonl";

/// Runs `loadgen trace` with these arguments; returns its output.
fn trace(arguments: &[&str]) -> anyhow::Result<String> {
    let words = ["loadgen", "trace"].iter().chain(arguments);
    let Command::Trace(command) = Cli::try_parse_from(words)?.command else { panic!("no trace") };
    Ok(loadgen::cli::trace::execute(command)?.0)
}

/// Changes a fixture; returns the trace that is read back.
fn changed(name: &str, arguments: &[&str], block_tokens: Option<u32>) -> anyhow::Result<Trace> {
    let folder = tempfile::tempdir()?;
    let (from, to) = (fixture(name), folder.path().join("out"));
    let files = [from.to_str().unwrap(), "--output", to.to_str().unwrap()];
    let verb = &arguments[..1];
    trace(&[verb, &files, &arguments[1..]].concat())?;
    Ok(read(&to, &ReadOptions { block_tokens, ..ReadOptions::default() })?)
}

fn plain(name: &str) -> Trace {
    read(&fixture(name), &ReadOptions::default()).unwrap()
}

#[test]
fn what_a_format_can_hold_comes_back_whole() {
    for (name, to, block) in [
        ("fixtures/mooncake.jsonl", "mooncake", None),
        ("fixtures/bailian.jsonl", "bailian", None),
        ("fixtures/azure.csv", "azure", None),
        ("fixtures/azure.csv", "splitwise", None),
        ("fixtures/burstgpt_sessions.csv", "burstgpt", None),
        ("fixtures/splitwise.csv", "burstgpt", None),
        ("fixtures/sharegpt.json", "weka", None),
    ] {
        let whole = changed(name, &["convert", "--to", to], block).unwrap();
        assert_eq!(whole.records, plain(name).records, "{name} as {to}");
        assert_eq!(whole.sizes, plain(name).sizes, "{name} as {to}");
    }
}

#[test]
fn requests_of_no_session_become_one_each_where_a_format_has_only_sessions() {
    let chats =
        changed("fixtures/mooncake.jsonl", &["convert", "--to", "bailian"], Some(512)).unwrap();
    let whole = plain("fixtures/mooncake.jsonl");
    for (at, (chat, record)) in chats.records.iter().zip(&whole.records).enumerate() {
        assert_eq!((chat.session, chat.turn), (Some(at as u32), 0));
        assert_eq!((chat.at_ns, &chat.blocks), (record.at_ns, &record.blocks));
    }
}

#[test]
fn what_a_format_cannot_hold_is_refused_unless_asked_for() {
    for (name, to, expected) in [
        (
            "fixtures/azure.csv",
            "mooncake",
            "Mooncake JSONL cannot hold: time stamps finer than 1ms",
        ),
        ("fixtures/mooncake.jsonl", "azure", "block names, and with them which prompts share"),
        ("fixtures/bailian.jsonl", "mooncake", "which requests are turns of one session"),
        ("fixtures/weka", "bailian", "how long users think"),
        ("fixtures/mooncake.jsonl", "weka", "when sessions begin"),
        ("fixtures/ragpulse", "mooncake", "blocks of unequal length"),
    ] {
        let error = changed(name, &["convert", "--to", to], None).unwrap_err().to_string();
        assert!(error.contains(expected) && error.contains("--lossy"), "{expected}: {error}");
        let block = plain(name).sizes.uniform();
        let lossy = changed(name, &["convert", "--to", to, "--lossy"], block).unwrap();
        assert_eq!(lossy.records.len(), plain(name).records.len());
    }
    let error = changed("fixtures/azure.csv", &["convert", "--to", "servegen"], None).unwrap_err();
    assert!(error.to_string().contains("ServeGen folder of clients is only read"), "{error}");
    let error = changed("fixtures/sharegpt.json", &["convert", "--to", "azure"], None).unwrap_err();
    assert!(error.to_string().contains("has no time stamps"), "{error}");
}

#[test]
fn a_piece_is_cut_out_of_the_time() {
    let cut = changed(EXCERPT, &["cut", "--from", "12s", "--to", "30s"], None).unwrap();
    let whole = plain(EXCERPT);
    let window = 12_000_000_000..30_000_000_000;
    let kept = whole.records.iter().filter(|r| window.contains(&r.at_ns)).count();
    assert_eq!(cut.records.len(), kept);
    assert!(kept > 30 && stats(&cut).pace.unwrap().duration_s <= 18.0);
    assert!(changed(EXCERPT, &["cut", "--from", "9s", "--to", "3s"], None).is_err());
    let error = changed(EXCERPT, &["cut", "--from", "300s"], None).unwrap_err().to_string();
    assert!(error.contains("no request arrives in the window 300s.."), "{error}");
}

#[test]
fn scaling_keeps_the_ideal_block_hits() {
    let reuse = |trace: &Trace| stats(trace).reuse.unwrap();
    let small = changed(EXCERPT, &["scale", "--by", "64"], Some(8)).unwrap();
    let whole = plain(EXCERPT);
    assert_eq!(reuse(&small).block_hit, reuse(&whole).block_hit);
    assert_eq!(reuse(&small).unique_blocks, reuse(&whole).unique_blocks);
    let median = |trace: &Trace| stats(trace).input.quantiles.p50.unwrap();
    assert!((median(&small) * 64.0 / median(&whole) - 1.0).abs() < 0.01);
    assert!(changed(EXCERPT, &["scale", "--by", "7"], None).is_err());
}

#[test]
fn thinning_and_spreading_follow_the_seed() {
    for arguments in [
        ["thin", "--by-session", "--keep=0.3", "--seed"],
        ["dequantize", "--how=poisson", "--trace-block=512", "--seed"],
    ] {
        let with = |seed| changed(EXCERPT, &[&arguments[..], &[seed]].concat(), None).unwrap();
        assert_eq!(with("1").records, with("1").records);
        assert_ne!(with("1").records, with("2").records);
    }
    let spread = changed(EXCERPT, &["dequantize", "--how", "uniform"], None).unwrap();
    assert_eq!(stats(&spread).pace.unwrap().quantum, None);
    assert_eq!(stats(&spread).reuse, stats(&plain(EXCERPT)).reuse);
    assert!(changed(EXCERPT, &["dequantize", "--how", "none"], None).is_err());
    assert!(changed("fixtures/azure.csv", &["dequantize"], None).is_err());
}

#[test]
fn inspect_prints_one_object_or_tables() {
    let path = fixture("fixtures/mooncake.jsonl");
    let path = path.to_str().unwrap();
    let before = trace(&["inspect", "--json", path]).unwrap();
    assert_eq!(before, trace(&["inspect", path, "--json"]).unwrap());
    let object: serde_json::Value = serde_json::from_str(&before).unwrap();
    let keys: Vec<&String> = object.as_object().unwrap().keys().collect();
    assert_eq!(
        keys,
        [
            "name",
            "requests",
            "duration_s",
            "mean_rps",
            "ia_cv",
            "peak10_rps",
            "peak60_rps",
            "out_of_order",
            "zero_output",
            "in",
            "out",
            "coverage_bad",
            "reuse",
            "lru_token_hit_by_blocks"
        ]
    );
    assert_eq!((&object["requests"], &object["zero_output"]), (&4.into(), &1.into()));
    let tables = trace(&["inspect", path]).unwrap();
    assert!(tables.contains("Mooncake JSONL, time stamps in milliseconds"), "{tables}");
    assert!(tables.contains("1 requests have no output") && tables.contains("LRU cache"));
    assert_eq!(plain("fixtures/mooncake.jsonl").format, Format::Mooncake);
}

#[test]
fn oddities_are_said_once_and_refused_if_asked_to() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("trace.jsonl");
    let text = std::fs::read_to_string(fixture("fixtures/mooncake.jsonl")).unwrap();
    std::fs::write(&path, text + "\n\n").unwrap();
    let path = path.to_str().unwrap();
    let said = "2 empty lines skipped (first: trace.jsonl, line 5)";
    let tables = trace(&["inspect", path]).unwrap();
    assert_eq!(tables.matches(said).count(), 1, "{tables}");
    let object = trace(&["inspect", "--json", path]).unwrap();
    let object: serde_json::Value = serde_json::from_str(&object).unwrap();
    assert_eq!(object["oddities"], serde_json::json!([said]));
    let error = trace(&["inspect", "--strict", path]).unwrap_err().to_string();
    assert!(error.contains("trace.jsonl, line 5: the line is empty: expected a record"), "{error}");
}
