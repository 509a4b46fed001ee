//! Makes the plan and the prompts of a run from the command line.

use anyhow::{Context, Result, bail};

use crate::arrivals::{Bounds, intended_times};
use crate::body::Endpoint;
use crate::cli::{LoadArgs, PromptAs, ReplayArgs};
use crate::plan::Plan;
use crate::prompt::{PromptForm, PromptMaker};
use crate::trace;
use crate::trace::shape::{Dequantize, Shape, Shaped, shape};
use crate::units::Nanos;
use crate::vocabulary::{self, Alphabet};

/// A plan, what its prompts are made with, and both in words.
pub struct Load {
    /// The requests.
    pub plan: Plan,
    /// Makes their prompts.
    pub prompts: PromptMaker,
    /// Where the requests come from.
    pub source: String,
    /// How prompts are made.
    pub prompt_note: String,
    /// Things the reader of the report must know.
    pub warnings: Vec<String>,
}

/// Makes the load, leaving out or shortening what exceeds `context_tokens` if that is known.
pub fn build(
    load: &LoadArgs,
    replay: &ReplayArgs,
    endpoint: Endpoint,
    context_tokens: Option<u32>,
) -> Result<Load> {
    let mut warnings = Vec::new();
    let (plan, source, digest) = match &replay.trace {
        Some(_) => from_trace(load, replay, &mut warnings)?,
        None => synthetic(load)?,
    };
    let plan = match context_tokens {
        Some(context_tokens) => plan.fit(context_tokens, load.on_too_long)?,
        None => {
            warnings.push("the server does not say how many tokens it can hold".to_owned());
            plan
        }
    };
    let (alphabet, form, prompt_note) = prompts(load, endpoint)?;
    let prompts = PromptMaker::new(alphabet, form, load.seed, digest, plan.block_count());
    if let Some(first) = plan.requests.first() {
        prompts.prompt(first).context("the first prompt cannot be made")?;
    }
    Ok(Load { plan, prompts, source, prompt_note, warnings })
}

fn synthetic(load: &LoadArgs) -> Result<(Plan, String, [u8; 32])> {
    let rate = load.rate.context("a load without --trace needs --rate")?;
    let bounds = Bounds { requests: load.requests, duration: load.duration };
    let times = intended_times(load.arrivals, rate, bounds, load.seed)?;
    let plan = Plan::synthetic(&times, load.input_tokens, load.output_tokens, load.seed);
    let arrivals = match load.arrivals {
        crate::arrivals::Arrivals::Poisson => "Poisson",
        crate::arrivals::Arrivals::Constant => "constant",
    };
    let source = format!(
        "{arrivals} arrivals at {rate}/s, {} prompt and {} output tokens, every prompt its own",
        load.input_tokens, load.output_tokens
    );
    Ok((plan, source, *blake3::hash(b"loadgen synthetic load").as_bytes()))
}

fn from_trace(
    load: &LoadArgs,
    replay: &ReplayArgs,
    warnings: &mut Vec<String>,
) -> Result<(Plan, String, [u8; 32])> {
    let path = replay.trace.as_deref().context("no trace was given")?;
    let trace = trace::read(path, replay.format, replay.trace_block)?;
    let asked = Shape {
        window: replay.window,
        speedup: replay.speedup,
        scale: replay.scale,
        dequantize: replay.dequantize,
        seed: load.seed,
    };
    let shaped: Shaped = shape(&trace, &asked)?;
    if let Some(quantum) = shaped.quantum.filter(|_| replay.dequantize == Dequantize::None) {
        warnings.push(format!(
            "the time stamps lie on a grid of {}, up to {} requests arrive at one instant: tail \
             latencies are artefacts of that (see --dequantize)",
            Nanos(quantum.step_ns),
            quantum.largest_burst
        ));
    }
    let mut plan = Plan::replay(&trace, &shaped);
    if let Some(most) = load.requests {
        plan.requests.truncate(most);
    }
    if plan.requests.is_empty() {
        bail!("--requests 0 leaves nothing to send");
    }
    let window = replay.window.map_or("whole".to_owned(), |w| format!("window {w}"));
    let source = format!(
        "{} ({}), {window}, speed-up {}, scale {}, blocks of {} tokens, dequantize {:?}",
        trace.name,
        trace.format.describe(),
        replay.speedup,
        replay.scale,
        shaped.block_tokens,
        replay.dequantize
    );
    Ok((plan, source, trace.digest))
}

fn prompts(load: &LoadArgs, endpoint: Endpoint) -> Result<(Alphabet, PromptForm, String)> {
    let form = load.prompt_as.unwrap_or(match endpoint {
        Endpoint::Completions => PromptAs::Tokens,
        Endpoint::Chat => PromptAs::Text,
    });
    if form == PromptAs::Tokens && endpoint == Endpoint::Chat {
        bail!("chat messages are text: --prompt-as tokens needs --endpoint completions");
    }
    let Some(path) = &load.vocab_tokenizer else {
        return Ok(match form {
            PromptAs::Tokens => (
                Alphabet::of_range(load.token_ids, load.seed)?,
                PromptForm::Tokens,
                format!("token ids from {}, exact", load.token_ids),
            ),
            PromptAs::Text => (
                PromptMaker::word_alphabet(load.seed)?,
                PromptForm::Words,
                "common words, about one token each (exact with --vocab-tokenizer)".to_owned(),
            ),
        });
    };
    let vocabulary = vocabulary::open(path)?;
    let alphabet = Alphabet::of_words(vocabulary.as_ref(), load.seed)?;
    let words = alphabet.ids().len();
    Ok(match form {
        PromptAs::Tokens => {
            (alphabet, PromptForm::Tokens, format!("token ids of {words} words, exact"))
        }
        PromptAs::Text => (
            alphabet,
            PromptForm::ExactText(vocabulary),
            format!("text of {words} words, each prompt checked to give its tokens back"),
        ),
    })
}
