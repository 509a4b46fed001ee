//! Saved reports, read from their JSON.

use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::{Report, SCHEMA_VERSION};

/// Largest file.
const BYTES_MAX: u64 = 1 << 30;

/// Reads the report in `path`. Refuses other versions.
pub fn read(path: &Path) -> Result<Report> {
    let name = path.display();
    let bytes = std::fs::metadata(path).with_context(|| format!("cannot read {name}"))?.len();
    if bytes > BYTES_MAX {
        bail!("{name} has {bytes} bytes, a report has at most {BYTES_MAX}");
    }
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {name}"))?;
    parse(&text).with_context(|| format!("{name} is not a report of loadgen"))
}

fn parse(text: &str) -> Result<Report> {
    #[derive(Deserialize)]
    struct Versioned {
        schema_version: u32,
    }
    let Versioned { schema_version } = serde_json::from_str(text)?;
    if schema_version != SCHEMA_VERSION {
        bail!(
            "its schema version is {schema_version}, this loadgen reads {SCHEMA_VERSION}: use the \
             loadgen that wrote it, or run the load again"
        );
    }
    let report: Report = serde_json::from_str(text)?;
    check(&report)?;
    Ok(report)
}

/// Checks that columns of one table have the same length, which the renderings rely on.
fn check(report: &Report) -> Result<()> {
    if !report.samples.is_whole() {
        bail!("the columns of its samples differ in length");
    }
    if !report.series.is_whole() {
        bail!("the columns of its series differ in length");
    }
    let shapes = [&report.shapes.ttft, &report.shapes.tpot];
    if !shapes.iter().all(|shape| shape.is_whole()) {
        bail!("a distribution needs one edge more than it has bars");
    }
    if report.stages.as_ref().is_some_and(|stages| !stages.is_whole()) {
        bail!("a group of stages needs one part per name");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::measured::tests::{outcome, report, with_stages};
    use super::super::output;
    use super::*;

    fn written() -> (Report, String) {
        let (plan, run) = with_stages(outcome(300, |_| 1));
        let report = report(&plan, &run);
        let mut bytes = Vec::new();
        output::json(&mut bytes, &report).unwrap();
        (report, String::from_utf8(bytes).unwrap())
    }

    #[test]
    fn a_report_reads_back_as_it_was_written() {
        let (report, text) = written();
        let again = parse(&text).unwrap();
        assert!(again.samples == report.samples && again.series == report.series);
        assert!(again.shapes == report.shapes && again.timeline == report.timeline);
        assert!(again.stages.is_some() && again.verdict == report.verdict);
        assert_eq!(again.counts, report.counts);
        // A column of samples stays on one line.
        let column = text.lines().find(|line| line.starts_with("    \"at_ms\": [0.0,10.0,"));
        assert!(column.is_some_and(|line| line.ends_with(",2990.0],")));
    }

    #[test]
    fn other_files_are_refused_with_the_reason() {
        let refused = |text: &str| format!("{:#}", parse(text).unwrap_err());
        let old = written().1.replacen("\"schema_version\": 2", "\"schema_version\": 1", 1);
        assert!(refused(&old).contains("schema version is 1, this loadgen reads 2"));
        assert!(refused("{}").contains("schema_version"));
        let torn = written().1.replacen("\"at_ms\": [0.0,", "\"at_ms\": [", 1);
        assert!(refused(&torn).contains("samples differ in length"), "{}", refused(&torn));
    }
}
