//! Real traces: their statistics against figures computed elsewhere.

#![allow(clippy::unwrap_used, reason = "what helps a test may fail like a test")]

use std::path::{Path, PathBuf};

use traces::stats::stats;
use traces::{Format, ReadOptions, Trace, read, summary};

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

fn plain(path: &Path) -> Trace {
    read(path, &ReadOptions::default()).unwrap()
}

#[test]
fn statistics_of_the_excerpts() {
    let mooncake = plain(&data("mooncake_conversation_60s.jsonl"));
    let stats_ = stats(&mooncake);
    let pace = stats_.pace.unwrap();
    assert_eq!((mooncake.format, stats_.requests, pace.duration_s), (Format::Mooncake, 162, 57.0));
    close(pace.ia_cv, 2.733_804_017_983_211);
    close(pace.peak10_rps, 3.8);
    close(stats_.input.quantiles.p99.unwrap(), 87_170.17);
    assert_eq!(pace.quantum.map(|q| q.step_ns), Some(3_000_000_000));
    let reuse = stats_.reuse.unwrap();
    assert_eq!((reuse.unique_blocks, reuse.total_blocks, reuse.non_prefix_seen), (4197, 4400, 0));
    close(reuse.token_hit, 0.047_045_340_254_463_8);
    close(reuse.token_hit_2nd_half, 0.053_340_470_693_063_61);
    let azure = plain(&data("azure_conv_head.csv"));
    let stats_ = stats(&azure);
    assert_eq!((azure.format, stats_.requests), (Format::Azure, 100));
    assert_eq!((stats_.input.sum, stats_.output.sum), (80_197, 17_052));
    close(stats_.output.quantiles.p99.unwrap(), 424.02);
    assert_eq!((stats_.pace.unwrap().quantum, stats_.reuse), (None, None));
}

fn close(got: f64, expected: f64) {
    assert!((got - expected).abs() <= 1e-9 * expected.abs(), "{got} is not {expected}");
}

/// The whole files are not part of the repository: they are looked for beside it, or in the folder
/// that `TANDEM_TRACES` names, with a `STATS.json` of figures computed by other means.
#[test]
fn statistics_of_whole_traces_are_those_computed_elsewhere_to_the_digit() {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/traces");
    let folder = std::env::var_os("TANDEM_TRACES").map_or(beside, PathBuf::from);
    let Ok(text) = std::fs::read_to_string(folder.join("STATS.json")) else {
        println!("skipped: whole traces: no STATS.json in {}", folder.display());
        return;
    };
    // Compared as text, since it is the digits that count.
    let without_spaces = |text: &str| text.split_whitespace().collect::<String>();
    let expected = without_spaces(&text);
    for file in [
        "mooncake_conversation_trace.jsonl",
        "mooncake_synthetic_trace.jsonl",
        "azure2023_code.csv",
        "azure2023_conv.csv",
    ] {
        let got = summary::json(&stats(&plain(&folder.join(file)))).to_string();
        assert!(expected.contains(&without_spaces(&got)), "{file}: {got}");
    }
}
