//! Every trace format: a made-up file of each is read right, changed files are refused with the line,
//! and no bytes make a reader panic.

#![allow(clippy::unwrap_used, reason = "what helps a test may fail like a test")]

use std::fs;
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use loadgen::trace::stats::stats;
use loadgen::trace::{BlockSizes, Format, ReadOptions, Record, Trace, TraceError, read, summary};
use loadgen::units::NS_PER_S;
use proptest::prelude::*;

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

fn times_ms(trace: &Trace) -> Vec<i64> {
    trace.records.iter().map(|r| r.at_ns / 1_000_000).collect()
}

fn lengths(trace: &Trace) -> Vec<(u32, u32)> {
    trace.records.iter().map(|r| (r.input_tokens, r.output_tokens)).collect()
}

fn turns(trace: &Trace) -> Vec<(Option<u32>, u32, i64)> {
    let seconds = |r: &Record| (r.session, r.turn, r.think_ns / 1_000_000);
    trace.records.iter().map(seconds).collect()
}

#[test]
fn formats_are_found_out_from_the_content() {
    for (name, format) in FIXTURES {
        assert_eq!(of(name).format, format, "{name}");
    }
    let covered = |format: &Format| FIXTURES.iter().any(|(_, of)| of == format);
    assert!(Format::value_variants().iter().all(covered));
}

#[test]
fn mooncake_has_milliseconds_and_64_bit_names() {
    let trace = of("mooncake.jsonl");
    assert_eq!(times_ms(&trace), [0, 350, 350, 2100]);
    assert_eq!(trace.block_ids, [0, 1, 2, 3, u64::MAX]);
    assert_eq!(trace.records[3].blocks, [0, 1, 2]);
    let small = ReadOptions { block_tokens: Some(500), ..ReadOptions::default() };
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
    assert_eq!((trace.out_of_order, trace.coverage_bad), (1, 1));
    let tokens =
        |at: usize| trace.sizes.split(&trace.records[at]).map(|(_, t)| t).collect::<Vec<_>>();
    assert_eq!(tokens(0), [20, 4, 16, 12, 10, 8]);
    // What the chunks of the second row lack of its length is filled up.
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
        let inside =
            |r: &&Record| (from..to).contains(&(r.at_ns / NS_PER_S)) && input(r.input_tokens);
        trace.records.iter().filter(inside).count() as f64
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

fn read_text(name: &str, bytes: &[u8]) -> Result<Trace, TraceError> {
    read_as(name, bytes, None)
}

fn read_as(name: &str, bytes: &[u8], format: Option<Format>) -> Result<Trace, TraceError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    fs::write(&path, bytes).unwrap();
    read(&path, &ReadOptions { format, ..ReadOptions::default() })
}

/// Replaces `old` in a fixture; the error that reading it gives.
fn problem(name: &str, old: &str, new: &str) -> String {
    let text = fs::read_to_string(fixture(name)).unwrap();
    assert!(text.contains(old), "{name} holds no {old}");
    let format = FIXTURES.iter().find(|(fixture, _)| *fixture == name).map(|(_, format)| *format);
    let format = format.unwrap_or(Format::Weka);
    read_as(name.rsplit('/').next().unwrap(), text.replacen(old, new, 1).as_bytes(), Some(format))
        .map(|_| ())
        .expect_err(new)
        .to_string()
}

#[test]
fn json_lines_that_are_wrong_are_named() {
    for (old, new, expected) in [
        (
            "\"timestamp\": 350",
            "\"timestamp\": -350",
            "line 2: timestamp is -350: expected whole milli",
        ),
        (
            "\"timestamp\": 350",
            "\"timestamp\": 0.35",
            "line 2: timestamp is 0.35: expected whole milli",
        ),
        ("\"timestamp\": 2100", "\"timestamp\": 349", "line 4: timestamp is 0.001 s before"),
        (
            "\"input_length\": 1536",
            "\"input_length\": 1537",
            "line 2: hash_ids is a list of 3 ids: expected 4",
        ),
        (
            "\"input_length\": 1536",
            "\"input_length\": 0",
            "line 2: input_length is 0: expected tokens from 1",
        ),
        ("\"input_length\": 1536", "\"input_length\": 4e9", "line 2: input_length is 4000000000"),
        ("\"output_length\": 40", "\"output_length\": \"40\"", "line 2: output_length is \"40\""),
        ("\"output_length\": 40, ", "", "line 2: output_length is missing"),
        ("\"output_length\": 40", "\"output_length\": NaN", "line 2: the line is"),
        ("\"output_length\": 40", "\"length\": 40", "line 2: length is 40: expected no such field"),
        ("[0, 1, 3]", "[0, -1, 3]", "line 2: hash_ids[1] is -1"),
        (
            "[0, 1, 3]",
            "[0, 1, 18446744073709551616]",
            "line 2: hash_ids[2] is 1.8446744073709552e+19",
        ),
        ("{\"timestamp\": 350", "\n{\"timestamp\": 350", "line 2: the line is empty"),
    ] {
        let error = problem("mooncake.jsonl", old, new);
        assert!(error.contains(expected), "{expected}: {error}");
    }
    for (old, new, expected) in [
        ("\"timestamp\": 61.114", "\"timestamp\": 0.5", "line 3: timestamp is 0.750 s before"),
        ("\"chat_id\": 3", "\"chat_id\": 3.5", "line 3: chat_id is 3.5: expected a whole number"),
        (
            "[10, 11, 13, 14, 15]",
            "[10, 11, 13, 14]",
            "line 3: hash_ids is a list of 4 ids: expected 5",
        ),
    ] {
        let error = problem("bailian.jsonl", old, new);
        assert!(error.contains(expected), "{expected}: {error}");
    }
}

#[test]
fn rows_that_are_wrong_are_named() {
    for (name, old, new, expected) in [
        ("azure.csv", "3180,8", "3180", "line 3: the row is 2 columns: expected 3 columns"),
        ("azure.csv", "3180,8", "-3180,8", "line 3: ContextTokens is \"-3180\""),
        (
            "azure.csv",
            "3180,8",
            "99999999,8",
            "line 3: ContextTokens is 99999999: expected tokens from 1",
        ),
        (
            "azure.csv",
            "04.0319600",
            "61.0319600",
            "line 3: TIMESTAMP is \"2023-11-16 18:17:61.0319600\"",
        ),
        ("azure.csv", "04.0319601", "03.0319601", "line 4: TIMESTAMP is 1.000 s before"),
        ("azure.csv", "ContextTokens", "Tokens", "line 1: the header is TIMESTAMP,Tokens,"),
        (
            "burstgpt.csv",
            "1087,230,1317",
            "1087,230,1318",
            "line 3: Total tokens is 1318: expected 1317",
        ),
        ("burstgpt.csv", "45,GPT-4", "inf,GPT-4", "line 4: Timestamp is \"inf\""),
        ("burstgpt.csv", "45,GPT-4", "45,", "line 4: Model is empty"),
        ("burstgpt.csv", "Log Type", "Log", "line 1: the header is"),
        ("splitwise.csv", "3,1,2048", "3,4,2048", "line 3: batch_size is 4"),
        ("splitwise.csv", "0.25", "NaN", "line 2: arrival_timestamp is \"NaN\""),
    ] {
        let error = problem(name, old, new);
        assert!(error.contains(expected), "{expected}: {error}");
    }
}

#[test]
fn documents_that_are_wrong_are_named() {
    for (name, old, new, expected) in [
        (
            "weka/session_1.json",
            "[1, 2, 3, 4]",
            "[1, 2, 3]",
            "line 10: requests[1].hash_ids is a list of 3",
        ),
        ("weka/session_1.json", "[1, 9]", "[1]", "line 14: requests[2].requests[1].hash_ids is"),
        ("weka/session_1.json", "\"in\": 257", "\"in\": -257", "line 15: requests[3].in is -257"),
        (
            "weka/session_1.json",
            "\"type\": \"n\"",
            "\"type\": \"q\"",
            "line 10: requests[1].type is q",
        ),
        (
            "weka/session_1.json",
            "\"local\"",
            "\"here\"",
            "hash_id_scope is here: expected \"local\"",
        ),
        ("weka/session_1.json", "\"block_size\": 64,", "", "block_size is missing"),
        ("weka/session_1.json", "\"t\": 20.0", "\"t\": \"x\"", "line 15: requests[3].t is \"x\""),
        ("weka/session_1.json", "]},", "],,", "line 14: the document is broken"),
        (
            "sharegpt.json",
            "\"value\": \"No.\"",
            "\"value\": 5",
            "entry 1: conversations[1].value is 5",
        ),
        (
            "vllm_custom.jsonl",
            "\"output_tokens\": 1520",
            "\"tokens\": 1520",
            "line 2: entry 1: output_tokens is missing",
        ),
    ] {
        let error = problem(name, old, new);
        assert!(error.contains(expected), "{expected}: {error}");
    }
}

#[test]
fn folders_that_are_wrong_are_named() {
    let changed = |name: &str, file: &str, old: &str, new: &str| {
        let folder = tempfile::tempdir().unwrap();
        for entry in fs::read_dir(fixture(name)).unwrap() {
            let path = entry.unwrap().path();
            fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
        }
        let path = folder.path().join(file);
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(old), "{file} holds no {old}");
        fs::write(&path, text.replacen(old, new, 1)).unwrap();
        read(folder.path(), &ReadOptions::default()).map(|_| ()).expect_err(new).to_string()
    };
    for (name, file, old, new, expected) in [
        (
            "ragpulse",
            "0_trace.jsonl",
            "[2, 1]",
            "[2, 7]",
            "line 2: hash_ids.passages_ids[1] is 7: expected a chunk",
        ),
        ("ragpulse", "0_trace.jsonl", "\"95\"", "\"-95\"", "line 2: timestamp is \"-95\""),
        (
            "ragpulse",
            "0_trace.jsonl",
            "\"95\"",
            "\"9500\"",
            "line 3: timestamp is 9407.000 s before",
        ),
        (
            "ragpulse",
            "2_passages.jsonl",
            "12",
            "-12",
            "2_passages.jsonl, line 2: token_length is -12",
        ),
        (
            "servegen",
            "chunk-0-trace.csv",
            "Gamma,1.0",
            "Pareto,1.0",
            "line 1: pattern is \"Pareto\"",
        ),
        ("servegen", "chunk-0-trace.csv", "600", "0", "line 2: window start is 0"),
        ("servegen", "chunk-0-trace.csv", "2.0,1.0", "-2.0,1.0", "line 1: rate is \"-2.0\""),
        (
            "servegen",
            "chunk-0-trace.csv",
            "2.0,1.0",
            "2e9,1.0",
            "line 1: rate is 2000000000: expected",
        ),
        (
            "servegen",
            "chunk-0-dataset.json",
            "0.75",
            "0.85",
            "0.input_tokens is parts of 1.1 together",
        ),
        ("servegen", "chunk-0-dataset.json", "200: 0.75", "x: 0.75", "0.input_tokens is"),
    ] {
        let error = changed(name, file, old, new);
        assert!(error.contains(expected), "{expected}: {error}");
    }
}

#[test]
fn other_files_are_refused_and_ambiguous_folders_name_the_flag() {
    let error = read_text("x", b"hello\n").unwrap_err().to_string();
    assert!(error.contains("\"hello\"") && error.contains("--format"), "{error}");
    assert!(matches!(read_text("x", b""), Err(TraceError::Empty { .. })));
    let header = b"TIMESTAMP,ContextTokens,GeneratedTokens\n";
    assert!(matches!(read_text("x", header), Err(TraceError::Empty { .. })));
    let missing = read(Path::new("/no/such/trace"), &ReadOptions::default()).unwrap_err();
    assert!(matches!(missing, TraceError::Io { .. }), "{missing}");
    let endless = format!("{{\"timestamp\": \"{}", "x".repeat(5 << 20));
    let error = read_as("x", endless.as_bytes(), Some(Format::Mooncake)).unwrap_err().to_string();
    assert!(error.contains("line 1: the line is longer"), "{error}");
    let wide = format!("TIMESTAMP,ContextTokens,GeneratedTokens\n{}", "1".repeat(5 << 20));
    let error = read_text("x", wide.as_bytes()).unwrap_err().to_string();
    assert!(error.contains("line 2: the line is a line is longer than"), "{error}");
    let folder = tempfile::tempdir().unwrap();
    for from in
        ["servegen/chunk-0-trace.csv", "servegen/chunk-0-dataset.json", "weka/session_1.json"]
    {
        fs::copy(fixture(from), folder.path().join(from.rsplit('/').next().unwrap())).unwrap();
    }
    let error = read(folder.path(), &ReadOptions::default()).unwrap_err();
    assert!(matches!(&error, TraceError::Ambiguous { fits, .. } if fits.len() == 2), "{error}");
    assert!(error.to_string().contains("--format"));
}

/// Reads as every format, which must give a trace or an error.
fn read_as_all(name: &str, bytes: &[u8]) {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join(name), bytes).unwrap();
    for format in Format::value_variants().iter().copied().map(Some).chain([None]) {
        let options = ReadOptions { format, ..ReadOptions::default() };
        for path in [folder.path().join(name), folder.path().to_owned()] {
            if let Ok(trace) = read(&path, &options) {
                assert!(!trace.records.is_empty());
                assert!(trace.records.is_sorted_by_key(|r| r.at_ns));
                assert!(trace.records.iter().all(|r| r.input_tokens > 0 && r.at_ns >= 0));
                summary::tables(&stats(&trace));
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_bytes_give_a_trace_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        read_as_all("0_trace.jsonl", &bytes);
    }

    #[test]
    fn changed_files_give_a_trace_or_an_error(
        which in 0..FIXTURES.len(),
        file in any::<prop::sample::Index>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0_u8..4), 1..6),
    ) {
        let path = fixture(FIXTURES[which].0);
        let folder = tempfile::tempdir().unwrap();
        let mut files = vec![path.clone()];
        if path.is_dir() {
            files = fs::read_dir(&path).unwrap().map(|e| e.unwrap().path()).collect();
            files.sort();
        }
        let chosen = file.index(files.len());
        for (at, file) in files.iter().enumerate() {
            let mut bytes = fs::read(file).unwrap();
            for (place, byte, how) in changes.iter().filter(|_| at == chosen) {
                let place = place.index(bytes.len());
                match how {
                    0 => bytes[place] = *byte,
                    // Digits more often than chance has them, to make numbers large.
                    1 => bytes.insert(place, b'0' + byte % 10),
                    2 => { bytes.remove(place); }
                    _ => bytes.truncate(place.max(1)),
                }
                if bytes.is_empty() {
                    bytes.push(b'\n');
                }
            }
            fs::write(folder.path().join(file.file_name().unwrap()), bytes).unwrap();
        }
        let path = if path.is_dir() { folder.path().to_owned() } else {
            folder.path().join(path.file_name().unwrap())
        };
        for format in [Some(FIXTURES[which].1), None] {
            // Few requests, however often a changed client wants to send.
            let window = Some("0s..0.001s".parse().unwrap());
            let options = ReadOptions { format, window, ..ReadOptions::default() };
            if let Ok(trace) = read(&path, &options) {
                prop_assert!(trace.records.is_sorted_by_key(|r| r.at_ns));
                prop_assert!(trace.records.iter().all(|r| r.input_tokens > 0 && r.at_ns >= 0));
                summary::tables(&stats(&trace));
            }
        }
    }
}
