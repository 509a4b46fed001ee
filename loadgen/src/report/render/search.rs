//! A search as text for people.

use std::fmt::Write;

use traces::text::{line, table};

use crate::report::search::{Judgement, Outcome, Probe, SearchReport};

/// Renders the probes and the result.
pub fn render(search: &SearchReport) -> String {
    let names = search.asked.iter().map(ToString::to_string);
    let head = ["requests/s", "n", "TTFT p50", "TTFT p99"].map(str::to_owned);
    let header = head.into_iter().chain(names).chain(["judgement".to_owned()]);
    let mut table = table(header.collect::<Vec<_>>(), 0);
    let mut probes: Vec<&Probe> = search.probes.iter().collect();
    probes.sort_by(|a, b| a.rate.total_cmp(&b.rate));
    for probe in probes {
        table.add_row(row(probe));
    }
    let mut out = format!("{table}\n");
    line!(out, "{}", conclusion(search));
    out
}

fn row(probe: &Probe) -> Vec<String> {
    let ms = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), |v| format!("{v:.1}"));
    let attained = probe
        .attained
        .iter()
        .map(|a| format!("{:.2} % ({:.1}..{:.1})", 100.0 * a.part, 100.0 * a.low, 100.0 * a.high));
    let head = [format!("{:.3}", probe.rate), probe.requests.to_string()];
    let times = [ms(probe.ttft_ms.0), ms(probe.ttft_ms.1)];
    head.into_iter().chain(times).chain(attained).chain([word(probe)]).collect()
}

/// Returns the result of a probe in a word or two.
pub fn word(probe: &Probe) -> String {
    let sure = if probe.sure { "" } else { "?" };
    let again = if probe.confirming { " (confirming)" } else { "" };
    match probe.judgement {
        Judgement::Held => format!("held{sure}{again}"),
        Judgement::Missed => format!("missed{sure}{again}"),
        Judgement::Invalid => format!("INVALID{again}"),
    }
}

/// Returns the result of a search in a sentence.
pub fn conclusion(search: &SearchReport) -> String {
    let end = |value: Option<f64>| value.map_or_else(|| "?".to_owned(), |v| format!("{v:.3}"));
    let asked: Vec<String> = search.asked.iter().map(ToString::to_string).collect();
    let asked = asked.join(" and ");
    let ends = format!("95 %: {} to {}", end(search.low), end(search.high));
    match &search.outcome {
        Outcome::Found { rate, confirmed: true } => {
            format!(
                "capacity {rate:.3} requests/s under {asked} ({ends}), confirmed by a longer run"
            )
        }
        Outcome::Found { rate, confirmed: false } => {
            format!("capacity about {rate:.3} requests/s under {asked} ({ends}), NOT confirmed")
        }
        Outcome::MissedAtLowest { rate } => format!(
            "{asked} is missed even at {rate:.3} requests/s, the lowest rate (--lowest): no rate \
             holds it"
        ),
        Outcome::HeldAtHighest { rate } => format!(
            "{asked} is held even at {rate:.3} requests/s, the highest rate (--highest): the \
             capacity lies above"
        ),
        Outcome::GeneratorLimited { rate, held, why } => format!(
            "no conclusion: the generator failed at {rate:.3} requests/s ({why}); held up to {}",
            end(*held)
        ),
        Outcome::OutOfProbes { held } => {
            format!(
                "no conclusion: ended before one was reached; held up to {} ({ends})",
                end(*held)
            )
        }
    }
}
