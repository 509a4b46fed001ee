//! The report as one self-contained page of HTML: no network, no other file.

mod charts;
mod tables;

use std::fmt::{self, Display, Write};

use traces::text::line;

use super::table::interval;
use crate::report::Report;

const STYLE: &str = include_str!("../../../assets/report.css");
const SCRIPT: &str = include_str!("../../../assets/report.js");
/// The script of Apache ECharts that defines `charts.init`, for pages with charts.
pub const CHARTS: &str = include_str!("../../../assets/charts.min.js");

/// Text from outside, escaped for use between tags and in quoted attributes.
struct Safe<T>(T);

impl<T: Display> Display for Safe<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.to_string().chars() {
            match c {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

/// Renders the page. The slowest requests link to the Jaeger at `jaeger`.
pub fn render(report: &Report, jaeger: Option<&str>) -> String {
    let mut out = String::with_capacity(CHARTS.len() + (1 << 18));
    let title = format!("Load on {}", report.workload.model);
    line!(out, "<!doctype html>\n<html lang=\"en\" data-theme=\"light\">\n<head>");
    line!(out, "<meta charset=\"utf-8\">");
    line!(out, "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">");
    line!(
        out,
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; \
         style-src 'unsafe-inline'; script-src 'unsafe-inline'\">"
    );
    line!(out, "<title>{}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>", Safe(&title));
    header(report, &title, &mut out);
    line!(out, "<main>");
    verdict(report, &mut out);
    tiles(report, &mut out);
    charts::render(report, &mut out);
    tables::render(report, jaeger, &mut out);
    line!(out, "</main>");
    line!(
        out,
        "<footer>Charts: Apache ECharts, Apache License 2.0. This page loads nothing from \
         elsewhere.</footer>"
    );
    let data = charts::data(report).to_string().replace('<', "\\u003c");
    line!(out, "<script type=\"application/json\" id=\"data\">{data}</script>");
    line!(out, "<script>{CHARTS}</script>\n<script>{SCRIPT}</script>\n</body>\n</html>");
    out
}

fn header(report: &Report, title: &str, out: &mut String) {
    let load = &report.workload;
    let started = i64::try_from(load.started_unix_ms).ok();
    let started = started.and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    let started = started.map_or_else(String::new, |at| at.strftime("%F %T UTC").to_string());
    line!(out, "<header><div><h1>{}</h1>", Safe(title));
    line!(
        out,
        "<p class=\"soft\">{} · {}{} · run {}</p>",
        Safe(started),
        Safe(&load.url),
        Safe(&load.endpoint),
        Safe(&load.run_id)
    );
    line!(out, "<p class=\"soft\">{}</p></div>", Safe(&load.source));
    line!(out, "<button id=\"theme\" type=\"button\" hidden>Dark theme</button></header>");
}

fn verdict(report: &Report, out: &mut String) {
    let (class, word) =
        if report.verdict.valid { ("valid", "✓ Valid") } else { ("invalid", "✗ INVALID") };
    line!(out, "<section class=\"verdict {class}\" aria-label=\"verdict\"><strong>{word}</strong>");
    if report.verdict.valid {
        line!(
            out,
            "<p>The generator kept its schedule: p99 lag {} ms of {} ms allowed, {:.1} % of the \
             offered rate achieved. The figures describe the server.{}</p>",
            number(report.schedule.lag_ms.quantiles.p99),
            number(Some(report.verdict.lag_limit_us as f64 / 1e3)),
            100.0 * report.schedule.achieved_rps / report.schedule.offered_rps.max(1e-12),
            match report.counts.failed {
                0 => String::new(),
                failed => format!(" {failed} of {} requests failed.", report.counts.offered),
            }
        );
    } else {
        line!(out, "<p>Do not compare these figures: they may describe the generator.</p><ul>");
        for reason in &report.verdict.reasons {
            line!(out, "<li><b>{}</b>: {}</li>", Safe(&reason.finding), Safe(&reason.advice));
        }
        line!(out, "</ul>");
    }
    if !report.workload.warnings.is_empty() {
        line!(out, "<ul>");
        for warning in &report.workload.warnings {
            line!(out, "<li>{}</li>", Safe(warning));
        }
        line!(out, "</ul>");
    }
    line!(out, "</section>");
}

fn tiles(report: &Report, out: &mut String) {
    let (latency, schedule, work) = (&report.latency, &report.schedule, &report.throughput);
    line!(out, "<section class=\"tiles\" aria-label=\"headlines\">");
    let mut tile = |name: &str, value: String, unit: &str, below: String| {
        line!(
            out,
            "<div class=\"tile\"><small>{}</small><b>{} <span>{}</span></b><small>{}</small></div>",
            Safe(name),
            Safe(value),
            Safe(unit),
            Safe(below)
        );
    };
    if let Some(goodput) = &report.goodput {
        let slos: Vec<&str> = goodput.per_slo.iter().map(|slo| slo.slo.as_str()).collect();
        let percent = |part: f64| format!("{:.1}", 100.0 * part);
        let below = format!(
            "{} to {} % · {}",
            percent(goodput.low),
            percent(goodput.high),
            slos.join(", ")
        );
        tile("Goodput", percent(goodput.attainment), "%", below);
    }
    for (name, of) in [("TTFT", &latency.ttft_response_ms), ("TPOT", &latency.tpot_ms)] {
        for (quantile, value, ends) in
            [("p50", of.quantiles.p50, of.p50_ci), ("p99", of.quantiles.p99, of.p99_ci)]
        {
            let below = if value.is_some() {
                format!("95 %: {} ms", interval(ends))
            } else {
                "nothing measured".to_owned()
            };
            tile(&format!("{name} {quantile}"), number(value), "ms", below);
        }
    }
    tile(
        "Achieved",
        number(Some(schedule.achieved_rps)),
        "requests/s",
        format!("of {} offered", number(Some(schedule.offered_rps))),
    );
    let tokens = work.while_offered_output_tokens_per_s;
    tile("Output", number(tokens), "tokens/s", "while load was offered".to_owned());
    let counts = &report.counts;
    let below = format!("{} failed · {} cut off", counts.failed, counts.cancelled);
    tile("Completed", counts.completed.to_string(), "requests", below);
    line!(out, "</section>");
}

/// Formats a number with three significant digits.
fn number(value: Option<f64>) -> String {
    // A round trip through JSON may change the last bit, and saved values have three decimals.
    // Values halfway between two numbers are nudged up, so that they render the same before and
    // after.
    match value.map(|value| value * (1.0 + 1e-12)) {
        None => "–".to_owned(),
        Some(value) if value.abs() >= 100.0 => format!("{value:.0}"),
        Some(value) if value.abs() >= 10.0 => format!("{value:.1}"),
        Some(value) if value.abs() >= 1.0 => format!("{value:.2}"),
        Some(value) => format!("{value:.3}"),
    }
}

/// Writes a table of a caption, a header and rows of text cells, all escaped.
fn table(caption: &str, header: &[&str], rows: &[Vec<String>], out: &mut String) {
    line!(out, "<div class=\"scroll\"><table><caption>{}</caption><thead><tr>", Safe(caption));
    // Sentences are aligned left, numbers right.
    let classes: Vec<&str> = (0..header.len())
        .map(|column| {
            let mut cells = rows.iter().filter_map(|row| row.get(column));
            let is_text =
                cells.any(|cell| cell.len() > 12 && cell.chars().any(char::is_alphabetic));
            if is_text { " class=\"text\"" } else { "" }
        })
        .collect();
    for (name, class) in header.iter().zip(&classes) {
        line!(out, "<th scope=\"col\"{class}>{}</th>", Safe(name));
    }
    line!(out, "</tr></thead><tbody>");
    for row in rows {
        out.push_str("<tr>");
        for (cell, class) in row.iter().zip(&classes) {
            let _ = write!(out, "<td{class}>{}</td>", Safe(cell));
        }
        out.push_str("</tr>\n");
    }
    line!(out, "</tbody></table></div>");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::measured::tests::{outcome, plan, report};

    const HOSTILE: &str = "</script><script>alert(1)</script><img src=x onerror='alert(1)'>\"&";

    #[test]
    fn what_comes_from_outside_stays_text() {
        let (plan, run) = (plan(50), outcome(50, |_| 0));
        let mut report = report(&plan, &run);
        report.workload.model = HOSTILE.to_owned();
        report.workload.warnings = vec![HOSTILE.to_owned()];
        report.slowest[0].trace_id = HOSTILE.to_owned();
        report.errors.push(crate::report::counts::ErrorCount {
            class: HOSTILE.to_owned(),
            count: 1,
            example: HOSTILE.to_owned(),
        });
        report.timeline.lanes[0].failure = Some(HOSTILE.to_owned());
        let page = render(&report, Some("http://jaeger.example/")).replace(CHARTS, "");
        assert!(!page.contains("alert(1)</script>") && !page.contains("<img"));
        assert!(page.contains("&lt;/script&gt;&lt;script&gt;alert(1)"));
        assert_eq!(page.matches("</script>").count(), 3);
        // Only web addresses become links.
        let script = render(&report, Some("javascript:alert(1)//")).replace(CHARTS, "");
        assert!(!script.contains("href") && page.contains("href=\"http://jaeger.example/trace/"));
    }

    #[test]
    fn a_page_asks_for_nothing_from_elsewhere() {
        let (plan, run) = (plan(50), outcome(50, |_| 0));
        let page = render(&report(&plan, &run), None);
        for asking in [" src=", "@import", "url(", "<link", "<base"] {
            let own = page.replace(CHARTS, "");
            assert!(!own.contains(asking), "{asking}");
        }
        assert!(page.contains("default-src 'none'"));
    }

    #[test]
    fn a_run_of_nothing_says_so() {
        let (plan, run) = (plan(0), outcome(0, |_| 0));
        let page = render(&report(&plan, &run), None);
        assert!(page.contains("No request was sent.") && page.contains("No request failed."));
        assert!(!page.contains("data-chart="));
    }
}
