//! The tokens that the server's chat template adds to a prompt, and prompts that make room for
//! them.

use std::time::Duration;

use tokio::time::timeout;

use crate::plan::body::{BodyTemplate, Endpoint};
use crate::plan::prompt::{Block, PromptForm, TemplateTokens};
use crate::plan::workload::Load;
use crate::plan::{Phase, PlannedRequest};
use crate::send::client::{Call, Client};
use crate::send::clock::Clock;
use crate::send::identity::Identity;
use crate::send::live::Live;
use crate::send::record::RequestRecord;

/// Tokens of each message of a measuring request.
const PROBE_TOKENS: u32 = 32;
/// Messages of the request that measures what a further message adds.
const PROBE_MESSAGES: u32 = 3;
/// Limit for the response.
const PATIENCE: Duration = Duration::from_secs(60);

/// Shortens the prompts of a chat load by the tokens that the server's template adds, measured with
/// requests of known length: one of a single message and, if `has_turns`, one of several. If they
/// cannot be measured, the load gets a warning.
pub async fn leave_room(
    client: &Client,
    template: &BodyTemplate,
    identity: &Identity,
    has_turns: bool,
    load: &mut Load,
) {
    if template.endpoint != Endpoint::Chat {
        return;
    }
    if !matches!(load.prompts.form(), PromptForm::ExactText(_)) {
        let warning = "the chat template makes prompts longer than planned: without \
                       --vocab-tokenizer its tokens cannot be distinguished from those of the words";
        load.warnings.push(warning.to_owned());
        return;
    }
    let measured = measure_template(client, template, identity, has_turns, load).await;
    let tokens = match measured {
        Ok(tokens) => tokens,
        Err(reason) => {
            load.warnings.push(format!(
                "cannot measure the tokens of the chat template ({reason}): prompts are longer than \
                 planned"
            ));
            return;
        }
    };
    load.prompt_note.push_str(&format!(
        ", {} tokens shorter than planned, and {} per further message, to leave room for the chat \
         template (whose beginning all prompts share, beyond the ideal hits)",
        tokens.first, tokens.further
    ));
    let short = load.plan.requests.iter().filter(|r| r.input_tokens <= tokens.first).count();
    if short > 0 {
        load.warnings.push(format!(
            "{short} prompts are planned no longer than the {} tokens of the chat template: the \
             server receives more",
            tokens.first
        ));
    }
    load.prompts = load.prompts.clone().with_template(tokens);
}

async fn measure_template(
    client: &Client,
    template: &BodyTemplate,
    identity: &Identity,
    has_turns: bool,
    load: &Load,
) -> Result<TemplateTokens, String> {
    let first = measure(client, template, identity, load, 1).await?;
    if !has_turns {
        return Ok(TemplateTokens { first, further: 0 });
    }
    let all = measure(client, template, identity, load, PROBE_MESSAGES).await?;
    let further = all.saturating_sub(first).div_ceil(PROBE_MESSAGES - 1);
    Ok(TemplateTokens { first, further })
}

/// Returns the number of tokens that the server counts beyond those that were sent in a chat of
/// this many messages.
async fn measure(
    client: &Client,
    template: &BodyTemplate,
    identity: &Identity,
    load: &Load,
    messages: u32,
) -> Result<u32, String> {
    let sent_tokens = messages * PROBE_TOKENS;
    // No prompt of the plan has this block, so the request caches nothing of the plan.
    let number = u32::try_from(load.plan.origin.blocks).unwrap_or(u32::MAX);
    let request = PlannedRequest {
        intended_ns: 0,
        session: None,
        turn: 0,
        think_ns: 0,
        phase: Phase::Warmup,
        input_tokens: sent_tokens,
        output_tokens: 1,
        blocks: vec![Block { number, tokens: sent_tokens, id: u64::MAX - u64::from(messages) }],
    };
    let lengths = vec![PROBE_TOKENS; messages as usize];
    let prompt = load.prompts.chat(&request, &lengths).map_err(|e| e.to_string())?;
    let ids = identity.of(usize::MAX);
    let call = Call {
        endpoint: template.endpoint,
        body: template.body(prompt, 1),
        traceparent: ids.traceparent.clone(),
    };
    let mut record = RequestRecord::new(usize::MAX, 0, ids);
    record.request_id = format!("loadgen-{}-template", identity.run_id());
    let (clock, live) = (Clock::starting_in(Duration::ZERO), Live::default());
    let sent = timeout(PATIENCE, client.exchange(call, clock, &live, &mut record)).await;
    sent.map_err(|_| format!("no answer within {PATIENCE:?}"))?
        .map_err(|failure| format!("{}: {}", failure.class, failure.message))?;
    let counted = record.reply.usage.ok_or("the server sends no usage")?.prompt_tokens;
    let added = counted.checked_sub(u64::from(sent_tokens));
    added
        .and_then(|added| u32::try_from(added).ok())
        .ok_or_else(|| format!("the server counts {counted} tokens in a prompt of {sent_tokens}"))
}
