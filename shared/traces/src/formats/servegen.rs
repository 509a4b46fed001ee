//! ServeGen: a folder of clients with rates over time and distributions of lengths, from which
//! requests are drawn.

use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::{ReadOptions, TraceFormat};
use crate::columns::{Row, Table};
use crate::draft::{Arrival, Draft, Names, Order, TOKENS_MAX};
use crate::error::{Problem, TraceError};
use crate::fields::{token_count, whole};
use crate::gaps::Gaps;
use crate::input::{Guarded, files_of, skip_mark};
use crate::random::{RngStream, Stream};
use crate::rate::{Clock, Rate, Steps};
use crate::sample::Sample;
use crate::units::{NS_PER_S, Nanos, Window};

const COLUMNS: [&str; 6] = ["window start", "rate", "cv", "pattern", "shape", "scale"];
const NAMES: Names = Names { time: COLUMNS[0], prompt: "input_tokens" };
/// Parts of the prompts of clients that send more than text.
const PARTS: [&str; 4] = ["text_tokens", "image_tokens", "audio_tokens", "video_tokens"];
/// Length of the only window of a client.
const WINDOW_S: f64 = 600.0;
/// Largest rate of one client, in requests per second.
const RATE_MAX: f64 = 1e6;
const DATASET_BYTES_MAX: u64 = 256 << 20;

pub(crate) struct ServeGen;

impl TraceFormat for ServeGen {
    fn about(&self) -> &'static str {
        "ServeGen folder of clients, a generator, windows in seconds"
    }

    fn recognizes(&self, sample: &Sample) -> bool {
        sample.files.iter().any(|name| name.ends_with("-trace.csv"))
            && sample.files.iter().any(|name| name.ends_with("-dataset.json"))
    }

    fn read(&self, path: &Path, options: &ReadOptions) -> Result<Draft, TraceError> {
        let mut draft = Draft::new(Order::PerSession, NAMES, options.strict);
        draft.generated = true;
        let window = options.window.unwrap_or(Window { from: Nanos(0), to: None });
        let mut without_lengths = 0;
        let files = files_of(path)?;
        let clients = files.iter().filter_map(|file| Some((file, dataset_of(file)?)));
        for (number, (trace, dataset)) in clients.enumerate() {
            let lengths = lengths(&dataset, &mut draft)?;
            let client = Client::read(trace, lengths, &mut draft)?;
            if client.lengths.is_empty() {
                without_lengths += 1;
                continue;
            }
            let drawn = client.draw(window, options.seed, number as u64, &mut draft);
            drawn.map_err(|problem| draft.locate(problem))?;
        }
        draft.notes.push(format!("requests are drawn with seed {}", options.seed));
        if without_lengths > 0 {
            let note = "clients say nothing about lengths and were left out";
            draft.notes.push(format!("{without_lengths} {note}"));
        }
        Ok(draft)
    }
}

/// Returns `chunk-7-dataset.json` for `chunk-7-trace.csv`.
fn dataset_of(file: &Path) -> Option<PathBuf> {
    let name = file.file_name()?.to_str()?.strip_suffix("-trace.csv")?;
    Some(file.with_file_name(format!("{name}-dataset.json")))
}

/// Distributions of prompt and output lengths from a time on.
struct Lengths {
    from_s: f64,
    /// Parts of the prompt, drawn one by one.
    input: Vec<Weights>,
    output: Weights,
}

impl Lengths {
    /// Returns the sum of the parts of a prompt at these fractions of their weights.
    fn input_at(&self, units: [f64; PARTS.len()]) -> u32 {
        let parts = self.input.iter().zip(units).map(|(weights, unit)| weights.at(unit));
        parts.sum::<u32>().clamp(1, TOKENS_MAX)
    }
}

/// Values with their cumulative weights.
struct Weights(Vec<(f64, u32)>);

impl Weights {
    /// Returns the value at the fraction `unit` of the cumulative weight.
    fn at(&self, unit: f64) -> u32 {
        let all = self.0.last().map_or(0.0, |last| last.0);
        let at = self.0.partition_point(|(sum, _)| *sum <= unit * all);
        self.0.get(at).or(self.0.last()).map_or(0, |weight| weight.1)
    }
}

/// A client of the generator.
struct Client {
    steps: Steps,
    gaps: Vec<Gaps>,
    lengths: Vec<Lengths>,
    /// Number of parts of the prompts.
    parts: usize,
}

impl Client {
    fn read(path: &Path, lengths: Vec<Lengths>, draft: &mut Draft) -> Result<Self, TraceError> {
        let parts = lengths.iter().map(|lengths| lengths.input.len()).max().unwrap_or(0);
        let mut client = Self { steps: Steps::default(), gaps: Vec::new(), lengths, parts };
        let table = Table::without_header(path, &COLUMNS, draft)?;
        table.drain(draft, |row, _| client.window(row))?;
        let steps = &mut client.steps;
        let Some((last_s, _)) = steps.steps.last().copied() else {
            return Err(TraceError::Empty { path: path.to_owned() });
        };
        let before = steps.steps.len().checked_sub(2).map(|at| steps.steps[at].0);
        steps.end_s = last_s + before.map_or(WINDOW_S, |before| last_s - before);
        Ok(client)
    }

    fn window(&mut self, row: &Row<'_>) -> Result<(), Problem> {
        let start_s = row.seconds(COLUMNS[0])? as f64 / 1e9;
        if self.steps.steps.last().is_some_and(|(before, _)| *before >= start_s) {
            return Err(Problem::new(COLUMNS[0], start_s, "windows in ascending order"));
        }
        let rate = row.number(COLUMNS[1])?;
        if rate > RATE_MAX {
            let expected = format!("requests per second up to {RATE_MAX}");
            return Err(Problem::new(COLUMNS[1], rate, expected));
        }
        row.number(COLUMNS[2])?;
        let shape = row.number(COLUMNS[4])?;
        row.number(COLUMNS[5])?;
        let gaps = match row.cell(COLUMNS[3]) {
            // The client sends nothing in this window.
            "" if rate == 0.0 => Gaps::Exponential,
            "Gamma" => Gaps::Gamma { cv: 1.0 / shape.sqrt() },
            "Weibull" => Gaps::Weibull { shape },
            other => {
                let expected = "Gamma, Weibull, or nothing with a rate of 0";
                return Err(Problem::new(COLUMNS[3], format!("{other:?}"), expected));
            }
        };
        if !gaps.is_valid() {
            let expected = "a shape whose gaps can be drawn (0.0001 to 10000 for Gamma, 0.01 to \
                            100 for Weibull)";
            return Err(Problem::new(COLUMNS[4], shape, expected));
        }
        self.steps.steps.push((start_s, rate));
        self.gaps.push(gaps);
        Ok(())
    }

    /// Draws the requests of the client. One process runs through all windows; each window sets the
    /// distribution of the gaps and the rate of the clock.
    fn draw(
        &self,
        window: Window,
        seed: u64,
        number: u64,
        draft: &mut Draft,
    ) -> Result<(), Problem> {
        let stream = |purpose| Stream::of_source(seed, purpose, number);
        let (mut gaps, mut inputs) = (stream(RngStream::Arrivals), stream(RngStream::InputLengths));
        let mut outputs = stream(RngStream::OutputLengths);
        let mut clock = Clock::new(Rate::Steps(self.steps.clone()), stream(RngStream::States));
        let mut expected = self.gaps[0].draw_first(&mut gaps);
        while let Some(at_s) = clock.when(expected) {
            let at_ns = (at_s * NS_PER_S as f64).round() as i64;
            if window.to.is_some_and(|to| at_ns >= to.0) {
                break;
            }
            let mut input = [0.0; PARTS.len()];
            input[..self.parts].fill_with(|| inputs.unit());
            let output = outputs.unit();
            if at_ns >= window.from.0 {
                let known = self.lengths.partition_point(|lengths| lengths.from_s <= at_s);
                let lengths = &self.lengths[known.saturating_sub(1)];
                let arrival = Arrival {
                    at_ns,
                    input_tokens: lengths.input_at(input),
                    output_tokens: lengths.output.at(output),
                    ..Default::default()
                };
                draft.push(arrival, "")?;
            }
            expected += self.gaps[clock.step()].draw(&mut gaps);
        }
        Ok(())
    }
}

/// Reads the lengths of a client for each window. Windows without lengths are left out.
fn lengths(path: &Path, draft: &mut Draft) -> Result<Vec<Lengths>, TraceError> {
    draft.begin_file(path);
    let mut file = BufReader::new(Guarded::open(path)?);
    if skip_mark(&mut file).map_err(TraceError::io(path))? {
        draft.skipped_mark().map_err(|problem| draft.locate(problem))?;
    }
    let mut text = String::new();
    let read = (&mut file).take(DATASET_BYTES_MAX + 1).read_to_string(&mut text);
    read.map_err(TraceError::io(path))?;
    if text.len() as u64 > DATASET_BYTES_MAX {
        let expected = format!("at most {DATASET_BYTES_MAX} bytes");
        return Err(draft.locate(Problem::new("the file", "longer", expected)));
    }
    draft.add_digest(file.get_ref().digest());
    let windows: Map<String, Value> = serde_json::from_str(&text).map_err(|e| {
        let line = e.line().max(1) as u64;
        Problem::new("the document", "broken", format!("windows of lengths ({e})")).at(path, line)
    })?;
    let mut lengths = Vec::new();
    for (start, fields) in &windows {
        let window = lengths_of(start, fields).map_err(|problem| draft.locate(problem))?;
        lengths.extend(window);
    }
    lengths.sort_by(|a, b| a.from_s.total_cmp(&b.from_s));
    Ok(lengths)
}

/// Reads the lengths of a window; returns `None` if there are none.
fn lengths_of(start: &str, fields: &Value) -> Result<Option<Lengths>, Problem> {
    let from_s = start.parse::<u32>().map_err(|_| Problem::new("window", start, "seconds"))?;
    let mut names: Vec<&str> = PARTS.into_iter().filter(|n| fields.get(n).is_some()).collect();
    if names.is_empty() || fields.get(NAMES.prompt).is_some() {
        names = vec![NAMES.prompt];
    }
    let weights_of = |name: &str| weights(&format!("{start}.{name}"), fields.get(name));
    let mut input = Vec::new();
    for name in names {
        let Some(weights) = weights_of(name)? else { return Ok(None) };
        input.push(weights);
    }
    let output = weights_of("output_tokens")?;
    Ok(output.map(|output| Lengths { from_s: f64::from(from_s), input, output }))
}

/// Parses `"{100: 0.25, 200: 0.75}"`; returns `None` for an empty set.
fn weights(field: &str, value: Option<&Value>) -> Result<Option<Weights>, Problem> {
    let expected = "a text such as \"{100: 0.25, 200: 0.75}\" whose parts are 1 together";
    let text = value.ok_or_else(|| Problem::new(field, "missing", expected))?;
    let bad = || Problem::new(field, text, expected);
    let inside = text.as_str().and_then(|text| text.trim().strip_prefix('{')?.strip_suffix('}'));
    let inside = inside.ok_or_else(bad)?.trim();
    if inside.is_empty() {
        return Ok(None);
    }
    let mut sum = 0.0;
    let mut weights = Vec::new();
    for pair in inside.trim_end_matches(',').split(',') {
        let (tokens, part) = pair.split_once(':').ok_or_else(bad)?;
        let tokens = tokens.trim().parse().ok().and_then(whole);
        let tokens = tokens.and_then(|tokens| token_count(tokens, 0).ok());
        let part = part.trim().parse::<f64>().ok().filter(|p| (0.0..=1.0).contains(p));
        let (Some(tokens), Some(part)) = (tokens, part) else { return Err(bad()) };
        sum += part;
        weights.push((sum, tokens));
    }
    if (sum - 1.0).abs() > 1e-3 {
        return Err(Problem::new(field, format!("parts of {sum} together"), expected));
    }
    Ok(Some(Weights(weights)))
}
