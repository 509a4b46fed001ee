//! Reads the output of llama.cpp's programs.

use serde_json::Value;

/// An error in the output of a program.
#[derive(Debug, thiserror::Error)]
pub(super) enum OutputError {
    /// The output has no figure for a case.
    #[error("{program} printed no figure for {case}; the end of its output:\n{printed}")]
    Missing { program: &'static str, case: String, printed: String },
}

/// Returns the tokens per second of prompts of `tokens`, from `llama-bench -o jsonl`.
pub(super) fn prefill_rate(printed: &str, tokens: usize) -> Result<f64, OutputError> {
    find(printed, "avg_ts", |row| row["n_prompt"] == tokens && row["n_gen"] == 0)
        .ok_or_else(|| missing("llama-bench", format!("a prompt of {tokens} tokens"), printed))
}

/// Returns the tokens per second of `batch` sequences, from
/// `llama-batched-bench --output-format jsonl`.
pub(super) fn decode_rate(printed: &str, batch: usize) -> Result<f64, OutputError> {
    find(printed, "speed_tg", |row| row["pl"] == batch)
        .ok_or_else(|| missing("llama-batched-bench", format!("batch {batch}"), printed))
}

/// Returns the final estimate of `llama-perplexity`.
pub(super) fn perplexity(printed: &str) -> Result<f64, OutputError> {
    printed
        .rsplit_once("Final estimate: PPL = ")
        .and_then(|(_, rest)| rest.split_whitespace().next()?.parse().ok())
        .ok_or_else(|| missing("llama-perplexity", "the whole text".to_owned(), printed))
}

/// Returns `field` of the first row that is the case. Lines that are not JSON are skipped.
fn find(printed: &str, field: &str, is_case: impl Fn(&Value) -> bool) -> Option<f64> {
    printed
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line.trim()).ok())
        .find(|row| is_case(row))
        .and_then(|row| row[field].as_f64())
        .filter(|rate| rate.is_finite() && *rate > 0.0)
}

fn missing(program: &'static str, case: String, printed: &str) -> OutputError {
    OutputError::Missing { program, case, printed: last_lines(printed, 8) }
}

/// Returns the last `count` lines that are not empty.
pub(super) fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Output of the programs of b11434.
    const BENCH: &str = include_str!("samples/llama-bench.jsonl");
    const BATCHED: &str = include_str!("samples/llama-batched-bench.jsonl");
    const PERPLEXITY: &str = include_str!("samples/llama-perplexity.txt");

    #[test]
    fn figures_are_those_of_the_case() {
        let rates: Vec<f64> =
            [64, 128].iter().map(|&tokens| prefill_rate(BENCH, tokens).unwrap()).collect();
        assert!(rates.iter().all(|rate| (50.0..500.0).contains(rate)), "{rates:?}");
        assert_ne!(rates[0], rates[1]);
        assert_eq!(decode_rate(BATCHED, 1).unwrap(), 76.169_441);
        assert_eq!(decode_rate(BATCHED, 2).unwrap(), 55.182_690);
        assert_eq!(perplexity(PERPLEXITY).unwrap(), 33.2623);
    }

    #[test]
    fn lines_between_the_figures_are_skipped() {
        let output = format!("load: 5 {{\n\n{BATCHED}\n{{\"pl\": 3, \"speed_tg\": 1.5}} \n~");
        assert_eq!(decode_rate(&output, 2).unwrap(), 55.182_690);
        assert_eq!(decode_rate(&output, 3).unwrap(), 1.5);
    }

    #[test]
    fn a_missing_figure_is_an_error_that_shows_what_was_printed() {
        let error = decode_rate("warming up\nerror: unable to load model\n", 4).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("batch 4") && text.contains("unable to load model"), "{text}");
        assert!(prefill_rate(BENCH, 512).is_err());
        assert!(prefill_rate("{\"n_prompt\": 64, \"n_gen\": 0, \"avg_ts\": 0.0}", 64).is_err());
        assert!(perplexity("[1]18.6100,[2]27.2064,").is_err());
    }
}
