//! The result as one SVG file: bars for each case, ours beside the peers'.

use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::cases::{Case, Contender};
use super::report::{Report, peer_title};

const SIZE: (u32, u32) = (1120, 520);
const HEADER: i32 = 92;
const INK: RGBColor = RGBColor(32, 36, 44);
const FAINT: RGBColor = RGBColor(112, 118, 130);
const OURS: RGBColor = RGBColor(37, 99, 176);
const SAME: RGBColor = RGBColor(226, 138, 52);
const REQUANTIZED: RGBColor = RGBColor(150, 158, 170);
const FONT: &str = "DejaVu Sans, Helvetica, Arial, sans-serif";
/// Share of a case's width that its bars fill.
const FILLED: f64 = 0.8;
/// Room above the highest bar for its figure.
const HEADROOM: f64 = 1.12;

type Area<'a, 'b> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn = Result<(), Box<dyn std::error::Error>>;

/// Writes the picture.
pub(super) fn write(report: &Report, path: &Path) -> anyhow::Result<()> {
    let mut svg = String::new();
    draw(report, &mut svg).map_err(|error| anyhow::anyhow!("draw the picture: {error}"))?;
    std::fs::write(path, svg).map_err(|error| anyhow::anyhow!("{}: {error}", path.display()))
}

fn draw(report: &Report, svg: &mut String) -> Drawn {
    let root = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let (header, body) = root.split_vertically(HEADER);
    let contenders: Vec<Contender> =
        std::iter::once(Contender::Ours).chain(report.peers.iter().copied()).collect();
    title(report, &contenders, &header)?;
    let (prefill, decode): (Vec<Case>, Vec<Case>) =
        report.cases.iter().partition(|case| case.is_prefill());
    let panels = [
        ("Prefill, tokens per second by prompt length", prefill),
        ("Decode, tokens per second by batch (context 256)", decode),
    ];
    let panels: Vec<_> = panels.into_iter().filter(|(_, cases)| !cases.is_empty()).collect();
    let total: usize = panels.iter().map(|(_, cases)| cases.len() + 1).sum();
    let mut rest = body;
    for (index, (name, cases)) in panels.iter().enumerate() {
        let width = SIZE.0 as usize * (cases.len() + 1) / total;
        let area = if index + 1 < panels.len() {
            let (left, right) = rest.split_horizontally(width as i32);
            rest = right;
            left
        } else {
            rest.clone()
        };
        panel(report, &contenders, (name, cases), &area)?;
    }
    root.present()?;
    Ok(())
}

/// Who and where, and which colour is whose.
fn title(report: &Report, contenders: &[Contender], area: &Area<'_, '_>) -> Drawn {
    let text = |size: i32, colour: RGBColor| (FONT, size).into_font().color(&colour);
    let machine = &report.machine;
    let date = machine.measured_at.strftime("%Y-%m-%d");
    area.draw(&Text::new(format!("tandem bench: {}", machine.file.0), (24, 14), text(22, INK)))?;
    let place = format!(
        "{}, threads: {} of {}, device {}, median of {} rounds, {date}",
        machine.cpu,
        machine.threads,
        machine.cores,
        machine.device(),
        machine.rounds
    );
    area.draw(&Text::new(place, (24, 42), text(14, FAINT)))?;
    let mut x = 24;
    for &contender in contenders {
        let name = peer_title(contender);
        area.draw(&Rectangle::new([(x, 66), (x + 14, 80)], colour(contender).filled()))?;
        area.draw(&Text::new(name, (x + 20, 66), text(14, INK)))?;
        x += 60 + 8 * name.len() as i32;
    }
    Ok(())
}

fn panel(
    report: &Report,
    contenders: &[Contender],
    (name, cases): (&str, &[Case]),
    area: &Area<'_, '_>,
) -> Drawn {
    let highest = cases
        .iter()
        .flat_map(|&case| contenders.iter().map(move |&who| (case, who)))
        .filter_map(|(case, who)| report.samples.median(case, who))
        .fold(1.0, f64::max);
    let mut chart = ChartBuilder::on(area)
        .caption(name, (FONT, 16).into_font().color(&INK))
        .margin(16)
        .x_label_area_size(32)
        .y_label_area_size(56)
        .build_cartesian_2d(0.0..cases.len() as f64, 0.0..highest * HEADROOM)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .disable_x_axis()
        .light_line_style(WHITE)
        .bold_line_style(RGBColor(228, 230, 234))
        .axis_style(FAINT)
        .y_labels(6)
        .y_label_formatter(&|value| format!("{value:.0}"))
        .y_label_style((FONT, 13).into_font().color(&FAINT))
        .draw()?;
    let above = (FONT, 12).into_font().color(&INK).pos(Pos::new(HPos::Center, VPos::Bottom));
    let below = (FONT, 14).into_font().color(&INK).pos(Pos::new(HPos::Center, VPos::Top));
    let width = FILLED / contenders.len() as f64;
    for (index, &case) in cases.iter().enumerate() {
        let middle = index as f64 + 0.5;
        let size = case.size().to_string();
        let foot = EmptyElement::at((middle, 0.0)) + Text::new(size, (0, 8), below.clone());
        chart.draw_series(std::iter::once(foot))?;
        for (place, &contender) in contenders.iter().enumerate() {
            let Some(rate) = report.samples.median(case, contender) else { continue };
            let left = middle - FILLED / 2.0 + place as f64 * width;
            let corners = [(left, 0.0), (left + 0.94 * width, rate)];
            let bar = Rectangle::new(corners, colour(contender).filled());
            chart.draw_series(std::iter::once(bar))?;
            let top = EmptyElement::at((left + 0.47 * width, rate))
                + Text::new(format!("{rate:.0}"), (0, -4), above.clone());
            chart.draw_series(std::iter::once(top))?;
        }
    }
    Ok(())
}

fn colour(contender: Contender) -> RGBColor {
    match contender {
        Contender::Ours => OURS,
        Contender::Same => SAME,
        Contender::Requantized => REQUANTIZED,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::example;

    #[test]
    fn the_picture_is_well_formed_and_shows_every_figure() {
        let report = example::report();
        let mut svg = String::new();
        draw(&report, &mut svg).unwrap();
        let document = roxmltree::Document::parse(&svg).unwrap();
        let texts: Vec<&str> = document
            .descendants()
            .filter(|node| node.has_tag_name("text"))
            .filter_map(|node| node.text().map(str::trim))
            .collect();
        for &case in &report.cases {
            assert!(texts.contains(&case.size().to_string().as_str()), "{case} in {texts:?}");
            for contender in [Contender::Ours, Contender::Same, Contender::Requantized] {
                let figure = format!("{:.0}", report.samples.median(case, contender).unwrap());
                assert!(texts.contains(&figure.as_str()), "{figure} in {texts:?}");
            }
        }
        assert!(texts.iter().any(|text| text.contains("Some & Other <CPU>")), "{texts:?}");
        assert!(texts.iter().any(|text| text.ends_with("2026-11-24")), "{texts:?}");
        let bars = document
            .descendants()
            .filter(|node| node.has_tag_name("rect") && node.attribute("fill") == Some("#2563B0"));
        assert_eq!(bars.count(), report.cases.len() + 1, "a bar per case and the legend");
    }

    #[test]
    fn a_picture_of_one_kind_alone_is_whole() {
        let mut report = example::report();
        report.cases.retain(|case| !case.is_prefill());
        report.peers.clear();
        let mut svg = String::new();
        draw(&report, &mut svg).unwrap();
        assert!(svg.contains("Decode") && !svg.contains("Prefill"));
        roxmltree::Document::parse(&svg).unwrap();
    }
}
