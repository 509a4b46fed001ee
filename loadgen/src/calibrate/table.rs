//! A calibration as text for people.

use comfy_table::presets::UTF8_HORIZONTAL_ONLY;
use comfy_table::{CellAlignment, Table};

use super::{Calibration, Step};

/// Renders the table and the conclusion.
pub(super) fn render(all: &Calibration) -> String {
    let mut table = Table::new();
    table.load_style(UTF8_HORIZONTAL_ONLY);
    table.set_header([
        "streams",
        "peak",
        "tokens/s",
        "lag p50",
        "p99 ms",
        "TTFT + p50",
        "p99 ms",
        "ITL p50",
        "p99 ms",
        "busy",
        "starved",
        "server",
        "µs/token",
        "trust",
    ]);
    for step in &all.steps {
        table.add_row(row(step));
    }
    for column in table.column_iter_mut() {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let mut text = format!("{table}\n");
    text += &format!(
        "bare TCP loop, {} streams: {:.0} messages/s, {} µs for each\n",
        all.raw.streams,
        all.raw.messages_per_s,
        one(all.raw.cpu_us_per_message)
    );
    for step in all.steps.iter().filter(|step| !step.faults.is_empty()) {
        text += &format!("{} streams: {}\n", step.streams, step.faults.join("; "));
    }
    text += &format!(
        "busy, starved: part of the time in which the sending thread ran, and in which others kept it \
         from running; server: cores of the null server; {} cores in all\n{}\n",
        all.cores, all.verdict
    );
    text
}

fn row(step: &Step) -> [String; 14] {
    let percent =
        |part: Option<f64>| part.map_or("-".to_owned(), |p| format!("{:.0} %", p * 100.0));
    let ms = |value: Option<f64>| value.map_or("-".to_owned(), |ms| format!("{ms:.3}"));
    [
        step.streams.to_string(),
        step.streams_peak.to_string(),
        format!("{:.0}", step.tokens_per_s),
        ms(step.lag_ms.p50),
        ms(step.lag_ms.p99),
        ms(step.ttft_beyond_ms.p50),
        ms(step.ttft_beyond_ms.p99),
        ms(step.itl_ms.p50),
        ms(step.itl_ms.p99),
        percent(step.busy),
        percent(step.starved),
        step.server_cores.map_or("-".to_owned(), |cores| format!("{cores:.2}")),
        one(step.cpu_us_per_token),
        if step.faults.is_empty() { "yes" } else { "no" }.to_owned(),
    ]
}

fn one(value: Option<f64>) -> String {
    value.map_or("-".to_owned(), |value| format!("{value:.1}"))
}
