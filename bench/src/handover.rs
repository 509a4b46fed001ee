//! `tandem bench --handover`: KV blocks from worker to worker through the store, compared with raw
//! TCP, and the first token of a stored prompt, compared with computing it.

mod prefix;
mod transport;

use anyhow::Context as _;
use serde_json::{Value, json};

use self::prefix::Prefix;
use self::transport::Transport;
use super::CommonArgs;
use super::figures::plain;
use crate::console;

/// Measures and prints.
pub(super) async fn run(common: CommonArgs) -> anyhow::Result<()> {
    let rounds = if common.quick { 3 } else { 3 * common.rounds };
    let transports = transport::measure(rounds).await?;
    console::line(&transport_table(&transports));
    let prefixes = prefix::measure(&common).await?;
    console::line(&prefix_table(&prefixes));
    if let Some(path) = &common.json {
        let json = json!({ "handover": transports.iter().map(Transport::json).collect::<Vec<_>>(),
                           "prefix": prefixes.iter().map(Prefix::json).collect::<Vec<_>>() });
        std::fs::write(path, format!("{json:#}\n"))
            .with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

impl Transport {
    fn json(&self) -> Value {
        json!({ "way": self.way, "ms": self.ms, "ratio_to_tcp": self.ratio })
    }
}

impl Prefix {
    fn json(&self) -> Value {
        json!({ "engine": self.engine, "tokens": self.tokens, "computed_ttft_ms": self.computed_ms,
                "stored_ttft_ms": self.stored_ms, "ratio": self.ratio() })
    }
}

fn transport_table(transports: &[Transport]) -> String {
    let mut table = plain(["way", "ms", "MB/s", "of raw TCP"]);
    for Transport { way, ms, ratio } in transports {
        let rate = transport::BYTES as f64 / 1e3 / ms;
        table.add_row([
            (*way).to_owned(),
            format!("{ms:.1}"),
            format!("{rate:.0}"),
            format!("{ratio:.2} x"),
        ]);
    }
    format!("{:.1} MB in {} blocks\n\n{table}\n", transport::BYTES as f64 / 1e6, transport::BLOCKS)
}

fn prefix_table(prefixes: &[Prefix]) -> String {
    let mut table = plain(["engine", "prompt tokens", "TTFT computed", "stored", "ratio"]);
    for prefix in prefixes {
        table.add_row([
            prefix.engine.clone(),
            prefix.tokens.to_string(),
            format!("{:.1} ms", prefix.computed_ms),
            format!("{:.1} ms", prefix.stored_ms),
            format!("{:.3}", prefix.ratio()),
        ]);
    }
    table.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_figure_is_in_the_tables() {
        let transport = Transport { way: "hand-over", ms: 94.37184, ratio: 2.5 };
        let text = transport_table(&[transport]);
        for figure in ["47.2 MB in 128", "hand-over", "94.4", "500", "2.50 x"] {
            assert!(text.contains(figure), "{figure}:\n{text}");
        }
        let engine = "simulated".to_owned();
        let prefix = Prefix { engine, tokens: 512, computed_ms: 200.0, stored_ms: 25.0 };
        assert!(prefix_table(std::slice::from_ref(&prefix)).contains("0.125"));
        assert_eq!(prefix.json()["ratio"], 0.125);
    }
}
