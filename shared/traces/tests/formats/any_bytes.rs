//! No bytes make a reader panic.

use std::fs;

use proptest::prelude::*;
use traces::stats::stats;
use traces::{Format, ReadOptions, read, summary};

use super::{FIXTURES, fixture};

/// Reads as every format, which must give a trace or an error.
fn read_as_all(name: &str, bytes: &[u8]) {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join(name), bytes).unwrap();
    for format in Format::ALL.into_iter().map(Some).chain([None]) {
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
