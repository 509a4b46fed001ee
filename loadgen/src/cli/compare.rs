//! `loadgen compare`: compares two saved reports and applies gates.

use std::fmt::Write;
use std::io::Write as _;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use serde_json::json;
use traces::text::{line, table};

use super::exit::Ending;
use crate::compare::gate::{Gate, Passage, passage};
use crate::compare::{Comparison, Finding, Row, compare};
use crate::report::{output, saved};

/// Two reports, and the gates between them.
#[derive(Debug, Args)]
pub struct CompareArgs {
    /// Report before the change, written with --json.
    pub before: PathBuf,
    /// Report after the change, written with --json.
    pub after: PathBuf,
    /// Allowed change of a figure, such as ttft_p99=+5% or goodput=-2%. Beyond it the exit status
    /// is 5. May be repeated.
    #[arg(long = "gate", value_name = "GATE")]
    pub gates: Vec<Gate>,
    /// Fail gates for which the requests are too few.
    #[arg(long)]
    pub strict: bool,
    /// Seed of the bootstrap.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Write the comparison as JSON.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// Executes the command. Returns the text for standard output and the ending.
pub fn execute(args: &CompareArgs) -> Result<(String, Ending)> {
    let (before, after) = (saved::read(&args.before)?, saved::read(&args.after)?);
    let comparison = compare(&before, &after, args.seed)?;
    let mut out = render(&comparison);
    let (mut missed, mut judged) = (false, Vec::new());
    for gate in &args.gates {
        let passage = passage(gate, &comparison).with_context(|| format!("--gate {gate}"))?;
        missed |= passage == Passage::Broken || (args.strict && passage == Passage::Unclear);
        let word = match passage {
            Passage::Kept => "kept",
            Passage::Unclear => "UNCLEAR: the interval reaches beyond it, offer more requests",
            Passage::Broken => "BROKEN",
        };
        line!(out, "gate {gate}  {word}");
        judged.push(json!({ "gate": gate, "passage": passage }));
    }
    if let Some(path) = &args.json {
        let value = json!({ "comparison": comparison, "gates": judged });
        output::write_file(path, |file| writeln!(file, "{value:#}"))?;
    }
    Ok((out, if missed { Ending::Missed } else { Ending::Good }))
}

fn render(comparison: &Comparison) -> String {
    let header = vec!["", "before", "after", "difference", "95 %", "relative", "finding"];
    let mut table = table(header, 1);
    for row in &comparison.rows {
        table.add_row(cells(row));
    }
    let (a, b) = &comparison.runs;
    let mut out = format!(
        "before: run {a}, {} requests · after: run {b}, {} requests · bootstrap seed {}\n{table}\n",
        comparison.requests.0, comparison.requests.1, comparison.seed
    );
    for warning in &comparison.warnings {
        line!(out, "warning: {warning}");
    }
    out
}

fn cells(row: &Row) -> Vec<String> {
    // Latencies in milliseconds, shares in percent.
    let part = matches!(row.name.as_str(), "errors" | "goodput");
    let show = |value: f64| {
        if part { format!("{:.2} %", 100.0 * value) } else { format!("{value:.2} ms") }
    };
    let signed = |value: f64| {
        if part { format!("{:+.2} %", 100.0 * value) } else { format!("{value:+.2}") }
    };
    let relative = if row.a == 0.0 {
        "–".to_owned()
    } else {
        format!("{:+.1} %", 100.0 * row.difference / row.a)
    };
    let finding = match row.finding {
        Finding::Better => "better",
        Finding::Worse => "WORSE",
        Finding::NoDifference => "no difference",
        Finding::TooFew => "too few requests",
    };
    vec![
        row.name.clone(),
        show(row.a),
        show(row.b),
        signed(row.difference),
        format!("{}..{}", signed(row.low), signed(row.high)),
        relative,
        finding.to_owned(),
    ]
}
