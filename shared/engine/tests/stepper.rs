//! The step loop with a model that computes nothing: its next token depends on all tokens so far,
//! read back from the pages that the loop gave it, so that a wrong page is a wrong answer.

#![allow(clippy::unwrap_used, reason = "what helps a test may fail like a test")]

use std::collections::BTreeMap;
use std::time::Duration;

use engine::compute::ComputeError;
use engine::stepper::unix_ms;
use engine::{BlockEvent, Compute, Engine, Extras, Loaded, StepEvent};
use model::{BatchSequence, StepOutput, Wanted};
use protocol::{
    Attempt, ErrorClass, FileDigest, Finish, ModelFingerprint, RequestId, RequestKey, Sampling,
    Scope, Stopping,
};
use scheduling::planner::{Limits, Planner};
use scheduling::sequence::{NewSequence, Part};

const VOCABULARY: usize = 101;
const LIMIT: Duration = Duration::from_secs(20);

/// Keeps the tokens themselves as "KV".
struct Tape {
    pages: Vec<[u32; 16]>,
    fail: bool,
}

fn next_token(tokens: impl Iterator<Item = u32>) -> u32 {
    1 + tokens.fold(17u32, |hash, token| hash.wrapping_mul(31).wrapping_add(token)) % 97
}

impl Compute for Tape {
    fn forward(
        &mut self,
        batch: &[BatchSequence<'_>],
        out: &mut StepOutput,
    ) -> Result<(), ComputeError> {
        out.clear(VOCABULARY);
        if self.fail {
            return Err(ComputeError("out of order".into()));
        }
        for row in batch {
            let mut rows = 0;
            for (offset, token) in row.tokens.iter().enumerate() {
                let at = row.position + offset;
                self.pages[row.pages[at / 16] as usize][at % 16] = *token;
                let wanted = match row.logits {
                    Wanted::None => false,
                    Wanted::Top(_) | Wanted::Last => offset + 1 == row.tokens.len(),
                    Wanted::All => true,
                };
                if wanted {
                    let seen = (0..=at).map(|at| self.pages[row.pages[at / 16] as usize][at % 16]);
                    out.push_whole()[next_token(seen) as usize] = 9.0;
                    rows += 1;
                }
            }
            out.end_sequence(rows);
        }
        Ok(())
    }

    fn export_block(&mut self, page: u32, filled: u32) -> Result<Vec<u8>, ComputeError> {
        let tokens = self.pages[page as usize].iter().enumerate();
        let kept = tokens.map(|(at, token)| if at < filled as usize { *token } else { 0 });
        Ok(kept.flat_map(u32::to_le_bytes).collect())
    }

    fn import_block(&mut self, page: u32, bytes: &[u8]) -> Result<(), ComputeError> {
        for (token, bytes) in self.pages[page as usize].iter_mut().zip(bytes.chunks_exact(4)) {
            *token = u32::from_le_bytes(bytes.try_into().expect("four bytes"));
        }
        Ok(())
    }
}

fn engine(pages: u32, fail: bool) -> Engine<()> {
    let limits = Limits {
        context_tokens: 256,
        step_tokens: 24,
        prefill_share: 0.5,
        sequences_max: 8,
        queue_max: 32,
        lease_ms: 60_000,
    };
    let fingerprint = ModelFingerprint::new(FileDigest([1; 32]), "tape");
    engine::stepper::start(move || {
        Ok(Loaded {
            compute: Tape { pages: vec![[0; 16]; pages as usize], fail },
            planner: Planner::new(limits, fingerprint, pages),
            blocks_max: 64,
            info: (),
        })
    })
    .unwrap()
}

fn key(id: u128) -> RequestKey {
    RequestKey { request: RequestId(id), attempt: Attempt(0) }
}

fn sequence(id: u128, part: Part, prompt: Vec<u32>, max_tokens: u32) -> NewSequence {
    NewSequence {
        key: key(id),
        part,
        prompt,
        output: Vec::new(),
        stopping: Stopping { max_tokens, min_tokens: 0, stop_tokens: vec![0] },
        scope: Scope::shared(),
        score_prompt: false,
        deadline_ms: u64::MAX,
    }
}

fn greedy() -> Extras {
    Extras::new(Sampling { temperature: 0.0, ..Sampling::default() }, None, None)
}

fn alone(prompt: &[u32], max_tokens: usize) -> Vec<u32> {
    let mut tokens = prompt.to_vec();
    for _ in 0..max_tokens {
        tokens.push(next_token(tokens.iter().copied()));
    }
    tokens.split_off(prompt.len())
}

#[tokio::test]
async fn sequences_in_company_say_what_they_say_alone() {
    // Few pages, so that some are preempted on the way.
    let Engine { handle, mut steps, blocks: _blocks, thread, .. } = engine(14, false);
    let mut expected = BTreeMap::new();
    for id in 0..6u128 {
        let prompt: Vec<u32> = (0..10 + 7 * id as u32).map(|at| 1 + at % 9).collect();
        expected.insert(key(id), alone(&prompt, 30));
        handle.submit(sequence(id, Part::Whole, prompt, 30), greedy(), unix_ms()).unwrap();
    }
    let mut said: BTreeMap<RequestKey, Vec<u32>> = BTreeMap::new();
    let mut finished = 0;
    while finished < 6 {
        for event in tokio::time::timeout(LIMIT, steps.recv()).await.unwrap().unwrap() {
            match event {
                StepEvent::Admitted { admitted, .. } => {
                    let tokens = admitted.first_block * 16;
                    handle.fetched(admitted.key, tokens).await.unwrap();
                }
                StepEvent::Token { key, index, token, finish, .. } => {
                    let output = said.entry(key).or_default();
                    assert_eq!(index as usize, output.len());
                    output.extend(token);
                    finished += usize::from(finish == Some(Finish::Length));
                }
                StepEvent::Failed { refusal, .. } => panic!("{refusal}"),
            }
        }
    }
    assert_eq!(said, expected);
    let (pool, load, _) = handle.report();
    assert!(0 < load.preempted, "nothing was preempted: the test is too easy");
    assert_eq!((pool.leased, pool.leaked), (0, 0));
    drop(handle);
    thread.join().unwrap();
}

#[tokio::test]
async fn blocks_carry_a_prompt_from_one_engine_to_another() {
    let prompt: Vec<u32> = (1..=40).collect();
    let mut prefill = engine(8, false);
    prefill
        .handle
        .submit(sequence(1, Part::Prefill, prompt.clone(), 9), greedy(), unix_ms())
        .unwrap();
    let mut first = None;
    while first.is_none() {
        for event in tokio::time::timeout(LIMIT, prefill.steps.recv()).await.unwrap().unwrap() {
            match event {
                StepEvent::Admitted { .. } => prefill.handle.fetched(key(1), 0).await.unwrap(),
                StepEvent::Token { token, .. } => first = token,
                StepEvent::Failed { refusal, .. } => panic!("{refusal}"),
            }
        }
    }
    let mut bodies = BTreeMap::new();
    loop {
        match tokio::time::timeout(LIMIT, prefill.blocks.recv()).await.unwrap().unwrap() {
            BlockEvent::Sealed { name, bytes, .. } => drop(bodies.insert(name, bytes)),
            BlockEvent::Unstored { name, .. } => panic!("{name} was not exported"),
            BlockEvent::Complete { .. } => break,
        }
    }
    assert_eq!(prefill.handle.report().0.leased, 0, "prefill has let go");

    let mut decode = engine(8, false);
    decode
        .handle
        .submit(sequence(1, Part::Decode, prompt.clone(), 9), greedy(), unix_ms())
        .unwrap();
    let mut said = vec![first.unwrap()];
    while said.len() < 9 {
        for event in tokio::time::timeout(LIMIT, decode.steps.recv()).await.unwrap().unwrap() {
            match event {
                StepEvent::Admitted { admitted, .. } => {
                    assert_eq!(admitted.missing.len(), 3);
                    for (block, name) in admitted.missing.iter().enumerate() {
                        let bytes = bodies[name].to_vec();
                        decode.handle.import(key(1), block, bytes).await.unwrap();
                    }
                    decode.handle.fetched(key(1), 40).await.unwrap();
                    decode.handle.first_token(key(1), said[0]).await.unwrap();
                }
                StepEvent::Token { token, index, .. } => {
                    assert_eq!(index as usize, said.len());
                    said.extend(token);
                }
                StepEvent::Failed { refusal, .. } => panic!("{refusal}"),
            }
        }
    }
    assert_eq!(said, alone(&prompt, 9));
}

#[tokio::test]
async fn a_failing_step_is_told_and_frees_everything() {
    let mut broken = engine(8, true);
    broken.handle.submit(sequence(1, Part::Whole, vec![1; 20], 9), greedy(), unix_ms()).unwrap();
    loop {
        let events = tokio::time::timeout(LIMIT, broken.steps.recv()).await.unwrap().unwrap();
        for event in events {
            match event {
                StepEvent::Admitted { .. } => broken.handle.fetched(key(1), 0).await.unwrap(),
                StepEvent::Failed { refusal, .. } => {
                    assert_eq!(refusal.class, ErrorClass::Retry);
                    assert!(refusal.message.contains("out of order"), "{refusal}");
                    let (pool, ..) = broken.handle.report();
                    assert_eq!((pool.leased, pool.leaked), (0, 0));
                    return;
                }
                StepEvent::Token { .. } => panic!("a token of a broken model"),
            }
        }
    }
}

#[tokio::test]
async fn what_is_cancelled_goes_silent_and_free() {
    let mut engine = engine(8, false);
    engine.handle.submit(sequence(1, Part::Whole, vec![1; 20], 200), greedy(), unix_ms()).unwrap();
    let mut tokens = 0;
    while tokens < 3 {
        for event in tokio::time::timeout(LIMIT, engine.steps.recv()).await.unwrap().unwrap() {
            match event {
                StepEvent::Admitted { .. } => engine.handle.fetched(key(1), 0).await.unwrap(),
                StepEvent::Token { .. } => tokens += 1,
                StepEvent::Failed { refusal, .. } => panic!("{refusal}"),
            }
        }
    }
    assert!(engine.handle.cancel(&key(1)));
    assert!(!engine.handle.cancel(&key(1)));
    assert_eq!(engine.handle.report().0.leased, 0);
    assert_eq!(engine.handle.keep(&[key(1)], unix_ms()), [key(1)]);
}
