//! `tandem bench`: tokens per second of prefill and decode, beside llama.cpp and the machine's peak
//! rates.

mod cases;
mod cost;
#[cfg(test)]
mod example;
#[cfg(feature = "wgpu")]
mod graphics;
mod machine;
mod ours;
mod peer;
mod peer_output;
mod perplexity;
mod picture;
mod report;

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use chassis::Settings;
use clap::ValueEnum;
use model::{ActivationsChoice, DeviceChoice, IsaChoice};
use modelfile::ModelFile;
use provision::hub::{self, HubOptions, HubRef, Tenths};

use super::CommonArgs;
use crate::console;
use cases::{Case, Contender, Samples, Turn};
use cost::Weights;
use machine::ForeignLoad;
use ours::{DeviceOptions, Ours};
use peer::Peer;
use report::{Machine, Report};

/// Arguments of the measurement of the engine.
#[derive(Debug, clap::Args)]
pub(super) struct EngineArgs {
    /// Cases such as prefill-512,decode-16
    #[arg(long, value_name = "CASES", value_delimiter = ',')]
    cases: Vec<Case>,
    /// Measure the peer in the same rounds: on the same file, and on its Q4_0 requantization
    #[arg(long, value_name = "PEER")]
    against: Option<Against>,
    /// Folder of the peer's programs; default: where scripts/llamacpp-build leaves them
    #[arg(long, value_name = "DIR", requires = "against")]
    peer: Option<PathBuf>,
    /// Write a page with charts, too
    #[arg(long, value_name = "FILE")]
    picture: Option<PathBuf>,
    /// Instructions of the CPU device: auto, avx512, avx2 or portable
    #[arg(long, default_value_t = IsaChoice::Auto)]
    isa: IsaChoice,
    /// Precision of the activations that quantized layers read on the CPU device: auto, int8 or int16
    #[arg(long, default_value_t = ActivationsChoice::Auto, value_name = "PRECISION")]
    activations: ActivationsChoice,
    /// Tokens of a prompt that one step computes
    #[arg(long, default_value_t = 512, value_name = "TOKENS", value_parser = chunk)]
    chunk: usize,
    /// Keep this many threads busy beside the measurement
    #[arg(long, default_value_t = 0, value_name = "N", value_parser = foreign_load)]
    foreign_load: usize,
    /// Instead of speed, the perplexity of a text: on the device and by stock operations in f32
    #[arg(long, value_name = "FILE", conflicts_with_all = ["cases", "picture", "foreign_load"])]
    perplexity: Option<PathBuf>,
    /// Tokens of a window of that text, whose second half is scored
    #[arg(long, default_value_t = 1024, value_name = "TOKENS", requires = "perplexity")]
    window: usize,
}

/// The peer to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Against {
    #[value(name = "llama.cpp")]
    LlamaCpp,
}

fn chunk(text: &str) -> Result<usize, String> {
    within(text, 1, 65_536)
}

fn foreign_load(text: &str) -> Result<usize, String> {
    within(text, 0, 1_024)
}

fn within(text: &str, low: usize, high: usize) -> Result<usize, String> {
    let number = text.parse().ok().filter(|number| (low..=high).contains(number));
    number.ok_or_else(|| format!("expected {low} to {high}"))
}

/// Measures the engine.
pub(super) async fn run(common: CommonArgs, args: EngineArgs) -> anyhow::Result<()> {
    let settings = common.settings.load()?.settings;
    // It computes or waits for programs, which blocks the thread.
    tokio::task::spawn_blocking(move || start(&common, &args, &settings))
        .await
        .context("run the measurement")?
}

/// The model, the peer and the arguments of a measurement.
struct Bench<'a> {
    common: &'a CommonArgs,
    args: &'a EngineArgs,
    path: PathBuf,
    file: ModelFile,
    options: DeviceOptions,
    peer: Option<Peer>,
}

fn start(common: &CommonArgs, args: &EngineArgs, settings: &Settings) -> anyhow::Result<()> {
    let path = match &settings.model.path {
        Some(path) => local(path).context("get the model")?,
        None => provision::smollm2(&console::note)
            .context("get the default model; name one that you have with --model PATH")?,
    };
    let file = ModelFile::open(&path).with_context(|| path.display().to_string())?;
    let threads = match settings.threads {
        0 => machine::cores(),
        given => given,
    };
    let device = ::engine::choice::device(settings.device);
    let EngineArgs { isa, activations, chunk, .. } = *args;
    let options = DeviceOptions { device, threads, isa, activations, chunk };
    let peer = match args.against {
        Some(Against::LlamaCpp) => Some(Peer::find(args.peer.as_deref(), threads)?),
        None => None,
    };
    let bench = Bench { common, args, path, file, options, peer };
    match &args.perplexity {
        Some(text) => bench.perplexity(text),
        None => bench.speed(),
    }
}

impl Bench<'_> {
    fn speed(&self) -> anyhow::Result<()> {
        let cases = match (self.args.cases.as_slice(), self.common.quick) {
            ([], true) => Case::QUICK.to_vec(),
            ([], false) => Case::FULL.to_vec(),
            (given, _) => given.to_vec(),
        };
        let mut machine = self.machine()?;
        let mut files = Vec::new();
        if let Some(peer) = &self.peer {
            let requantized = peer.requantized(&self.path)?;
            machine.requantized = Some(describe_requantized(&self.file, &requantized)?);
            files =
                vec![(Contender::Same, self.path.clone()), (Contender::Requantized, requantized)];
        }
        let weights = Weights::of(&self.file)?;
        let mut ours = Ours::load(&self.file, &self.options, &cases)?;
        machine.loaded = machine::own_memory();
        machine.device = ours.model().device().name.clone();
        let is_cpu = machine.device.starts_with("cpu");
        machine.isa = is_cpu.then(|| machine::isa(self.options.isa).to_string());
        let activations = ours.model().activations();
        machine.activations = activations.map(|resolved| resolved.precision.to_string());
        let load = ForeignLoad::start(self.args.foreign_load).context("start foreign load")?;
        let mut samples = Samples::default();
        let contenders: Vec<Contender> =
            std::iter::once(Contender::Ours).chain(files.iter().map(|(peer, _)| *peer)).collect();
        let turns = cases::turns(machine.rounds, &contenders, &cases);
        for (index, turn) in turns.iter().enumerate() {
            console::note(&describe_turn(turn, index, turns.len()));
            let file = files.iter().find(|(contender, _)| *contender == turn.contender);
            let (Some(peer), Some((_, file))) = (&self.peer, file) else {
                for &case in &turn.cases {
                    samples.add(case, Contender::Ours, ours.measure(case)?);
                }
                continue;
            };
            let figures = peer.measure(file, &turn.cases).or_else(|error| {
                console::note(&format!("{error:#}\nretrying once"));
                peer.measure(file, &turn.cases)
            })?;
            for (case, rate) in figures.rates {
                samples.add(case, turn.contender, rate);
            }
            let peak = figures.memory.map(|memory| memory.peak_bytes);
            machine.peer_peak_bytes = machine.peer_peak_bytes.max(peak);
        }
        drop(load);
        machine.load_after = machine::load_average();
        machine.ended = machine::own_memory();
        // Last, because the probe takes more memory than the measurement.
        if !machine.device.contains("wgpu") {
            machine.peak = Some(machine::peak(self.options.threads, self.options.isa)?);
        }
        let peers = files.into_iter().map(|(peer, _)| peer).collect();
        let spec = self.file.spec().clone();
        let chunk = self.options.chunk;
        self.publish(&Report { cases, samples, peers, weights, spec, chunk, machine })
    }

    fn machine(&self) -> anyhow::Result<Machine> {
        Ok(Machine {
            cpu: machine::cpu_name(),
            cores: machine::cores(),
            memory_bytes: machine::memory_bytes(),
            threads: self.options.threads,
            foreign_load: self.args.foreign_load,
            model: self.file.name().to_owned(),
            file: (file_name(&self.path), size_on_disk(&self.path)?),
            load_before: machine::load_average(),
            peer: self.peer.as_ref().map(|peer| peer.build.clone()),
            rounds: self.common.rounds as usize,
            measured_at: jiff::Timestamp::now(),
            ..Machine::default()
        })
    }

    fn publish(&self, report: &Report) -> anyhow::Result<()> {
        console::line(&report.text());
        #[cfg(feature = "wgpu")]
        if report.machine.device.starts_with("wgpu") {
            console::line(&graphics::table(report));
        }
        if let Some(path) = &self.common.json {
            write_json(path, &report.json())?;
        }
        if let Some(path) = &self.args.picture {
            std::fs::write(path, picture::page(report))
                .with_context(|| path.display().to_string())?;
        }
        Ok(())
    }

    fn perplexity(&self, text: &Path) -> anyhow::Result<()> {
        let window = self.args.window;
        let read = perplexity::Text::read(text, &self.file, window)?;
        console::line(&format!(
            "perplexity of {}: {} windows of {window} tokens, {} tokens scored",
            file_name(text),
            read.windows(),
            read.scored()
        ));
        let mut rows = Vec::new();
        let mut add = |name: String, perplexity: f64| {
            console::line(&format!("{name:<28} {perplexity:>10.4}"));
            rows.push(serde_json::json!({ "name": name, "perplexity": perplexity }));
        };
        let stock = DeviceOptions { device: DeviceChoice::Reference, ..self.options.clone() };
        for options in [&self.options, &stock] {
            let (perplexity, device) = perplexity::measure(&self.file, options, &read)?;
            add(device, perplexity);
        }
        if let Some(peer) = &self.peer {
            add("llama.cpp, same file".into(), peer.perplexity(&self.path, text, window)?);
            let requantized = peer.requantized(&self.path)?;
            add("llama.cpp, Q4_0".into(), peer.perplexity(&requantized, text, window)?);
        }
        match &self.common.json {
            Some(path) => write_json(path, &serde_json::json!({ "rows": rows })),
            None => Ok(()),
        }
    }
}

/// Returns the path to open for the model that `path` names, which is fetched if it is on a hub.
fn local(path: &Path) -> anyhow::Result<PathBuf> {
    let Some(reference) = HubRef::from_path(path) else { return Ok(path.to_path_buf()) };
    let mut progress = Tenths::default();
    Ok(hub::fetch(&reference?, &HubOptions::from_env(), &mut |event| {
        if let Some(line) = progress.line(&event) {
            console::note(&line);
        }
    })?)
}

fn write_json(path: &Path, value: &serde_json::Value) -> anyhow::Result<()> {
    std::fs::write(path, format!("{value:#}\n")).with_context(|| path.display().to_string())
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

/// Returns the bytes of a file, or of the files in a folder.
fn size_on_disk(path: &Path) -> anyhow::Result<u64> {
    if path.is_file() {
        return Ok(path.metadata()?.len());
    }
    let sizes = path.read_dir()?.map(|entry| Ok(entry?.metadata()?.len()));
    Ok(sizes.sum::<std::io::Result<u64>>()?)
}

/// Describes the formats in a requantized file. The peer leaves some tensors as they are, among them
/// often the head.
fn describe_requantized(file: &ModelFile, requantized: &Path) -> anyhow::Result<String> {
    let made = ModelFile::open(requantized)?;
    let head = if file.spec().tied_embeddings { "token_embd.weight" } else { "output.weight" };
    let (before, _) = file.layout(head)?;
    let (after, _) = made.layout(head)?;
    let (layers, _) = made.layout("blk.0.ffn_up.weight")?;
    Ok(format!("its requantized file: layers {layers:?}, head {after:?} (ours: {before:?})"))
}

fn describe_turn(turn: &Turn, index: usize, count: usize) -> String {
    let kind = if turn.cases[0].is_prefill() { "prefill" } else { "decode" };
    let contender = report::peer_title(turn.contender);
    format!("[{}/{count}] round {}, {kind}: {contender}", index + 1, turn.round + 1)
}
