//! The least cost of each kernel of a step on a graphics device, and the rates achieved.

use model::ops::wgpu::cost::{self, KernelCost, Work};

use super::cases::{CONTEXT, Case, Contender, STEPS};
use super::report::Report;
use crate::figures::{plain, render};

/// Renders the bytes and operations, in millions, of the kernels in a step of each case whose steps
/// are alike, and then the rates that were measured.
pub(super) fn table(report: &Report) -> String {
    let cases: Vec<(Case, Vec<KernelCost>)> = report
        .cases
        .iter()
        .filter_map(|&case| {
            let weights = report.weights.bytes_per_value();
            Some((case, cost::step(&report.spec, work(case, report.chunk)?, weights)))
        })
        .collect();
    let Some((_, first)) = cases.first() else { return String::new() };
    let mut header = vec!["one step".to_owned(), "launches".to_owned()];
    header.extend(cases.iter().map(|(case, _)| format!("{case}, MB / Mop")));
    let mut table = plain(header);
    for (index, kernel) in first.iter().enumerate() {
        let mut row = vec![kernel.kernel.to_owned(), kernel.launches.to_string()];
        row.extend(
            cases
                .iter()
                .map(|(_, kernels)| millions(kernels[index].bytes, kernels[index].operations)),
        );
        table.add_row(row);
    }
    let launches: usize = first.iter().map(|kernel| kernel.launches).sum();
    let mut whole = vec!["together".to_owned(), launches.to_string()];
    let mut achieved = vec!["achieved per second, GB / Gop".to_owned(), String::new()];
    for (case, kernels) in &cases {
        let (bytes, operations) = cost::total(kernels);
        whole.push(millions(bytes, operations));
        let per_second = report.samples.median(*case, Contender::Ours).map(|rate| {
            let steps = rate / case.size() as f64;
            format!("{:.2} / {:.1}", steps * bytes / 1e9, steps * operations / 1e9)
        });
        achieved.push(per_second.unwrap_or_else(|| "-".to_owned()));
    }
    table.add_row(whole);
    table.add_row(achieved);
    render(&table)
}

/// Returns the work of one step of a case, or `None` if its steps differ.
fn work(case: Case, chunk: usize) -> Option<Work> {
    match case {
        Case::Decode(batch) => Some(Work {
            rows: batch,
            sequences: batch,
            context: CONTEXT + STEPS.div_ceil(2),
            head_rows: batch,
        }),
        Case::Prefill(tokens) if tokens <= chunk => {
            Some(Work { rows: tokens, sequences: 1, context: tokens.div_ceil(2), head_rows: 1 })
        }
        Case::Prefill(_) => None,
    }
}

fn millions(bytes: f64, operations: f64) -> String {
    format!("{:.1} / {:.0}", bytes / 1e6, operations / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::example;

    #[test]
    fn the_table_has_every_kernel_and_only_cases_of_like_steps() {
        let report = example::report();
        let text = table(&report);
        for kernel in ["embed", "attention", "norm+head", "together", "achieved per second"] {
            assert!(text.contains(kernel), "{kernel} in {text}");
        }
        assert!(text.contains("prefill-512") && text.contains("decode-32"), "{text}");
        assert!(!text.contains("prefill-2048"), "{text}");
    }

    #[test]
    fn a_step_takes_as_long_as_its_tokens() {
        let mut report = example::report();
        report.cases = vec![Case::Decode(4)];
        let weights = report.weights.bytes_per_value();
        let kernels = cost::step(&report.spec, work(Case::Decode(4), 512).unwrap(), weights);
        let (bytes, operations) = cost::total(&kernels);
        let steps = report.samples.median(Case::Decode(4), Contender::Ours).unwrap() / 4.0;
        let expected = format!("{:.2} / {:.1}", steps * bytes / 1e9, steps * operations / 1e9);
        assert!(table(&report).lines().last().unwrap().ends_with(&expected));
    }
}
