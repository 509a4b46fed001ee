//! `tandem metrics`: every metric of every service, as the services themselves describe them.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use anyhow::Context as _;
use chassis::metrics::{Metrics, Registry};

use crate::console;

const HEAD: &str = "# Metrics\n\n\
    Every service serves `/metrics` as OpenMetrics: the gateway on its own port, the others on \
    `health.listen`. Histograms carry the id of a trace that fell into a bucket as its exemplar, \
    where that trace can be looked up. Counters end in `_total`, histograms in `_bucket`, `_sum` \
    and `_count`. Names that begin with `vllm:` mean what vLLM means by them.\n\n\
    Written by `tandem metrics > METRICS.md`; a test fails when it is out of date.\n";

/// One metric.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Described {
    name: String,
    kind: String,
    help: String,
    labels: BTreeSet<String>,
}

/// Prints the page.
pub(crate) fn run() -> anyhow::Result<()> {
    console::piece(&page()?);
    Ok(())
}

fn page() -> anyhow::Result<String> {
    let services = [
        ("Gateway", gateway::instruments()),
        ("Prefill and decode workers", engine_instruments()),
        ("Kvstore", kvstore::instruments()),
    ];
    let mut page = HEAD.to_owned();
    for (service, registry) in services {
        let text = Metrics::new(registry).encode().context("write the metrics")?;
        let _ = write!(page, "\n## {service}\n\n");
        page += "| name | type | unit | labels | meaning |\n|---|---|---|---|---|\n";
        for metric in described(&text) {
            let labels: Vec<String> =
                metric.labels.iter().map(|label| format!("`{label}`")).collect();
            let Described { name, kind, help, .. } = &metric;
            let unit = unit(name, help);
            let _ =
                writeln!(page, "| `{name}` | {kind} | {unit} | {} | {help} |", labels.join(", "));
        }
    }
    Ok(page)
}

/// Both kinds of worker are the same engine.
fn engine_instruments() -> Registry {
    prefill::instruments()
}

/// Returns the metrics of the text, in its order.
fn described(text: &str) -> Vec<Described> {
    let mut all: Vec<Described> = Vec::new();
    for line in text.lines() {
        if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|it| it.split_once(' ')) {
            let help = help.trim_end_matches('.').to_owned();
            let (kind, labels) = (String::new(), BTreeSet::new());
            all.push(Described { name: name.to_owned(), kind, help, labels });
        } else if let Some((_, kind)) =
            line.strip_prefix("# TYPE ").and_then(|it| it.split_once(' '))
        {
            if let Some(last) = all.last_mut() {
                last.kind = kind.to_owned();
            }
        } else if let (Some(last), Some((_, rest))) = (all.last_mut(), line.split_once('{')) {
            let labels = rest.split_once('}').map_or("", |(labels, _)| labels);
            // Values hold neither commas nor equals signs before the instruments are used.
            let keys = labels.split(',').filter_map(|pair| pair.split_once('='));
            last.labels.extend(keys.map(|(key, _)| key.to_owned()).filter(|key| key != "le"));
        }
    }
    all
}

/// As the name says it, by the conventions of Prometheus.
fn unit(name: &str, help: &str) -> &'static str {
    let ends = |suffix: &str| name.ends_with(suffix);
    match () {
        () if ends("_seconds") => "seconds",
        () if ends("_bytes") || ends(":bytes") => "bytes",
        () if ends("_ratio") || ends("_perc") || help.contains("0 to 1") => "ratio",
        () if ends("_tokens") || ends("tokens_by_source") => "tokens",
        () if ends("_blocks") => "blocks",
        () if ends("_pages") => "pages",
        () => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_that_of_the_code() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../METRICS.md");
        let written = std::fs::read_to_string(path).unwrap();
        let page = page().unwrap();
        for (line, (old, new)) in written.lines().zip(page.lines()).enumerate() {
            assert_eq!(old, new, "line {}: `tandem metrics > METRICS.md`", line + 1);
        }
        assert_eq!(written, page, "`tandem metrics > METRICS.md`");
    }

    #[test]
    fn every_metric_is_described_and_none_has_a_label_per_request() {
        for registry in [gateway::instruments(), engine_instruments(), kvstore::instruments()] {
            let text = Metrics::new(registry).encode().unwrap();
            let metrics = described(&text);
            assert!(metrics.len() > 10, "{text}");
            for metric in metrics {
                assert!(!metric.help.is_empty() && !metric.kind.is_empty(), "{metric:?}");
                for label in ["request", "request_id", "trace_id"] {
                    assert!(!metric.labels.contains(label), "{metric:?}");
                }
            }
        }
    }

    #[test]
    fn names_types_and_labels_are_read() {
        let text = "# HELP a_seconds How long.\n# TYPE a_seconds histogram\n\
                    a_seconds_bucket{le=\"1.0\",path=\"x\"} 0\n# EOF\n";
        let metrics = described(text);
        assert_eq!(metrics.len(), 1);
        assert_eq!((metrics[0].name.as_str(), metrics[0].help.as_str()), ("a_seconds", "How long"));
        assert_eq!(metrics[0].labels.iter().collect::<Vec<_>>(), ["path"]);
    }
}
