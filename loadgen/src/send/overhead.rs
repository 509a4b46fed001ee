//! The tokens that the server's chat template adds to a prompt, and prompts that make room for
//! them.

use std::time::Duration;

use tokio::time::timeout;

use crate::plan::body::{BodyTemplate, Endpoint};
use crate::plan::prompt::{Block, PromptForm};
use crate::plan::workload::Load;
use crate::plan::{Phase, PlannedRequest};
use crate::send::client::{Call, Client};
use crate::send::clock::Clock;
use crate::send::identity::Identity;
use crate::send::live::Live;
use crate::send::record::RequestRecord;

/// Prompt tokens of the measuring request.
const PROBE_TOKENS: u32 = 32;
/// Limit for the response.
const PATIENCE: Duration = Duration::from_secs(60);

/// Shortens the prompts of a chat load by the tokens that the server's template adds, measured with
/// one request of known length. If they cannot be measured, the load gets a warning.
pub async fn leave_room(
    client: &Client,
    template: &BodyTemplate,
    identity: &Identity,
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
    let tokens = match measure(client, template, identity, load).await {
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
        ", {tokens} tokens shorter than planned to leave room for the chat template (whose \
         beginning all prompts share, beyond the ideal hits)"
    ));
    let short = load.plan.requests.iter().filter(|r| r.input_tokens <= tokens).count();
    if short > 0 {
        load.warnings.push(format!(
            "{short} prompts are planned no longer than the {tokens} tokens of the chat template: \
             the server receives more"
        ));
    }
    load.prompts = load.prompts.clone().with_template(tokens);
}

/// Returns the number of tokens that the server counts beyond those that were sent.
async fn measure(
    client: &Client,
    template: &BodyTemplate,
    identity: &Identity,
    load: &Load,
) -> Result<u32, String> {
    // No prompt of the plan has this block, so the request caches nothing of the plan.
    let number = u32::try_from(load.plan.origin.blocks).unwrap_or(u32::MAX);
    let request = PlannedRequest {
        intended_ns: 0,
        session: None,
        turn: 0,
        think_ns: 0,
        phase: Phase::Warmup,
        input_tokens: PROBE_TOKENS,
        output_tokens: 1,
        blocks: vec![Block { number, tokens: PROBE_TOKENS, id: u64::MAX }],
    };
    let prompt = load.prompts.prompt(&request).map_err(|e| e.to_string())?;
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
    let added = counted.checked_sub(u64::from(PROBE_TOKENS));
    added
        .and_then(|added| u32::try_from(added).ok())
        .ok_or_else(|| format!("the server counts {counted} tokens in a prompt of {PROBE_TOKENS}"))
}
