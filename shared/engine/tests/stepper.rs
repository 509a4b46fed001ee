//! The step loop on its own thread, as the shell sees it, with a model that computes nothing.

#![allow(clippy::unwrap_used, reason = "what helps a test may fail like a test")]

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use chassis::clock::now_ms;
use engine::stepper::Ends;
use engine::{
    BlockEvent, Engine, EngineHandle, Iteration, Loaded, Report, StepEvent, StepLoop, StepToken,
};
use protocol::{ErrorClass, Finish, RequestKey};
use scheduling::sequence::Part;
use support::{LIMITS, Tape, alone, greedy, key, planner, sequence};
use testbed::eventually;

const LIMIT: Duration = Duration::from_secs(20);

fn engine(pages: u32, fail: bool) -> Engine<()> {
    engine::stepper::start(move || {
        Ok(Loaded {
            compute: Tape { fail, ..Tape::new(pages) },
            planner: planner(LIMITS, pages),
            blocks_max: 64,
            info: (),
        })
    })
    .unwrap()
}

/// Returns the report once steps were made and no page is leased, which the loop publishes a little
/// later.
async fn at_rest(handle: &EngineHandle) -> Arc<Report> {
    eventually("steps were made and no page is leased", async || {
        let report = handle.report();
        report.times.steps + report.times.failed > 0 && report.pool.leased == 0
    })
    .await;
    handle.report()
}

#[tokio::test]
async fn sequences_in_company_say_what_they_say_alone() {
    // Few pages, so that some are preempted on the way.
    let Engine { handle, mut steps, blocks: _blocks, thread, .. } = engine(14, false);
    let mut expected = BTreeMap::new();
    for id in 0..6u128 {
        let prompt: Vec<u32> = (0..10 + 7 * id as u32).map(|at| 1 + at % 9).collect();
        expected.insert(key(id), alone(&prompt, 30));
        handle.submit(sequence(id, Part::Whole, prompt, 30), greedy(), now_ms()).unwrap();
    }
    let mut said: BTreeMap<RequestKey, Vec<u32>> = BTreeMap::new();
    let mut finished = 0;
    while finished < 6 {
        for event in tokio::time::timeout(LIMIT, steps.recv()).await.unwrap().unwrap().drain() {
            match event {
                StepEvent::Admitted { admitted, .. } => {
                    let tokens = admitted.first_block * 16;
                    handle.fetched(admitted.key, tokens).await.unwrap();
                }
                StepEvent::Token(StepToken { key, index, token, finish, .. }) => {
                    let output = said.entry(key).or_default();
                    assert_eq!(index as usize, output.len());
                    output.extend(token);
                    finished += usize::from(finish == Some(Finish::Length));
                }
                StepEvent::Failed { refusal, .. } => panic!("{refusal}"),
                StepEvent::Stepped(step) => panic!("no request is traced, but {step:?}"),
            }
        }
    }
    assert_eq!(said, expected);
    let report = at_rest(&handle).await;
    assert_eq!(report.pool.leaked, 0);
    assert!(report.load.preempted > 0, "nothing was preempted: the test is too easy");
    drop(handle);
    thread.join().unwrap();
}

#[tokio::test]
async fn blocks_carry_a_prompt_from_one_engine_to_another() {
    let prompt: Vec<u32> = (1..=40).collect();
    let mut prefill = engine(8, false);
    prefill
        .handle
        .submit(sequence(1, Part::Prefill, prompt.clone(), 9), greedy(), now_ms())
        .unwrap();
    let mut first = None;
    while first.is_none() {
        for event in
            tokio::time::timeout(LIMIT, prefill.steps.recv()).await.unwrap().unwrap().drain()
        {
            match event {
                StepEvent::Admitted { .. } => prefill.handle.fetched(key(1), 0).await.unwrap(),
                StepEvent::Token(StepToken { token, .. }) => first = token,
                StepEvent::Failed { refusal, .. } => panic!("{refusal}"),
                StepEvent::Stepped(step) => panic!("no request is traced, but {step:?}"),
            }
        }
    }
    let mut bodies = BTreeMap::new();
    loop {
        match tokio::time::timeout(LIMIT, prefill.blocks.recv()).await.unwrap().unwrap() {
            BlockEvent::Sealed { hash, bytes, .. } => drop(bodies.insert(hash, bytes)),
            BlockEvent::Dropped { hash, .. } => panic!("{hash} was not exported"),
            BlockEvent::Complete { .. } => break,
        }
    }
    assert_eq!(at_rest(&prefill.handle).await.pool.leaked, 0, "prefill has let go");

    let mut decode = engine(8, false);
    decode.handle.submit(sequence(1, Part::Decode, prompt.clone(), 9), greedy(), now_ms()).unwrap();
    let mut said = vec![first.unwrap()];
    while said.len() < 9 {
        for event in
            tokio::time::timeout(LIMIT, decode.steps.recv()).await.unwrap().unwrap().drain()
        {
            match event {
                StepEvent::Admitted { admitted, .. } => {
                    assert_eq!(admitted.missing.len(), 3);
                    for (block, hash) in admitted.missing.iter().enumerate() {
                        let bytes = bodies[hash].to_vec();
                        decode.handle.import(key(1), block, bytes).await.unwrap();
                    }
                    decode.handle.fetched(key(1), 40).await.unwrap();
                    decode.handle.first_token(key(1), said[0]).await.unwrap();
                }
                StepEvent::Token(StepToken { token, index, .. }) => {
                    assert_eq!(index as usize, said.len());
                    said.extend(token);
                }
                StepEvent::Failed { refusal, .. } => panic!("{refusal}"),
                StepEvent::Stepped(step) => panic!("no request is traced, but {step:?}"),
            }
        }
    }
    assert_eq!(said, alone(&prompt, 9));
}

#[tokio::test]
async fn a_failing_step_is_reported_and_frees_everything() {
    let mut broken = engine(8, true);
    broken.handle.submit(sequence(1, Part::Whole, vec![1; 20], 9), greedy(), now_ms()).unwrap();
    loop {
        let mut events = tokio::time::timeout(LIMIT, broken.steps.recv()).await.unwrap().unwrap();
        for event in events.drain() {
            match event {
                StepEvent::Admitted { .. } => broken.handle.fetched(key(1), 0).await.unwrap(),
                StepEvent::Failed { refusal, .. } => {
                    assert_eq!(refusal.class, ErrorClass::Retry);
                    assert!(refusal.message.contains("out of order"), "{refusal}");
                    assert_eq!(at_rest(&broken.handle).await.pool.leaked, 0);
                    return;
                }
                StepEvent::Token { .. } => panic!("a token of a broken model"),
                StepEvent::Stepped(step) => panic!("no request is traced, but {step:?}"),
            }
        }
    }
}

#[tokio::test]
async fn what_is_cancelled_goes_silent_and_free() {
    // Turned by hand, so that the sequence is in its midst for certain.
    let (mut step_loop, Ends { handle, mut steps, blocks: _blocks }) =
        StepLoop::new(Tape::new(8), planner(LIMITS, 8), 64);
    handle.submit(sequence(1, Part::Whole, vec![1; 20], 100), greedy(), now_ms()).unwrap();
    assert_eq!(step_loop.iterate(), Iteration::Idle, "its blocks are to be fetched");
    handle.fetched(key(1), 0).await.unwrap();
    for _ in 0..3 {
        assert_eq!(step_loop.iterate(), Iteration::Stepped);
    }
    let counts =
        std::iter::from_fn(|| steps.try_recv().ok()).map(|mut events| events.drain().count());
    assert_eq!(counts.sum::<usize>(), 1 + 3, "admitted, three tokens");

    assert!(handle.cancel(&key(1)));
    assert!(!handle.cancel(&key(1)));
    assert_eq!(handle.renew(&[key(1)], now_ms()), [key(1)]);
    assert_eq!(step_loop.iterate(), Iteration::Idle);
    assert!(steps.try_recv().is_err(), "it says nothing more");
    let pool = step_loop.planner().pool_state();
    assert_eq!((pool.leased, pool.leaked), (0, 0));
}

#[tokio::test]
async fn steps_of_a_traced_sequence_are_reported_before_their_tokens() {
    let (mut step_loop, Ends { handle, mut steps, blocks: _blocks }) =
        StepLoop::new(Tape::new(16), planner(LIMITS, 16), 64);
    let mut sampling_state = greedy();
    sampling_state.traced = true;
    handle.submit(sequence(1, Part::Whole, vec![1; 20], 9), sampling_state, now_ms()).unwrap();
    handle.submit(sequence(2, Part::Whole, vec![2; 20], 9), greedy(), now_ms()).unwrap();
    assert_eq!(step_loop.iterate(), Iteration::Idle, "their blocks are to be fetched");
    for id in [1, 2] {
        handle.fetched(key(id), 0).await.unwrap();
    }
    while step_loop.iterate() == Iteration::Stepped {}
    let mut all = Vec::new();
    while let Ok(mut events) = steps.try_recv() {
        all.extend(events.drain());
    }
    let first = |is: fn(&StepEvent) -> bool| all.iter().position(is).unwrap();
    let stepped = first(|event| matches!(event, StepEvent::Stepped(_)));
    assert!(stepped < first(|event| matches!(event, StepEvent::Token { .. })));
    let StepEvent::Stepped(step) = &all[stepped] else { unreachable!("found as one") };
    assert_eq!(step.keys, [key(1)], "the other one is in it, and not recorded");
    assert!(
        step.prefill_tokens > 0
            && step.forward <= step.time.end.duration_since(step.time.start).unwrap()
    );
}
