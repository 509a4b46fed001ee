//! Statistics of a trace as one JSON object and as tables for people.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use super::oddity::Oddity;
use super::stats::{Lengths, Reuse, TraceStats};
use super::trace::BlockSizes;
use crate::text::{line, table};

/// Returns the object that `trace inspect --json` prints: rounded figures of the arrivals, the
/// lengths and the reuse.
pub fn json(stats: &TraceStats) -> Value {
    let pace = |value: &dyn Fn(&super::stats::Pace) -> f64, digits| {
        stats.pace.as_ref().map(|pace| rounded(value(pace), digits))
    };
    let mut object = Map::new();
    let mut put = |key: &str, value: Value| object.insert(key.to_owned(), value);
    put("name", json!(title(&stats.name)));
    put("requests", json!(stats.requests));
    put("duration_s", json!(pace(&|p| p.duration_s, 1)));
    put("mean_rps", json!(pace(&|p| p.mean_rps, 3)));
    put("ia_cv", json!(pace(&|p| p.ia_cv, 2)));
    put("peak10_rps", json!(pace(&|p| p.peak10_rps, 2)));
    put("peak60_rps", json!(pace(&|p| p.peak60_rps, 2)));
    put("out_of_order", json!(stats.oddities.count(&Oddity::OutOfOrder)));
    put("zero_output", json!(stats.zero_output));
    put("in", lengths(&stats.input));
    put("out", lengths(&stats.output));
    if let Some(reuse) = &stats.reuse {
        match reuse.block_tokens {
            Some(block_tokens) => {
                let uncovered = [Oddity::NoBlockIds, Oddity::PartialBlock, Oddity::Coverage];
                let uncovered = uncovered.iter().map(|oddity| stats.oddities.count(oddity));
                put("coverage_bad", json!(uncovered.sum::<usize>()));
                put("reuse", prefix_reuse(reuse, block_tokens));
                put(
                    "lru_token_hit_by_blocks",
                    reuse
                        .lru_token_hit
                        .iter()
                        .map(|(blocks, hit)| (blocks.to_string(), rounded(*hit, 4).into()))
                        .collect::<Map<_, _>>()
                        .into(),
                );
            }
            None => {
                put("reuse", chunk_reuse(stats, reuse));
            }
        }
    }
    if !stats.oddities.is_empty() {
        put("oddities", json!(stats.oddities.describe()));
    }
    Value::Object(object)
}

fn lengths(lengths: &Lengths) -> Value {
    let q = &lengths.quantiles;
    json!({
        "mean": q.mean.map(|mean| rounded(mean, 1)),
        "p50": q.p50,
        "p90": q.p90,
        "p99": q.p99,
        "max": lengths.max,
        "sum": lengths.sum,
    })
}

fn prefix_reuse(reuse: &Reuse, block_tokens: u32) -> Value {
    json!({
        "block_tokens": block_tokens,
        "unique_blocks": reuse.unique_blocks,
        "total_blocks": reuse.total_blocks,
        "block_hit": rounded(reuse.block_hit, 4),
        "token_hit": rounded(reuse.token_hit, 4),
        "token_hit_2nd_half": rounded(reuse.token_hit_2nd_half, 4),
        "reqs_with_hit": rounded(reuse.reqs_with_hit, 4),
        "reqs_fully_cached": rounded(reuse.reqs_fully_cached, 4),
        "non_prefix_seen": reuse.non_prefix_seen,
        "top1_block_share": rounded(reuse.top1_block_share, 4),
        "blocks_used_once": rounded(reuse.blocks_used_once, 4),
    })
}

fn chunk_reuse(stats: &TraceStats, reuse: &Reuse) -> Value {
    json!({
        "note": "chunk ids, not prefix chained",
        "chunk_reuse_tokens": rounded(reuse.anywhere_token_hit, 4),
        "strict_prefix_reuse_tokens": rounded(reuse.token_hit, 4),
        "sessions": stats.sessions.map_or(0, |s| s.count),
        "turns_mean": stats.sessions.map(|s| rounded(s.turns_mean, 2)),
        "turns_max": stats.sessions.map_or(0, |s| s.turns_max),
    })
}

fn rounded(value: f64, digits: usize) -> f64 {
    format!("{value:.digits$}").parse().unwrap_or(value)
}

/// Returns the words of a file name without its extension and the word "trace": "azure 2023 code".
fn title(name: &str) -> String {
    let stem = match name.rsplit_once('.') {
        Some((stem, ending)) if ["jsonl", "json", "csv"].contains(&ending) => stem,
        _ => name,
    };
    let mut words = String::new();
    let mut before = ' ';
    for c in stem.to_lowercase().chars().map(|c| if "_-. ".contains(c) { ' ' } else { c }) {
        if before.is_alphabetic() && c.is_ascii_digit() {
            words.push(' ');
        }
        words.push(c);
        before = c;
    }
    let words = words.split_whitespace().filter(|word| *word != "trace");
    words.collect::<Vec<_>>().join(" ")
}

/// Renders the tables that `trace inspect` prints for people.
pub fn tables(stats: &TraceStats) -> String {
    let mut out = format!("{} · {}\n{} requests", stats.name, stats.format, stats.requests);
    match &stats.pace {
        None => out.push_str(", without time stamps\n"),
        Some(pace) => line!(
            out,
            " over {:.1} s · mean {:.3}/s · inter-arrival CV {:.2} · peak {:.2}/s in 10 s, \
                 {:.2}/s in 60 s",
            pace.duration_s,
            pace.mean_rps,
            pace.ia_cv,
            pace.peak10_rps,
            pace.peak60_rps
        ),
    }
    if let Some(quantum) = stats.pace.as_ref().and_then(|pace| pace.quantum) {
        line!(
            out,
            "warning: the time stamps lie on a grid of {:.3} s, up to {} requests at one \
                 instant; the CV and the bursts are artifacts of it (see --dequantize)",
            quantum.step_ns as f64 / 1e9,
            quantum.largest_burst
        );
    }
    if stats.zero_output > 0 {
        line!(out, "{} requests have no output", stats.zero_output);
    }
    for oddity in stats.oddities.describe() {
        line!(out, "odd: {oddity}");
    }
    for note in &stats.notes {
        line!(out, "note: {note}");
    }
    if let Some(sessions) = &stats.sessions {
        line!(
            out,
            "{} sessions · {:.2} turns each on average, {} at most · half of them span {:.1} s \
                 or less · think time p50 {:.1} s, p99 {:.1} s",
            sessions.count,
            sessions.turns_mean,
            sessions.turns_max,
            sessions.span_p50_s,
            sessions.think_p50_s,
            sessions.think_p99_s
        );
    }
    line!(out, "{}", length_table(stats));
    if let Some(reuse) = &stats.reuse {
        reuse_tables(reuse, &mut out);
    }
    out
}

fn length_table(stats: &TraceStats) -> comfy_table::Table {
    let mut table = table(vec!["tokens", "mean", "p50", "p90", "p99", "max", "sum"], 1);
    for (name, lengths) in [("input", &stats.input), ("output", &stats.output)] {
        let q = &lengths.quantiles;
        let values = [q.mean, q.p50, q.p90, q.p99];
        let values = values.map(|v| v.map_or("–".to_owned(), |v| format!("{v:.1}")));
        let whole = [lengths.max.to_string(), lengths.sum.to_string()];
        table.add_row(std::iter::once(name.to_owned()).chain(values).chain(whole));
    }
    table
}

fn reuse_tables(reuse: &Reuse, out: &mut String) {
    let blocks = reuse
        .block_tokens
        .map_or("blocks of unequal length".to_owned(), |tokens| format!("blocks of {tokens}"));
    line!(
        out,
        "prefix reuse, infinite cache, {blocks}: {} unique of {} blocks · block hit {:.4} · \
             token hit {:.4} (second half {:.4})",
        reuse.unique_blocks,
        reuse.total_blocks,
        reuse.block_hit,
        reuse.token_hit,
        reuse.token_hit_2nd_half
    );
    line!(
        out,
        "requests with a hit {:.4}, fully cached {:.4} · commonest block in {:.4} of the \
             requests · blocks used once {:.4} · blocks seen behind a miss {} (with them, {:.4} of \
             the tokens)",
        reuse.reqs_with_hit,
        reuse.reqs_fully_cached,
        reuse.top1_block_share,
        reuse.blocks_used_once,
        reuse.non_prefix_seen,
        reuse.anywhere_token_hit
    );
    let mut lru = table(vec!["LRU cache, blocks", "token hit"], 1);
    for (blocks, hit) in &reuse.lru_token_hit {
        lru.add_row([blocks.to_string(), format!("{hit:.4}")]);
    }
    line!(out, "{lru}");
}

/// Describes the blocks of a trace.
pub fn blocks(sizes: &BlockSizes) -> String {
    match sizes {
        BlockSizes::None => "no block names".to_owned(),
        BlockSizes::Uniform(tokens) => format!("blocks of {tokens} tokens"),
        BlockSizes::Each(_) => "blocks of unequal length".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn titles_are_the_words_of_file_names() {
        for (name, expected) in [
            ("mooncake_conversation_trace.jsonl", "mooncake conversation"),
            ("azure2023_code.csv", "azure 2023 code"),
            ("RAGPulse", "ragpulse"),
            ("BurstGPT_1.csv", "burstgpt 1"),
        ] {
            assert_eq!(title(name), expected);
        }
    }

    #[test]
    fn figures_are_rounded_as_they_are_read() {
        assert_eq!(rounded(0.37364999, 4), 0.3736);
        assert_eq!(rounded(12035.14, 1), 12035.1);
        assert_eq!(rounded(3.0, 2), 3.0);
    }
}
