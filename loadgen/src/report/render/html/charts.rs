//! The charts of the page: their elements, their data, and the same data as tables.

use serde_json::{Value, json};

use super::{Safe, line, number, table};
use crate::report::Report;
use crate::report::bins::Band;
use crate::report::render::search as search_table;
use crate::report::search::SearchReport;
use crate::report::shapes::Shape;
use std::fmt::Write;

/// Largest number of requests in the scatter plot.
const DOTS_MAX: usize = 2000;

/// Returns the data for the script.
pub(super) fn data(report: &Report) -> Value {
    let series = &report.series;
    let first = series.from_s.first().copied().unwrap_or(0.0);
    let last = series.from_s.last().map_or(1.0, |from| from + series.bin_s);
    json!({
        "first_s": first,
        "last_s": last,
        "window": report.window,
        "slos": report.slos,
        "marks": report.marks,
        "series": series,
        "shapes": report.shapes,
        "stages": report.stages,
        "timeline": report.timeline,
        "dots": dots(report),
        "search": report.search,
        "server": report.server,
    })
}

/// Returns all requests, or an even sample of many.
fn dots(report: &Report) -> Value {
    let samples = &report.samples;
    let of = samples.at_ms.len();
    let drawn = of.min(DOTS_MAX);
    let places: Vec<usize> = (0..drawn).map(|place| place * of / drawn).collect();
    let column = |values: &[Option<f64>]| -> Vec<Option<f64>> {
        places.iter().map(|place| values.get(*place).copied().flatten()).collect()
    };
    let at_s: Vec<f64> = places.iter().map(|place| samples.at_ms[*place] / 1e3).collect();
    json!({
        "of": of,
        "at_s": at_s,
        "ttft": column(&samples.ttft_ms),
        "tpot": column(&samples.tpot_ms),
    })
}

/// One chart.
struct Figure<'a> {
    /// Name in the script.
    chart: &'a str,
    /// Heading.
    title: &'a str,
    /// Explanation for a reader.
    caption: String,
    /// CSS classes of its element.
    class: &'a str,
    /// True if the chart has the whole width.
    wide: bool,
    /// Reason for an empty chart, if it is empty.
    empty: Option<&'a str>,
}

impl Figure<'_> {
    /// Writes the element of the chart, and `rows` as its table.
    fn render(&self, header: &[&str], rows: &[Vec<String>], out: &mut String) {
        let wide = if self.wide { " class=\"wide\"" } else { "" };
        line!(out, "<figure{wide}><figcaption><h3>{}</h3>", Safe(self.title));
        line!(out, "<p>{}</p></figcaption>", Safe(&self.caption));
        if let Some(empty) = self.empty {
            line!(out, "<p class=\"empty\">{}</p></figure>", Safe(empty));
            return;
        }
        if self.chart == "lanes" {
            line!(
                out,
                "<p><button type=\"button\" id=\"aligned\" aria-pressed=\"false\">Count from when \
                 each was due</button></p>"
            );
        }
        line!(
            out,
            "<div class=\"plot {}\" data-chart=\"{}\" role=\"img\" aria-label=\"{}; the table below \
             has the same figures\"></div>",
            self.class,
            self.chart,
            Safe(self.title)
        );
        line!(out, "<details><summary>As a table</summary>");
        table(self.title, header, rows, out);
        line!(out, "</details></figure>");
    }
}

/// Writes all charts.
pub(super) fn render(report: &Report, out: &mut String) {
    if let Some(search) = &report.search {
        line!(out, "<h2>Search over the rate</h2><div class=\"grid\">");
        searched(search, out);
        line!(out, "</div><p class=\"soft\">What follows is the run at the highest held rate.</p>");
    }
    line!(out, "<h2>Over time</h2><div class=\"grid\">");
    load(report, out);
    for (name, chart, band) in [
        ("Time to first token", "ttft_time", &report.series.ttft_ms),
        ("Time per output token", "tpot_time", &report.series.tpot_ms),
    ] {
        over_time(report, name, chart, band, out);
    }
    cache_over_time(report, out);
    server_over_time(report, out);
    line!(out, "</div><h2>Distributions</h2><div class=\"grid\">");
    shape("Time to first token", "ttft_shape", &report.shapes.ttft, out);
    shape("Time per output token", "tpot_shape", &report.shapes.tpot, out);
    line!(out, "</div><h2>Where the time goes</h2><div class=\"grid\">");
    stages(report, out);
    stages_over_time(report, out);
    lanes(report, out);
    line!(out, "</div>");
}

fn searched(search: &SearchReport, out: &mut String) {
    let names: Vec<String> = search.asked.iter().map(ToString::to_string).collect();
    let head = ["requests/s", "requests", "TTFT p50 ms", "TTFT p99 ms"];
    let header: Vec<&str> = head
        .into_iter()
        .chain(names.iter().map(String::as_str))
        .chain(["judgement", "why"])
        .collect();
    let rows: Vec<Vec<String>> = search
        .probes
        .iter()
        .map(|probe| {
            let head = [
                number(Some(probe.rate)),
                probe.requests.to_string(),
                number(probe.ttft_ms.0),
                number(probe.ttft_ms.1),
            ];
            let parts = probe.attained.iter().map(|a| {
                format!("{:.2} % ({:.2} to {:.2})", 100.0 * a.part, 100.0 * a.low, 100.0 * a.high)
            });
            let tail = [search_table::word(probe), probe.why.clone()];
            head.into_iter().chain(parts).chain(tail).collect()
        })
        .collect();
    let title = search_table::conclusion(search);
    let caption =
        "Part of the requests that kept what is asked, at each rate tried, with its 95 % \
                   interval; shaded: where the capacity lies."
            .to_owned();
    let empty = rows.is_empty().then_some("No rate was tried to its end.");
    Figure { chart: "search", title: &title, caption, class: "", wide: true, empty }
        .render(&header, &rows, out);
}

const NOTHING_SENT: &str = "No request was sent.";

fn load(report: &Report, out: &mut String) {
    let series = &report.series;
    let empty = series.from_s.is_empty().then_some(NOTHING_SENT);
    let rows: Vec<Vec<String>> = (0..series.from_s.len())
        .map(|place| {
            let counts = [&series.offered, &series.sent, &series.completed, &series.failed];
            let rates = counts.map(|counts| number(Some(f64::from(counts[place]) / series.bin_s)));
            let tokens = number(Some(series.tokens[place] as f64 / series.bin_s));
            let start = std::iter::once(number(Some(series.from_s[place])));
            start.chain(rates).chain([series.in_flight[place].to_string(), tokens]).collect()
        })
        .collect();
    let header =
        ["from, s", "offered/s", "sent/s", "completed/s", "failed/s", "in flight", "tokens/s"];
    let bin = number(Some(series.bin_s));
    for (chart, title, caption, class, wide) in [
        (
            "rates",
            "Offered against achieved",
            format!(
                "Requests a second, by the schedule and as they were sent and completed, in steps \
                 of {bin} s."
            ),
            "",
            true,
        ),
        (
            "flight",
            "In flight",
            "Sent and not over: growth that does not end is overload.".to_owned(),
            "low",
            false,
        ),
        ("tokens", "Output", "Chunks of text received a second.".to_owned(), "low", false),
    ] {
        Figure { chart, title, caption, class, wide, empty }.render(&header, &rows, out);
    }
}

fn over_time(report: &Report, name: &str, chart: &str, band: &Band, out: &mut String) {
    let series = &report.series;
    let measured = band.p50.iter().any(Option::is_some);
    let rows: Vec<Vec<String>> = (0..series.from_s.len())
        .map(|place| {
            let start = std::iter::once(number(Some(series.from_s[place])));
            start.chain([&band.p50, &band.p90, &band.p99].map(|b| number(b[place]))).collect()
        })
        .collect();
    let title = format!("{name} over time");
    let dots = report.samples.at_ms.len();
    let caption = if dots > DOTS_MAX {
        format!("By the time a request was due; {DOTS_MAX} of {dots} requests as dots.")
    } else {
        "By the time a request was due, each request a dot.".to_owned()
    };
    let empty = (!measured).then_some("No answer had enough tokens to measure this.");
    Figure { chart, title: &title, caption, class: "", wide: false, empty }.render(
        &["from, s", "p50 ms", "p90 ms", "p99 ms"],
        &rows,
        out,
    );
}

fn shape(title: &str, chart: &str, shape: &Shape, out: &mut String) {
    let rows: Vec<Vec<String>> = (0..shape.counts.len())
        .map(|place| {
            let edge = |place: usize| number(Some(shape.edges_ms[place]));
            vec![format!("{} to {}", edge(place), edge(place + 1)), shape.counts[place].to_string()]
        })
        .collect();
    let scale = if shape.log { ", on a logarithmic scale" } else { "" };
    let caption =
        format!("Requests by their time{scale}; the curve says how many were served within it.");
    let empty = rows.is_empty().then_some("No answer had enough tokens to measure this.");
    let title = format!("{title}: distribution");
    Figure { chart, title: &title, caption, class: "", wide: false, empty }.render(
        &["ms", "requests"],
        &rows,
        out,
    );
}

fn stages(report: &Report, out: &mut String) {
    let mut figure = Figure {
        chart: "stages",
        title: "Stages of the time to first token",
        caption: String::new(),
        class: "",
        wide: true,
        empty: None,
    };
    let Some(stages) = &report.stages else {
        figure.caption = "The server's own split, asked for with x-tandem-timings.".to_owned();
        figure.empty = Some("The server did not say where its time went.");
        return figure.render(&[], &[], out);
    };
    figure.caption = format!(
        "Mean of each stage for the fastest and the slowest of {} requests; client wait and the \
         server's stages explain {:.1} % of the median request.",
        stages.requests,
        100.0 * stages.explained
    );
    let names = stages.names.iter().map(String::as_str);
    let header: Vec<&str> = ["group", "requests", "TTFT ms"].into_iter().chain(names).collect();
    let rows: Vec<Vec<String>> = stages
        .groups
        .iter()
        .map(|group| {
            let head =
                [group.name.clone(), group.requests.to_string(), number(Some(group.ttft_ms))];
            head.into_iter().chain(group.parts_ms.iter().map(|ms| number(Some(*ms)))).collect()
        })
        .collect();
    figure.render(&header, &rows, out);
}

fn stages_over_time(report: &Report, out: &mut String) {
    let series = &report.series;
    // Without stages, the preceding chart gives the reason.
    let Some(stages) = &series.stages else { return };
    let names = stages.names.iter().map(String::as_str);
    let header: Vec<&str> = ["from, s", "requests", "TTFT ms"].into_iter().chain(names).collect();
    let rows: Vec<Vec<String>> = (0..series.from_s.len())
        .map(|place| {
            let head = [
                number(Some(series.from_s[place])),
                stages.requests[place].to_string(),
                number(stages.ttft_ms[place]),
            ];
            head.into_iter().chain(stages.parts_ms.iter().map(|part| number(part[place]))).collect()
        })
        .collect();
    let caption = format!(
        "Mean of each stage of the requests that were due in each {} s; together they are the mean \
         TTFT.",
        number(Some(series.bin_s))
    );
    let title = "Stages of the time to first token over time";
    Figure { chart: "stages_time", title, caption, class: "", wide: true, empty: None }
        .render(&header, &rows, out);
}

fn cache_over_time(report: &Report, out: &mut String) {
    let series = &report.series;
    let title = "Prefix cache: expected against observed hits over time";
    let chart = "cache_time";
    let Some(cache) = &series.cache else {
        let caption = "Part of the prompt tokens that was cached.".to_owned();
        let whole = &report.cache;
        let nothing = whole.ideal_server_token_hit == 0.0 && whole.observed_token_hit.is_none();
        let empty = Some(if nothing {
            "No prompt began like one before it, and the server reported no hits."
        } else {
            "The report was saved by a loadgen that did not keep this over time."
        });
        return Figure { chart, title, caption, class: "", wide: true, empty }.render(
            &[],
            &[],
            out,
        );
    };
    let lru: Vec<String> = cache.lru.iter().map(|lru| format!("LRU {} %", lru.blocks)).collect();
    let header: Vec<&str> = ["from, s", "expected %"]
        .into_iter()
        .chain(lru.iter().map(String::as_str))
        .chain(["observed %"])
        .collect();
    let percent = |values: &[Option<f64>], place: usize| number(values[place].map(|v| 100.0 * v));
    let rows: Vec<Vec<String>> = (0..series.from_s.len())
        .map(|place| {
            let head = [number(Some(series.from_s[place])), percent(&cache.infinite, place)];
            let lru = cache.lru.iter().map(|lru| percent(&lru.token_hit, place));
            head.into_iter().chain(lru).chain([percent(&cache.observed, place)]).collect()
        })
        .collect();
    let large = cache.sufficient_capacity().map_or_else(String::new, |blocks| {
        format!(" With {blocks} blocks or more an LRU cache hits the same and is not drawn.")
    });
    let silent = if cache.observed.iter().all(Option::is_none) {
        " The server reported no hits."
    } else {
        ""
    };
    let caption = format!(
        "Part of the prompt tokens due in each {} s that was cached: expected of a cache that keeps \
         everything and of LRU caches, in blocks of {} tokens, beside what the server \
         reported.{large}{silent}",
        number(Some(series.bin_s)),
        report.cache.server_block_tokens
    );
    Figure { chart, title, caption, class: "", wide: true, empty: None }
        .render(&header, &rows, out);
}

fn server_over_time(report: &Report, out: &mut String) {
    // A run without it was asked not to have it, or was saved by an older loadgen.
    let Some(server) = &report.server else { return };
    let samples = &server.metrics.samples;
    let rows: Vec<Vec<String>> = samples
        .iter()
        .map(|sample| {
            let kv_percent = sample.kv_used.map(|part| 100.0 * part);
            [Some(sample.at_s), sample.running, sample.waiting, kv_percent].map(number).to_vec()
        })
        .collect();
    let caption = format!("By its own /metrics: {}.", server.words());
    let empty = samples.is_empty().then_some("Nothing was recorded.");
    let title = "The server: running, queued, KV memory";
    Figure { chart: "server", title, caption, class: "", wide: true, empty }.render(
        &["at, s", "running", "queued", "KV memory %"],
        &rows,
        out,
    );
}

fn lanes(report: &Report, out: &mut String) {
    let timeline = &report.timeline;
    let shown = timeline.lanes.len();
    let caption = if shown < timeline.of {
        format!("An even sample of {shown} of {} requests, a lane each, by arrival.", timeline.of)
    } else {
        "Every request in a lane of its own, by arrival.".to_owned()
    };
    let rows: Vec<Vec<String>> = timeline
        .lanes
        .iter()
        .map(|lane| {
            let took = |at: Option<f64>| number(at.map(|at| (at - lane.at_s) * 1e3));
            let first = lane.parts.iter().find(|p| p.0 == crate::report::timeline::Part::Decode);
            vec![
                lane.index.to_string(),
                number(Some(lane.at_s)),
                took(first.map(|part| part.1)),
                took(Some(lane.end_s)),
                lane.failure.clone().unwrap_or_default(),
            ]
        })
        .collect();
    let class = if shown > 60 { "tall" } else { "" };
    let empty = rows.is_empty().then_some(NOTHING_SENT);
    Figure { chart: "lanes", title: "Requests as a timeline", caption, class, wide: true, empty }
        .render(&["request", "due, s", "first token, ms", "over, ms", "failed"], &rows, out);
}
