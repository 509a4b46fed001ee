//! Files that are wrong are refused with what is wrong, where, and what was expected.

use std::fs;
use std::path::Path;

use traces::{Format, ReadOptions, TraceError, read};

use super::{FIXTURES, edited, edited_folder, fixture, read_as, read_text, read_with};

/// Replaces `old` in a fixture; the error that a strict reading of it gives.
fn problem(name: &str, old: &str, new: &str) -> String {
    let format = FIXTURES.iter().find(|(fixture, _)| *fixture == name).map(|(_, format)| *format);
    let format = Some(format.unwrap_or(Format::Weka));
    let options = ReadOptions { format, strict: true, ..ReadOptions::default() };
    read_with(name.rsplit('/').next().unwrap(), edited(name, old, new).as_bytes(), &options)
        .map(|_| ())
        .expect_err(new)
        .to_string()
}

/// Files, what is changed in them to what, and a part of what must be said of it.
fn are_named(cases: &[(&str, &str, &str, &str)]) {
    for (name, old, new, expected) in cases {
        let error = problem(name, old, new);
        assert!(error.contains(expected), "{expected}: {error}");
    }
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
        are_named(&[("mooncake.jsonl", old, new, expected)]);
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
        are_named(&[("bailian.jsonl", old, new, expected)]);
    }
}

#[test]
fn nonsense_is_refused_by_every_reader() {
    for (name, old, new, expected) in [
        (
            "mooncake.jsonl",
            "\"timestamp\": 350",
            "\"timestamp\": -350",
            "line 2: timestamp is -350",
        ),
        ("mooncake.jsonl", "\"timestamp\": 350, ", "", "line 2: timestamp is missing"),
        ("mooncake.jsonl", "\"input_length\": 1536, ", "", "line 2: input_length is missing"),
        ("mooncake.jsonl", "\"output_length\": 40", "\"output_length\": -4", "output_length is -4"),
        ("mooncake.jsonl", "{\"timestamp\": 350", "\"timestamp\": 350", "line 2: the line is"),
        ("mooncake.jsonl", "[0, 1, 3]", "[0, \"1\", 3]", "line 2: hash_ids[1] is \"1\""),
        ("azure.csv", "3180,8", "-3180,8", "line 3: ContextTokens is \"-3180\""),
        ("azure.csv", "3180,8", "3180", "line 3: the row is 2 columns: expected 3 columns"),
        ("burstgpt.csv", "45,GPT-4", "inf,GPT-4", "line 4: Timestamp is \"inf\""),
        ("splitwise.csv", "3,1,2048", "3,4,2048", "line 3: batch_size is 4"),
    ] {
        let format = FIXTURES.iter().find(|(fixture, _)| *fixture == name).unwrap().1;
        let read = read_as(name, edited(name, old, new).as_bytes(), Some(format));
        let error = read.map(|_| ()).expect_err(new).to_string();
        assert!(error.contains(expected), "{expected}: {error}");
    }
}

#[test]
fn a_block_size_that_suits_few_prompts_is_refused_with_the_flag() {
    let options = ReadOptions { block_tokens: Some(16), ..ReadOptions::default() };
    let error = read(&fixture("mooncake.jsonl"), &options).unwrap_err().to_string();
    assert!(error.contains("line 1: hash_ids is a list of 3 ids: expected 69"), "{error}");
    assert!(error.contains("--trace-block"), "{error}");
}

#[test]
fn rows_that_are_wrong_are_named() {
    are_named(&[
        ("azure.csv", "3180,8", "3180", "line 3: the row is 2 columns: expected 3 columns"),
        ("azure.csv", "3180,8", "-3180,8", "line 3: ContextTokens is \"-3180\""),
        (
            "azure.csv",
            "3180,8",
            "99999999,8",
            "line 3: ContextTokens is 99999999: expected tokens from 0 to 16777216",
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
    ]);
}

#[test]
fn documents_that_are_wrong_are_named() {
    are_named(&[
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
    ]);
}

/// Returns the error of reading a folder after a change to one of its files.
fn error_after_change(name: &str, file: &str, old: &str, new: &str) -> String {
    let folder = edited_folder(name, file, old, new);
    read(folder.path(), &ReadOptions::default()).map(|_| ()).expect_err(new).to_string()
}

#[test]
fn folders_that_are_wrong_are_named() {
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
        let error = error_after_change(name, file, old, new);
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
    assert!(error.contains("line 2: the line is longer: expected at most"), "{error}");
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
