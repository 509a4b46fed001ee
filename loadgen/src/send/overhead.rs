//! Measures what the server's chat template adds to a prompt, and leaves room for it.

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

/// Tokens of the prompt that is sent to measure.
const PROBE_TOKENS: u32 = 32;
/// How long the answer may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Makes the prompts of a chat load shorter by what the server's template adds, measured with one
/// request of a known length. What cannot be measured becomes a warning.
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
                       --vocab-tokenizer its tokens cannot be told from those of the words";
        load.warnings.push(warning.to_owned());
        return;
    }
    let tokens = match measure(client, template, identity, load).await {
        Ok(tokens) => tokens,
        Err(reason) => {
            load.warnings.push(format!(
                "what the chat template adds to prompts could not be measured ({reason}): they are \
                 longer than planned"
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
            "{short} prompts are planned no longer than the {tokens} tokens that the chat template \
             adds: the server sees them longer"
        ));
    }
    load.prompts = load.prompts.clone().with_template(tokens);
}

/// Tokens that the server counts beyond those that were sent.
async fn measure(
    client: &Client,
    template: &BodyTemplate,
    identity: &Identity,
    load: &Load,
) -> Result<u32, String> {
    // A block that no prompt of the plan has, so that nothing of the plan is cached by it.
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
