//! The bytes of every message on the wire. A change here breaks workers and gateways of different
//! versions that share a bus: change the version in the subjects with it.

#![allow(clippy::unwrap_used, reason = "what helps a test may fail like a test")]

use std::fmt::Write as _;

use protocol::control::MissedReply;
use protocol::store::Discard;
use protocol::*;
use serde::Serialize;
use serde::de::DeserializeOwned;

fn key() -> RequestKey {
    RequestKey { request: RequestId(0x0102), attempt: Attempt(3) }
}

fn worker() -> WorkerId {
    "prefill-1".parse().unwrap()
}

fn job() -> Job {
    Job {
        key: key(),
        deadline_ms: 1_700_000_000_000,
        sent_us: 1_600_000_000_000_000,
        gateway: "gw".parse().unwrap(),
        leg: Leg::Prefill { decode: "decode-1".parse().unwrap() },
        prompt: vec![1, 200, 70_000],
        output: vec![9],
        sampling: Sampling { logit_bias: vec![(7, -1.5)], ..Sampling::default() },
        stopping: Stopping { max_tokens: 16, min_tokens: 1, stop_tokens: vec![2] },
        top_logprobs: Some(2),
        prompt_logprobs: None,
        scope: Scope::shared(),
        stages: false,
    }
}

fn token() -> TokenEvent {
    TokenEvent {
        key: key(),
        index: 4,
        token: Some(504),
        logprob: Some(TokenLogprob { logprob: -0.5, top: vec![(504, -0.5)] }),
        finish: Some(Finish::Length),
        opening: Some(Box::new(Opening {
            cached_tokens: 32,
            stored_tokens: 16,
            prompt_logprobs: vec![None],
        })),
        sent_us: 5,
        stages: None,
    }
}

fn refusal() -> Refusal {
    Refusal::new(ErrorClass::Overloaded, "64 sequences are waiting")
}

const COST: StepCost = StepCost { step_us: 1.0, item_us: 2.0, pair_us: 3.0, error: 0.5, steps: 4 };

fn state() -> WorkerState {
    WorkerState {
        worker: worker(),
        role: Role::Prefill,
        prefill_share: 1.0,
        step_tokens: 256,
        epoch: 6,
        ready: true,
        draining: false,
        model: "m".into(),
        files: FileDigest([1; 32]),
        fingerprint: fingerprint(),
        context_tokens: 8192,
        device: "cpu".into(),
        queued_sequences: 1,
        queued_tokens: 2,
        queued_pairs: 0,
        running_sequences: 3,
        running_tokens: 0,
        sequences_max: 32,
        pool: PoolState { free: 1, cached: 2, leased: 3, total: 6, leaked: 0 },
        speed: Speed { prefill: COST, decode: StepCost { item_us: 5.0, ..COST } },
        health_address: "127.0.0.1:9090".into(),
    }
}

fn fingerprint() -> ModelFingerprint {
    ModelFingerprint([2; 32])
}

/// Writes a message, checks that it reads back the same, and shows its bytes.
fn show<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(
    into: &mut String,
    name: &str,
    message: &T,
) {
    let bytes = encode(message).unwrap();
    assert_eq!(&decode::<T>(&bytes, 1 << 20).unwrap(), message, "{name}");
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    writeln!(into, "{name} {hex}").unwrap();
}

#[test]
fn golden_bytes() {
    let mut all = String::new();
    let block = BlockHash([7; 16]);
    show(&mut all, "job", &job());
    show(&mut all, "job_with_stages", &Job { stages: true, ..job() });
    show(&mut all, "accepted", &Answer::Accepted);
    show(&mut all, "refused", &Answer::Refused(refusal()));
    let batch = TokenBatch {
        worker: worker(),
        events: vec![
            Event::Token(token()),
            Event::Failed(Failure { key: key(), refusal: refusal() }),
        ],
    };
    show(&mut all, "token_batch", &batch);
    let stages = LegStages { worker: worker(), role: Role::Prefill, admitted_us: 6, fetched_us: 7 };
    let token = TokenEvent { stages: Some(Box::new(stages)), ..token() };
    show(&mut all, "token_with_stages", &Event::Token(token));
    let done = PromptDone {
        key: key(),
        prefill: worker(),
        first_token: Some(1),
        finished: false,
        unstored: vec![block],
    };
    show(&mut all, "prompt_done", &done);
    show(&mut all, "cancel", &Cancel { key: key(), reason: CancelReason::StopString });
    show(&mut all, "acknowledged", &Acknowledged {});
    show(&mut all, "keep", &Keep { keys: vec![key()] });
    show(&mut all, "keep_reply", &KeepReply { unknown: vec![key()] });
    show(&mut all, "missed", &Missed { key: key(), from: 2 });
    show(&mut all, "missed_reply", &MissedReply { events: vec![], known: true });
    show(&mut all, "worker_state", &state());
    let verdicts = TraceVerdicts { keep: vec![[7; 16]], forget: vec![] };
    show(&mut all, "trace_verdicts", &verdicts);
    let fingerprint = fingerprint();
    show(&mut all, "ensure", &Ensure { fingerprint, block_bytes: 368_640 });
    show(&mut all, "store_ready", &StoreReady { stream: "KVB_02".into() });
    let lookup = Lookup { fingerprint, blocks: vec![block], key: key(), lease_ms: 10_000 };
    show(&mut all, "lookup", &lookup);
    show(&mut all, "lookup_reply", &LookupReply { stored: 1 });
    show(&mut all, "release", &Release { fingerprint, key: key() });
    show(&mut all, "discard", &Discard { fingerprint, block });
    show(&mut all, "store_status", &StoreStatus {});
    let status = StoreStatusReply {
        streams: 1,
        blocks: 2,
        bytes: 3,
        leased: 4,
        evicted: 5,
        caught_up: true,
    };
    show(&mut all, "store_status_reply", &status);
    assert_eq!(all, include_str!("golden/messages.txt"), "\n{all}");
}
