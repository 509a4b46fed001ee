//! The result as a page with a bar chart for prefill and one for decode. It needs no other file.

use loadgen::report::render::html::CHARTS;
use serde_json::{Value, json};

use super::cases::{Case, Contender};
use super::report::{Report, peer_title};

const PAGE: &str = include_str!("picture.html");

/// Renders the page.
pub(super) fn page(report: &Report) -> String {
    // No text in the data can end the element that holds it.
    let data = data(report).to_string().replace('<', "\\u003c");
    PAGE.replace("@CHARTS@", CHARTS).replace("@DATA@", &data)
}

fn data(report: &Report) -> Value {
    let machine = &report.machine;
    let (prefill, decode): (Vec<Case>, Vec<Case>) =
        report.cases.iter().partition(|case| case.is_prefill());
    let panels: Vec<Value> = [
        ("Prefill, tokens per second by prompt length", prefill),
        ("Decode, tokens per second by batch (context 256)", decode),
    ]
    .into_iter()
    .filter(|(_, cases)| !cases.is_empty())
    .map(|(title, cases)| panel(report, title, &cases))
    .collect();
    json!({
        "title": format!("tandem bench: {}", machine.file.0),
        "setup": format!(
            "{}, threads: {} of {}, device {}, median of {} rounds, {}",
            machine.cpu,
            machine.threads,
            machine.cores,
            machine.device(),
            machine.rounds,
            machine.measured_at.strftime("%Y-%m-%d"),
        ),
        "panels": panels,
    })
}

fn panel(report: &Report, title: &str, cases: &[Case]) -> Value {
    let contenders: Vec<Value> = std::iter::once(Contender::Ours)
        .chain(report.peers.iter().copied())
        .map(|contender| {
            let rates: Vec<Option<f64>> =
                cases.iter().map(|&case| report.samples.median(case, contender)).collect();
            json!({ "name": peer_title(contender), "rates": rates })
        })
        .collect();
    let sizes: Vec<usize> = cases.iter().map(|case| case.size()).collect();
    json!({ "title": title, "sizes": sizes, "contenders": contenders })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::example;

    #[test]
    fn the_picture_has_every_figure() {
        let report = example::report();
        let data = data(&report);
        let panels = data["panels"].as_array().unwrap();
        let (mut figures, mut sizes) = (Vec::new(), Vec::new());
        for panel in panels {
            sizes.extend(panel["sizes"].as_array().unwrap().iter().map(|it| it.as_u64().unwrap()));
            for contender in panel["contenders"].as_array().unwrap() {
                let rates = contender["rates"].as_array().unwrap();
                figures.extend(rates.iter().map(|rate| rate.as_f64().unwrap()));
            }
        }
        for &case in &report.cases {
            assert!(sizes.contains(&(case.size() as u64)), "{case} in {sizes:?}");
            for contender in [Contender::Ours, Contender::Same, Contender::Requantized] {
                let figure = report.samples.median(case, contender).unwrap();
                assert!(figures.contains(&figure), "{figure} in {figures:?}");
            }
        }
        assert_eq!(figures.len(), 3 * report.cases.len(), "a bar per case and contender");
        assert!(data["setup"].as_str().unwrap().ends_with("2026-11-24"), "{data:#}");
    }

    #[test]
    fn no_text_can_leave_the_data() {
        let page = page(&example::report());
        assert!(page.contains(r"Some & Other \u003cCPU>"));
        assert!(!page.contains("@DATA@") && !page.contains("@CHARTS@"));
    }

    #[test]
    fn a_picture_of_one_kind_alone_is_whole() {
        let mut report = example::report();
        report.cases.retain(|case| !case.is_prefill());
        report.peers.clear();
        let data = data(&report);
        let panels = data["panels"].as_array().unwrap();
        assert_eq!(panels.len(), 1, "{data:#}");
        assert!(panels[0]["title"].as_str().unwrap().starts_with("Decode"), "{data:#}");
        assert_eq!(panels[0]["contenders"].as_array().unwrap().len(), 1, "{data:#}");
    }
}
