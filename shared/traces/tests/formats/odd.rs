//! Oddities of published traces are passed over, counted and said once, or refused if asked to.

use std::fs;

use proptest::prelude::*;
use traces::{BlockSizes, Format, Oddity, ReadOptions, Trace, read};

use super::{FIXTURES, edited, edited_folder, fixture, lengths, of, read_with, times_ms, turns};

fn strict() -> ReadOptions {
    ReadOptions { strict: true, ..ReadOptions::default() }
}

/// Changes a fixture. The change must be passed over with the words `said`, and refused with the
/// words `refused` by a strict reader.
fn is_passed_over(name: &str, old: &str, new: &str, said: &str, refused: &str) {
    let format = FIXTURES.iter().find(|(fixture, _)| *fixture == name).map(|(_, format)| *format);
    let options = ReadOptions { format: format.or(Some(Format::Weka)), ..ReadOptions::default() };
    let file = name.rsplit('/').next().unwrap();
    let text = edited(name, old, new);
    let trace = read_with(file, text.as_bytes(), &options).expect(said);
    let described = trace.oddities.describe();
    assert!(described.iter().any(|sentence| sentence == said), "{said}: {described:?}");
    let options = ReadOptions { strict: true, ..options };
    let error = read_with(file, text.as_bytes(), &options).expect_err(said).to_string();
    assert!(error.contains(refused), "{refused}: {error}");
}

#[test]
fn odd_lines_are_passed_over_and_counted() {
    is_passed_over(
        "mooncake.jsonl",
        "{\"timestamp\": 350",
        "\n \r\n{\"timestamp\": 350",
        "2 empty lines skipped (first: mooncake.jsonl, line 2)",
        "line 2: the line is empty: expected a record",
    );
    is_passed_over(
        "bailian.jsonl",
        "{\"chat_id\": 1",
        "\u{feff}{\"chat_id\": 1",
        "1 byte-order mark skipped (bailian.jsonl, line 1)",
        "line 1: the line is behind a byte-order mark",
    );
    is_passed_over(
        "azure.csv",
        "2023-11-16 18:17:04.0319600",
        "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:04.0319600",
        "1 repeated header skipped (azure.csv, line 3)",
        "line 3: the row is the header: expected a record",
    );
    is_passed_over(
        "splitwise.csv",
        "request_id",
        "\u{feff}\n\u{feff}request_id",
        "2 byte-order marks skipped (first: splitwise.csv, line 1)",
        "line 1: the line is behind a byte-order mark",
    );
    is_passed_over(
        "weka/session_2.json",
        "{\"id\"",
        "\u{feff}{\"id\"",
        "1 byte-order mark skipped (session_2.json, line 1)",
        "line 1: the line is behind a byte-order mark",
    );
}

#[test]
fn odd_times_are_passed_over_and_counted() {
    is_passed_over(
        "mooncake.jsonl",
        "\"timestamp\": 2100",
        "\"timestamp\": 349",
        "1 record out of order, sorted (mooncake.jsonl, line 4)",
        "line 4: timestamp is 0.001 s before the time stamp above",
    );
    is_passed_over(
        "mooncake.jsonl",
        "\"timestamp\": 2100",
        "\"timestamp\": 2100.5",
        "1 time stamp with a fraction, read as milliseconds (mooncake.jsonl, line 4)",
        "line 4: timestamp is 2100.5: expected whole milliseconds",
    );
    is_passed_over(
        "weka/session_1.json",
        "\"t\": 3.5",
        "\"t\": 90.0",
        "1 record out of order, sorted (session_1.json, line 14)",
        "line 14: requests[2].t is 82.000 s before the time stamp above",
    );
    is_passed_over(
        "weka/session_1.json",
        "\"think_time\": 1.5",
        "\"think_time\": -1.5",
        "unusable think_time ignored in 1 record (session_1.json, line 10)",
        "line 10: requests[1].think_time is -1.5",
    );
}

#[test]
fn odd_fields_are_passed_over_and_counted() {
    is_passed_over(
        "mooncake.jsonl",
        "\"timestamp\": 350",
        "\"priority\": 1, \"timestamp\": 350",
        "unknown field priority ignored in 1 place (mooncake.jsonl, line 2)",
        "line 2: priority is 1: expected no such field",
    );
    is_passed_over(
        "mooncake.jsonl",
        "\"output_length\": 40, ",
        "",
        "1 record without an output length, read as no output (mooncake.jsonl, line 2)",
        "line 2: output_length is missing",
    );
    is_passed_over(
        "burstgpt.csv",
        "1087,230,1317",
        "1087,230,1318",
        "unusable Total tokens ignored in 1 record (burstgpt.csv, line 3)",
        "line 3: Total tokens is 1318: expected 1317",
    );
    is_passed_over(
        "burstgpt_sessions.csv",
        "b7,1.0",
        "b7,nan",
        "unusable Elapsed time ignored in 1 record (burstgpt_sessions.csv, line 3)",
        "line 3: Elapsed time is \"nan\"",
    );
    is_passed_over(
        "sharegpt.json",
        "\"value\": \"No.\"",
        "\"value\": null",
        "unusable value ignored in 1 record (sharegpt.json, line 11)",
        "entry 1: conversations[1].value is missing",
    );
}

#[test]
fn odd_prompts_are_passed_over_and_counted() {
    is_passed_over(
        "burstgpt.csv",
        "1087,230,1317",
        "0,0,0",
        "1 record without prompt tokens, left out (burstgpt.csv, line 3)",
        "line 3: Request tokens is 0: expected tokens from 1",
    );
    is_passed_over(
        "mooncake.jsonl",
        ", \"hash_ids\": [0, 1, 3]",
        "",
        "1 prompt without block ids: shared with no other prompt (mooncake.jsonl, line 2)",
        "line 2: hash_ids is a list of 0 ids: expected 3",
    );
    is_passed_over(
        "bailian.jsonl",
        ", \"hash_ids\": [10, 11, 13, 14, 15]",
        "",
        "1 prompt without block ids: shared with no other prompt (bailian.jsonl, line 3)",
        "line 3: hash_ids is a list of 0 ids: expected 5",
    );
    is_passed_over(
        "weka/session_1.json",
        "[1, 2, 3, 4]",
        "[1, 2, 3]",
        "1 prompt whose partly filled last block has no id: its tokens are shared with no other \
         prompt (session_1.json, line 10)",
        "line 10: requests[1].hash_ids is a list of 3 ids: expected 4",
    );
    is_passed_over(
        "mooncake.jsonl",
        "[0, 1, 3]",
        "[0, 1, 3, 4]",
        "1 prompt with blocks that do not add up to the length: what is over is cut off, what is \
         missing is filled with tokens that no other prompt has (mooncake.jsonl, line 2)",
        "line 2: hash_ids is a list of 4 ids: expected 3",
    );
}

#[test]
fn odd_folders_are_passed_over_and_counted() {
    for (name, file, old, new, said) in [
        (
            "ragpulse",
            "0_trace.jsonl",
            "\"95\"",
            "\"604603\"",
            "1 record out of order, sorted (0_trace.jsonl, line 3)",
        ),
        (
            "ragpulse",
            "5_web_search.jsonl",
            "8}\n",
            "8}\n\n",
            "1 empty line skipped (5_web_search.jsonl, line 2)",
        ),
        (
            "servegen",
            "chunk-1-dataset.json",
            "{\"0\"",
            "\u{feff}{\"0\"",
            "1 byte-order mark skipped (chunk-1-dataset.json, line 1)",
        ),
        (
            "servegen",
            "chunk-1-trace.csv",
            "600,",
            "\n600,",
            "1 empty line skipped (chunk-1-trace.csv, line 2)",
        ),
    ] {
        let folder = edited_folder(name, file, old, new);
        let described = read(folder.path(), &ReadOptions::default()).unwrap().oddities.describe();
        assert!(described.iter().any(|sentence| sentence == said), "{said}: {described:?}");
        assert!(read(folder.path(), &strict()).is_err(), "{said}");
    }
}

#[test]
fn tables_may_have_further_columns_quotes_and_whole_numbers_with_a_point() {
    let text = "\u{feff}\"\",\"TIMESTAMP\",\"NumImages\",\"ContextTokens\",\"GeneratedTokens\"\r\n\
                0,\"2023-11-16 18:17:03.9799600\",1,\"4808\",10.0\r\n\
                1,2023-11-16T18:17:04.0319600Z,\"0,5\",3180,8\r\n\
                2,2023-11-16 18:17:04.0319601,0,110,27\r\n\r\n";
    let trace = read_with("x.csv", text.as_bytes(), &ReadOptions::default()).unwrap();
    assert_eq!(trace.records, of("azure.csv").records);
    let count = |oddity| trace.oddities.count(&oddity);
    assert_eq!(count(Oddity::UnknownField("NumImages".to_owned())), 1);
    assert_eq!(count(Oddity::UnknownField(String::new())), 1);
    assert_eq!((count(Oddity::ByteOrderMark), count(Oddity::EmptyLine)), (1, 1));
    let error = read_with("x.csv", text.as_bytes(), &strict()).unwrap_err().to_string();
    assert!(error.contains("line 1"), "{error}");
}

#[test]
fn mooncake_turns_of_a_session_follow_each_other() {
    let text = "{\"session_id\": \"a\", \"timestamp\": 10, \"input_length\": 600, \"output_length\": 8}\n\
                {\"session_id\": \"b\", \"timestamp\": 20, \"input_length\": 90, \"output_length\": 8}\n\
                {\"session_id\": \"a\", \"delay\": 2.5, \"input_length\": 700, \"output_length\": 8}\n\
                {\"session_id\": \"a\", \"timestamp\": 40, \"delay\": 5, \"input_length\": 80}\n\
                {\"timestamp\": 50, \"input_length\": 7, \"output_length\": 0}\n";
    let trace = read_with("x.jsonl", text.as_bytes(), &ReadOptions::default()).unwrap();
    assert_eq!((trace.format, trace.timed), (Format::Mooncake, true));
    assert_eq!(times_ms(&trace), [0, 2, 10, 30, 40]);
    let sessions: Vec<_> = trace.records.iter().map(|r| (r.session, r.turn)).collect();
    assert_eq!(sessions, [(Some(0), 0), (Some(0), 1), (Some(1), 0), (Some(0), 2), (None, 0)]);
    let thinking: Vec<_> = trace.records.iter().map(|r| r.think_ns).collect();
    assert_eq!(thinking, [0, 2_500_000, 0, 5_000_000, 0]);
    // Without ids nothing is shared, and there are no blocks.
    assert_eq!(trace.sizes, BlockSizes::None);
    assert!(trace.notes.iter().any(|note| note.contains("in 1 of 2 later turns")));
    // Without any time, the turns keep the distance that their delays give.
    let text = text.replace("\"timestamp\": 10, ", "").replace("\"timestamp\": 20, ", "");
    let text: Vec<&str> = text.lines().take(3).collect();
    let trace = read_with("x.jsonl", text.join("\n").as_bytes(), &ReadOptions::default()).unwrap();
    assert!(!trace.timed);
    assert_eq!(turns(&trace), [(Some(0), 0, 0), (Some(1), 0, 0), (Some(0), 1, 2)]);
    let mixed = [text[0], "{\"timestamp\": 5, \"input_length\": 7, \"output_length\": 1}"];
    let error = read_with("x", mixed.join("\n").as_bytes(), &ReadOptions::default()).unwrap_err();
    assert!(error.to_string().contains("line 2: timestamp is 5: expected none"), "{error}");
}

#[test]
fn agents_have_the_clock_of_their_session_or_one_of_their_own() {
    let whole = of("weka");
    let file = fs::read_to_string(fixture("weka/session_1.json")).unwrap();
    let relative = "{\"t\": 0.0, \"type\": \"n\", \"model\": \"h\"";
    let absolute = file
        .replace(relative, "{\"t\": 8.0, \"type\": \"n\", \"model\": \"h\"")
        .replace("{\"t\": 2.0", "{\"t\": 10.0");
    assert!(file.contains(relative));
    let options = ReadOptions::default();
    let own = read_with("x.json", file.as_bytes(), &options).unwrap();
    let common = read_with("x.json", absolute.as_bytes(), &options).unwrap();
    assert_eq!(own.records, common.records);
    assert_eq!(own.records.len() + 1, whole.records.len());
}

#[test]
fn servegen_prompts_may_be_of_several_parts() {
    let folder = edited_folder(
        "servegen",
        "chunk-1-dataset.json",
        "\"input_tokens\": \"{300: 1.0}\"",
        "\"text_tokens\": \"{300: 1.0}\", \"image_tokens\": \"{7000.0: 1.0}\", \"audio_tokens\": \
         \"{0: 1.0}\"",
    );
    let window = Some("0s..600s".parse().unwrap());
    let trace = read(folder.path(), &ReadOptions { window, ..ReadOptions::default() }).unwrap();
    let many = lengths(&trace).into_iter().filter(|(input, _)| *input == 7_300).count();
    assert!((500..700).contains(&many), "{many}");
}

/// Returns the header and the rows of a trace of twenty requests in order.
fn clean(format: Format) -> (Option<String>, Vec<String>) {
    let rows = (0..20_i64).map(|at| {
        let (input, output) = (40 + 16 * at, at % 3);
        let ids = |tokens: i64| {
            let ids: Vec<i64> =
                (0..(input + tokens - 1) / tokens).map(|n| n * 4 + at % 4).collect();
            serde_json::json!(ids).to_string()
        };
        match format {
            Format::Mooncake => format!(
                "{{\"timestamp\": {}, \"input_length\": {input}, \"output_length\": {output}, \
                 \"hash_ids\": {}, \"session_id\": \"{}\"}}",
                at * 30,
                ids(512),
                at % 3
            ),
            Format::Bailian => format!(
                "{{\"chat_id\": {at}, \"parent_chat_id\": {}, \"timestamp\": {}, \"input_length\": \
                 {input}, \"output_length\": {output}, \"type\": \"text\", \"turn\": 1, \
                 \"hash_ids\": {}}}",
                if at % 5 < 2 { -1 } else { at - 2 },
                at as f64 * 1.5,
                ids(16)
            ),
            Format::Azure => format!("2024-05-10 00:00:{at:02}.5+00:00,{input},{output}"),
            Format::Burstgpt => {
                let total = input + output;
                format!("{at}.25,GPT-4,{input},{output},{total},API log,s{},0.5", at % 3)
            }
            _ => format!("{at},2,0,{at}.125,1,{input},{output}"),
        }
    });
    let header = match format {
        Format::Azure => Some("TIMESTAMP,ContextTokens,GeneratedTokens"),
        Format::Burstgpt => Some(
            "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type,Session ID,\
             Elapsed time",
        ),
        Format::Splitwise => Some(
            "request_id,request_type,application_id,arrival_timestamp,batch_size,prompt_size,\
             token_size",
        ),
        _ => None,
    };
    (header.map(str::to_owned), rows.collect())
}

fn read_rows(header: Option<&String>, rows: &[String], format: Format) -> Trace {
    let lines: Vec<&str> = header.into_iter().chain(rows).map(String::as_str).collect();
    let options = ReadOptions { format: Some(format), ..ReadOptions::default() };
    read_with("x", lines.join("\n").as_bytes(), &options).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_trace_with_oddities_is_the_trace_without(
        which in 0..5_usize,
        swaps in prop::collection::vec((0..20_usize, 0..20_usize), 0..6),
        blanks in prop::collection::vec((0..20_usize, "[ \t]{0,3}\r?"), 0..4),
        marks in prop::collection::btree_set(0..20_usize, 0..3),
        header_at in prop::option::of(0..20_usize),
    ) {
        let format = [
            Format::Mooncake, Format::Bailian, Format::Azure, Format::Burstgpt, Format::Splitwise,
        ][which];
        let (header, mut rows) = clean(format);
        let expected = read_rows(header.as_ref(), &rows, format);
        prop_assert!(expected.oddities.is_empty(), "{:?}", expected.oddities.describe());
        for (one, other) in swaps {
            rows.swap(one, other);
        }
        for at in &marks {
            rows[*at].insert(0, '\u{feff}');
        }
        let repeated = header_at.and_then(|at| Some((at, header.clone()?)));
        if let Some((at, header)) = &repeated {
            rows.insert(*at, header.clone());
        }
        for (at, blank) in &blanks {
            rows.insert(*at, blank.clone());
        }
        rows.push(String::from("\r"));
        let got = read_rows(header.as_ref(), &rows, format);
        prop_assert_eq!(&got.records, &expected.records);
        prop_assert_eq!(&got.block_ids, &expected.block_ids);
        prop_assert_eq!(&got.sizes, &expected.sizes);
        let count = |oddity| got.oddities.count(&oddity);
        prop_assert_eq!(count(Oddity::EmptyLine), blanks.len() + 1);
        prop_assert_eq!(count(Oddity::ByteOrderMark), marks.len());
        prop_assert_eq!(count(Oddity::RepeatedHeader), usize::from(repeated.is_some()));
    }
}
