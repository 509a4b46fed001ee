//! Every trace format: a made-up file of each is read right, changed files are refused with the line,
//! and no bytes make a reader panic.

#![allow(clippy::unwrap_used, reason = "what helps a test may fail like a test")]

mod any_bytes;
mod odd;
mod refused;

use std::fs;
use std::path::{Path, PathBuf};

use traces::stats::stats;
use traces::units::NS_PER_S;
use traces::{BlockSizes, Format, Oddity, ReadOptions, Trace, TraceError, read, summary};

const FIXTURES: [(&str, Format); 11] = [
    ("mooncake.jsonl", Format::Mooncake),
    ("bailian.jsonl", Format::Bailian),
    ("azure.csv", Format::Azure),
    ("burstgpt.csv", Format::Burstgpt),
    ("burstgpt_sessions.csv", Format::Burstgpt),
    ("weka", Format::Weka),
    ("ragpulse", Format::Ragpulse),
    ("servegen", Format::Servegen),
    ("splitwise.csv", Format::Splitwise),
    ("sharegpt.json", Format::Sharegpt),
    ("vllm_custom.jsonl", Format::Sharegpt),
];

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn of(name: &str) -> Trace {
    read(&fixture(name), &ReadOptions::default()).unwrap()
}

fn read_text(name: &str, bytes: &[u8]) -> Result<Trace, TraceError> {
    read_as(name, bytes, None)
}

fn read_as(name: &str, bytes: &[u8], format: Option<Format>) -> Result<Trace, TraceError> {
    read_with(name, bytes, &ReadOptions { format, ..ReadOptions::default() })
}

fn read_with(name: &str, bytes: &[u8], options: &ReadOptions) -> Result<Trace, TraceError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    fs::write(&path, bytes).unwrap();
    read(&path, options)
}

/// Replaces `old` in the text of a fixture.
fn edited(name: &str, old: &str, new: &str) -> String {
    let text = fs::read_to_string(fixture(name)).unwrap();
    assert!(text.contains(old), "{name} holds no {old}");
    text.replacen(old, new, 1)
}

/// Copies a fixture that is a folder, with `old` replaced in one of its files.
fn edited_folder(name: &str, file: &str, old: &str, new: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(fixture(name)).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
    }
    let text = edited(&format!("{name}/{file}"), old, new);
    fs::write(folder.path().join(file), text).unwrap();
    folder
}

fn times_ms(trace: &Trace) -> Vec<i64> {
    trace.records.iter().map(|r| r.at_ns / 1_000_000).collect()
}

fn lengths(trace: &Trace) -> Vec<(u32, u32)> {
    trace.records.iter().map(|r| (r.input_tokens, r.output_tokens)).collect()
}

fn turns(trace: &Trace) -> Vec<(Option<u32>, u32, i64)> {
    trace.records.iter().map(|r| (r.session, r.turn, r.think_ns / 1_000_000)).collect()
}

#[test]
fn formats_are_found_out_from_the_content() {
    for (name, format) in FIXTURES {
        assert_eq!(of(name).format, format, "{name}");
    }
    assert!(Format::ALL.iter().all(|format| FIXTURES.iter().any(|(_, of)| of == format)));
}

#[test]
fn mooncake_has_milliseconds_and_64_bit_names() {
    let trace = of("mooncake.jsonl");
    assert_eq!(times_ms(&trace), [0, 350, 350, 2100]);
    assert_eq!(trace.block_ids, [0, 1, 2, 3, u64::MAX]);
    assert_eq!(trace.records[3].blocks, [0, 1, 2]);
    let small = ReadOptions { block_tokens: Some(500), strict: true, ..ReadOptions::default() };
    let error = read(&fixture("mooncake.jsonl"), &small).unwrap_err().to_string();
    assert!(error.contains("line 2: hash_ids is a list of 3 ids: expected 4"), "{error}");
}

#[test]
fn bailian_has_seconds_and_chats_that_go_on() {
    let trace = of("bailian.jsonl");
    assert_eq!(times_ms(&trace), [0, 1_250, 61_114, 80_500, 80_500]);
    let expected = [(0, 0, 0), (1, 0, 0), (0, 1, 61_114), (0, 2, 19_386), (2, 0, 0)]
        .map(|(s, t, n)| (Some(s), t, n));
    assert_eq!(turns(&trace), expected);
    assert_eq!(trace.sizes, BlockSizes::Uniform(16));
    let hit = stats(&trace).reuse.unwrap();
    // 16, then 32, then 64 of 249 tokens.
    assert!((hit.token_hit - 112.0 / 249.0).abs() < 1e-12, "{}", hit.token_hit);
}

#[test]
fn azure_and_splitwise_and_burstgpt_have_lengths_only() {
    let azure = of("azure.csv");
    assert_eq!(
        azure.records.iter().map(|r| r.at_ns).collect::<Vec<_>>(),
        [0, 52_000_000, 52_000_100]
    );
    assert_eq!(lengths(&azure), [(4808, 10), (3180, 8), (110, 27)]);
    let splitwise = of("splitwise.csv");
    assert_eq!(times_ms(&splitwise), [0, 2_750, 3_750]);
    assert_eq!(lengths(&splitwise)[0], (4096, 32));
    let burst = of("burstgpt.csv");
    assert_eq!(times_ms(&burst), [0, 40_000, 40_000, 113_000]);
    assert_eq!(lengths(&burst)[2], (417, 0));
    for trace in [azure, splitwise, burst] {
        assert!(!trace.sizes.any() && trace.records.iter().all(|r| r.session.is_none()));
    }
}

#[test]
fn burstgpt_3_says_how_long_answers_took() {
    let trace = of("burstgpt_sessions.csv");
    // Ten seconds between the two turns, of which the first answer took 2.5.
    let expected = [(Some(0), 0, 0), (Some(1), 0, 0), (Some(0), 1, 7_500), (None, 0, 0)];
    assert_eq!(turns(&trace), expected);
}

#[test]
fn weka_sessions_have_clocks_and_blocks_of_their_own_and_agents_share_their_parents() {
    let trace = of("weka");
    assert_eq!(times_ms(&trace), [0, 500, 3_500, 8_000, 10_000, 20_000]);
    let expected = [(0, 0, 0), (2, 0, 0), (0, 1, 1_500), (1, 0, 0), (1, 1, 1_000), (0, 2, 12_000)];
    assert_eq!(turns(&trace), expected.map(|(s, turn, think)| (Some(s), turn, think)));
    let blocks = |at: usize| &trace.records[at].blocks;
    assert_eq!(blocks(0)[0], blocks(3)[0]);
    assert!(blocks(1).iter().all(|block| !blocks(5).contains(block)));
    let sessions = stats(&trace).sessions.unwrap();
    assert_eq!((sessions.count, sessions.turns_mean, sessions.turns_max), (3, 2.0, 3));
    assert_eq!((sessions.span_p50_s, sessions.think_p50_s), (2.0, 1.5));
    let mut ids = trace.block_ids.clone();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 10);
}

#[test]
fn a_file_may_hold_several_sessions() {
    let text = fs::read_to_string(fixture("weka/session_1.json")).unwrap();
    let text = text + &fs::read_to_string(fixture("weka/session_2.json")).unwrap();
    let trace = read_text("sessions.jsonl", text.as_bytes()).unwrap();
    assert_eq!(trace.records, of("weka").records);
}

#[test]
fn ragpulse_has_chunks_of_their_own_length() {
    let trace = of("ragpulse");
    assert_eq!(times_ms(&trace), [0, 11_000, 13_000]);
    let count = |oddity| trace.oddities.count(&oddity);
    assert_eq!((count(Oddity::OutOfOrder), count(Oddity::Coverage)), (1, 1));
    let tokens =
        |at: usize| trace.sizes.split(&trace.records[at]).map(|(_, t)| t).collect::<Vec<_>>();
    assert_eq!(tokens(0), [20, 4, 16, 12, 10, 8]);
    // The second row is filled up to its length, which its chunks do not reach.
    assert_eq!(tokens(1), [20, 4, 16, 25, 9, 6]);
    let sum = |at: usize| trace.sizes.split(&trace.records[at]).map(|(_, t)| t).sum::<u32>();
    assert!((0..3).all(|at| sum(at) == trace.records[at].input_tokens));
    let summary = summary::json(&stats(&trace));
    let keys = [
        "note",
        "chunk_reuse_tokens",
        "strict_prefix_reuse_tokens",
        "sessions",
        "turns_mean",
        "turns_max",
    ];
    assert!(summary["reuse"].as_object().unwrap().keys().eq(keys), "{summary}");
    // 40 tokens of the second row; 24 of the third, where the passages are swapped.
    let of = |tokens: f64| (tokens / 216.0 * 1e4).round() / 1e4;
    assert_eq!(summary["reuse"]["strict_prefix_reuse_tokens"], of(64.0));
    assert_eq!(summary["reuse"]["chunk_reuse_tokens"], of(92.0));
    assert_eq!((&summary["name"], &summary["out_of_order"]), (&"ragpulse".into(), &1.into()));
    let file = read(&fixture("ragpulse/0_trace.jsonl"), &ReadOptions::default()).unwrap();
    assert_eq!(file.records, trace.records);
}

#[test]
fn servegen_clients_send_at_their_rates_and_with_their_lengths() {
    let trace = of("servegen");
    let count = |from: i64, to: i64, input: fn(u32) -> bool| {
        let inside = trace.records.iter().filter(|r| (from..to).contains(&(r.at_ns / NS_PER_S)));
        inside.filter(|r| input(r.input_tokens)).count() as f64
    };
    // Two a second for 600 s, then nothing, then one every two seconds.
    let near = |got: f64, expected: f64| (got / expected - 1.0).abs() < 0.12;
    assert!(near(count(0, 600, |n| n <= 200), 1200.0), "{}", count(0, 600, |n| n <= 200));
    assert_eq!(count(605, 1195, |n| n <= 200), 0.0);
    assert!(near(count(0, 600, |n| n == 200) / count(0, 600, |n| n <= 200), 0.75));
    assert!(count(1195, 1800, |n| n == 50) > 200.0);
    assert!(near(count(0, 1200, |n| n == 300), 1200.0), "{}", count(0, 1200, |n| n == 300));
    assert!(trace.notes.iter().any(|note| note.contains("1 clients say nothing about lengths")));
    let seeded = |seed| {
        let window = Some("100s..200s".parse().unwrap());
        read(&fixture("servegen"), &ReadOptions { seed, window, ..ReadOptions::default() }).unwrap()
    };
    assert_eq!(seeded(1).records, seeded(1).records);
    assert_ne!(seeded(1).records, seeded(2).records);
    assert!((200..400).contains(&seeded(1).records.len()) && seeded(1).generated);
}

#[test]
fn texts_are_counted_and_share_what_they_share() {
    let trace = of("sharegpt.json");
    assert!(!trace.timed && trace.notes[0].contains("estimated"));
    assert_eq!(trace.records.len(), 3);
    // 53 bytes are 14 tokens of 4; with the answer of 16 bytes and 14 more they are 22.
    assert_eq!(lengths(&trace), [(14, 4), (22, 8), (14, 1)]);
    assert_eq!(trace.records[0].blocks, trace.records[2].blocks);
    assert_eq!(turns(&trace), [(Some(0), 0, 0), (Some(0), 1, 0), (Some(1), 0, 0)]);
    assert_eq!(lengths(&of("vllm_custom.jsonl")), [(8, 10), (7, 1520)]);
    assert_eq!(summary::json(&stats(&trace))["mean_rps"], serde_json::Value::Null);
}
