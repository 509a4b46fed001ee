//! Runs llama.cpp's programs one at a time, with a deadline, and watches their memory.

use std::fs::File;
use std::io::{Read as _, Seek as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use modelfile::ModelFile;

use super::cases::{CONTEXT, Case, STEPS};
use super::machine::{self, Resident};
use super::peer_output::{self, last_lines};

/// The longest run of one program, on a loaded machine. A longer one is killed.
const RUN_LIMIT: Duration = Duration::from_secs(1_800);
/// Long enough not to disturb the measurement.
const WATCH_EVERY: Duration = Duration::from_millis(200);
/// The unit in which the peer divides its context evenly among sequences.
const PEER_CONTEXT_STEP: usize = 256;

/// The peer's programs and the number of their threads.
#[derive(Debug)]
pub(super) struct Peer {
    programs: PathBuf,
    /// The build that they report.
    pub(super) build: String,
    threads: usize,
}

/// The output of one program, and its memory when last seen.
struct Printed {
    text: String,
    memory: Option<Resident>,
}

/// Tokens per second by case, and the program's memory.
pub(super) struct PeerFigures {
    pub(super) rates: Vec<(Case, f64)>,
    pub(super) memory: Option<Resident>,
}

impl Peer {
    /// Finds the programs in `given`, or those that `scripts/llamacpp-build` has built.
    pub(super) fn find(given: Option<&Path>, threads: usize) -> anyhow::Result<Self> {
        let programs = match given {
            Some(folder) => folder.to_owned(),
            None => provision::Cache::locate()?.root().join("llamacpp/bin"),
        };
        if !programs.join("llama-bench").is_file() {
            bail!(
                "no llama-bench in {}; run scripts/llamacpp-build, or name the folder of your own \
                 build with --peer",
                programs.display()
            );
        }
        let mut peer = Self { programs, build: String::new(), threads };
        let printed = peer.run("llama-bench", |command| command.arg("--version"))?;
        let build = printed.text.lines().find_map(|line| line.strip_prefix("version: "));
        peer.build = build.unwrap_or("unknown").to_owned();
        Ok(peer)
    }

    /// Measures all cases, which are of one kind, once.
    pub(super) fn measure(&self, model: &Path, cases: &[Case]) -> anyhow::Result<PeerFigures> {
        let sizes: Vec<String> = cases.iter().map(|case| case.size().to_string()).collect();
        let sizes = sizes.join(",");
        let is_prefill = cases.first().is_some_and(|case| case.is_prefill());
        let printed = if is_prefill {
            self.run("llama-bench", |command| {
                self.model(command, model).args(["-p", &sizes, "-n", "0", "-r", "1", "-o", "jsonl"])
            })?
        } else {
            let largest = cases.iter().map(|case| case.size()).max().unwrap_or(1);
            let context = largest * (CONTEXT + STEPS).next_multiple_of(PEER_CONTEXT_STEP);
            self.run("llama-batched-bench", |command| {
                self.model(command, model)
                    .args(["-c", &context.to_string(), "-b", "2048", "-ub", "512", "-pps"])
                    .args(["-npp", &CONTEXT.to_string(), "-ntg", &STEPS.to_string()])
                    .args(["-npl", &sizes, "--output-format", "jsonl"])
            })?
        };
        let mut rates = Vec::with_capacity(cases.len());
        for &case in cases {
            let rate = match case {
                Case::Prefill(tokens) => peer_output::prefill_rate(&printed.text, tokens)?,
                Case::Decode(batch) => peer_output::decode_rate(&printed.text, batch)?,
            };
            rates.push((case, rate));
        }
        Ok(PeerFigures { rates, memory: printed.memory })
    }

    /// Measures the perplexity of `text` in windows of `window` tokens, whose second halves count.
    pub(super) fn perplexity(
        &self,
        model: &Path,
        text: &Path,
        window: usize,
    ) -> anyhow::Result<f64> {
        let window = window.to_string();
        let printed = self.run("llama-perplexity", |command| {
            self.model(command, model).arg("-f").arg(text).args(["-c", &window, "-b", &window])
        })?;
        Ok(peer_output::perplexity(&printed.text)?)
    }

    /// Returns the path of `model` in Q4_0, which is made once and kept in the cache.
    pub(super) fn requantized(&self, model: &Path) -> anyhow::Result<PathBuf> {
        let digest = ModelFile::open(model)?.digest()?;
        let name: String = digest[..8].iter().map(|byte| format!("{byte:02x}")).collect();
        let folder = provision::Cache::locate()?.root().join("llamacpp/models");
        let target = folder.join(format!("{name}.Q4_0.gguf"));
        if target.is_file() {
            return Ok(target);
        }
        std::fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
        let making = folder.join(format!(".{name}.{}", std::process::id()));
        self.run("llama-quantize", |command| {
            let command = command.arg("--allow-requantize").arg(model).arg(&making);
            command.args(["Q4_0", &self.threads.to_string()])
        })?;
        std::fs::rename(&making, &target)
            .with_context(|| format!("rename {} to {}", making.display(), target.display()))?;
        Ok(target)
    }

    fn model<'a>(&self, command: &'a mut Command, model: &Path) -> &'a mut Command {
        command.arg("-m").arg(model).args(["-t", &self.threads.to_string()])
    }

    /// Runs one program to completion.
    fn run(
        &self,
        program: &'static str,
        arguments: impl FnOnce(&mut Command) -> &mut Command,
    ) -> anyhow::Result<Printed> {
        let mut output = tempfile::tempfile().context("make a temporary file")?;
        let both = || output.try_clone().context("share a temporary file");
        let mut command = Command::new(self.programs.join(program));
        arguments(&mut command).stdin(Stdio::null()).stdout(both()?).stderr(both()?);
        let child = command.spawn().with_context(|| format!("run {program}"))?;
        let (ended, memory) = Running(child).watch(program)?;
        let text =
            read_back(&mut output).with_context(|| format!("read the output of {program}"))?;
        if !ended.success() {
            bail!("{program} failed ({ended}):\n{}", last_lines(&text, 8));
        }
        Ok(Printed { text, memory })
    }
}

fn read_back(file: &mut File) -> std::io::Result<String> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// A process that is killed when this is dropped.
struct Running(Child);

impl Running {
    /// Waits for its end; returns its exit status and its memory when last seen.
    fn watch(
        mut self,
        program: &str,
    ) -> anyhow::Result<(std::process::ExitStatus, Option<Resident>)> {
        let deadline = Instant::now() + RUN_LIMIT;
        let mut memory = None;
        loop {
            if let Some(status) = self.0.try_wait()? {
                return Ok((status, memory));
            }
            if Instant::now() >= deadline {
                bail!("{program} was still running after {} s", RUN_LIMIT.as_secs());
            }
            memory = machine::memory_of(self.0.id()).or(memory);
            std::thread::sleep(WATCH_EVERY);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail only if the process has already ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
