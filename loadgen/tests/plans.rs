//! Plans of command lines, without a server.

#![allow(clippy::unwrap_used, reason = "what helps a test may fail like a test")]

use std::path::{Path, PathBuf};

use clap::Parser;
use loadgen::cli::{Cli, Command};
use loadgen::plan::body::Endpoint;
use loadgen::plan::workload::{self, Load, ServerLimits};
use loadgen::plan::{Phase, Plan, PlannedRequest, Turns, ideal_hits};

fn fixture(name: &str) -> String {
    let path: PathBuf =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/traces/tests").join(name);
    path.to_str().unwrap().to_owned()
}

fn load(arguments: &str) -> anyhow::Result<Load> {
    let words = ["loadgen", "run"].into_iter().chain(arguments.split_whitespace());
    let Command::Run(args) = Cli::try_parse_from(words)?.command else { panic!("not a run") };
    let limits = ServerLimits { context_tokens: Some(1 << 20), vocabulary: Some(2_000) };
    workload::build(&args.load, &args.replay, Endpoint::Completions, limits)
}

fn plan(arguments: &str) -> Plan {
    load(arguments).unwrap().plan
}

fn refused(arguments: &str) -> String {
    load(arguments).map(|_| ()).expect_err(arguments).to_string()
}

fn bytes(plan: &Plan) -> Vec<u8> {
    let mut out = Vec::new();
    plan.write(&mut out).unwrap();
    out
}

#[test]
fn every_process_draws_its_rate_and_follows_the_seed() {
    for process in [
        "--arrivals poisson",
        "--arrivals constant",
        "--arrivals gamma --cv 2",
        "--arrivals weibull --shape 0.7",
        "--arrivals on-off --on 500ms --off 1500ms",
        "--arrivals diurnal --period 100s --swing 0.5",
    ] {
        let with = |seed: u32| plan(&format!("--rate 20 --duration 1000s --seed {seed} {process}"));
        let count = with(1).requests.len();
        assert!((17_000..23_000).contains(&count), "{process}: {count}");
        assert_eq!(bytes(&with(1)), bytes(&with(1)), "{process}");
        assert_ne!(bytes(&with(1)), bytes(&with(2)), "{process}");
    }
    assert!(refused("--rate 5 --duration 5s --arrivals gamma --cv 0").contains("out of range"));
    assert!(refused("--rate 5 --duration 5s --arrivals diurnal --swing 2").contains("swing"));
    assert!(refused("--rate 5").contains("--requests or --duration"));
}

#[test]
fn rates_may_come_from_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rates.csv");
    std::fs::write(&path, "start,rate\n0,10\n100,50\n200,0\n").unwrap();
    let plan = plan(&format!("--rate-series {} --arrivals constant", path.display()));
    let early = plan.requests.iter().filter(|r| r.intended_ns < 100_000_000_000).count();
    assert_eq!((early, plan.requests.len()), (1_000, 6_001));
}

#[test]
fn a_schedule_is_replayed_byte_for_byte_with_the_same_prompts() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("schedule.jsonl");
    let excerpt = fixture("data/mooncake_conversation_60s.jsonl");
    for arguments in [
        "--rate 50 --requests 40 --seed 9 --input-tokens 5..90".to_owned(),
        "--users 3 --requests 20 --think-time 2s --seed 4".to_owned(),
        format!("--trace {excerpt} --scale 64 --dequantize poisson --window 12s..40s --seed 3"),
    ] {
        let first = load(&arguments).unwrap();
        std::fs::write(&path, bytes(&first.plan)).unwrap();
        let again = load(&format!("--schedule {}", path.display())).unwrap();
        assert_eq!(bytes(&again.plan), bytes(&first.plan), "{arguments}");
        for (a, b) in first.plan.requests.iter().zip(&again.plan.requests) {
            assert_eq!(first.prompts.tokens(a), again.prompts.tokens(b));
        }
    }
    std::fs::write(&path, "{}\n").unwrap();
    assert!(
        refused(&format!("--schedule {}", path.display())).contains("cannot read the schedule")
    );
}

#[test]
fn prompts_of_a_window_are_those_of_the_whole_trace() {
    let excerpt = fixture("data/mooncake_conversation_60s.jsonl");
    let whole = load(&format!("--trace {excerpt} --scale 64")).unwrap();
    let piece = load(&format!("--trace {excerpt} --scale 64 --window 30s..")).unwrap();
    let skipped = whole.plan.requests.len() - piece.plan.requests.len();
    assert!(skipped > 50);
    for (a, b) in whole.plan.requests[skipped..].iter().zip(&piece.plan.requests) {
        assert_eq!(whole.prompts.tokens(a), piece.prompts.tokens(b));
    }
}

#[test]
fn a_closed_loop_needs_an_end() {
    let plan = plan("--users 4 --requests 40 --think-time 1s --think constant --duration 30s");
    assert_eq!((plan.turns, plan.until_ns), (Turns::AfterPrevious, Some(30_000_000_000)));
    assert_eq!(plan.requests.iter().filter(|r| r.turn == 0).count(), 4);
    assert!(Cli::try_parse_from(["loadgen", "run", "--users", "4"]).is_err());
    assert!(Cli::try_parse_from(["loadgen", "run", "--users", "4", "--rate", "1"]).is_err());
}

#[test]
fn sessions_are_replayed_with_their_turns_and_think_times() {
    let weka = fixture("fixtures/weka");
    let plan = plan(&format!("--trace {weka} --turns after-previous --speedup 2 --session-rate 1"));
    assert_eq!(plan.turns, Turns::AfterPrevious);
    let turns = |session: u32| -> Vec<&PlannedRequest> {
        plan.requests.iter().filter(|r| r.session == Some(session)).collect()
    };
    let thinking: Vec<i64> = turns(0).iter().map(|r| r.think_ns).collect();
    assert_eq!(thinking, [0, 750_000_000, 6_000_000_000]);
    let starts: Vec<i64> = (0..3).map(|session| turns(session)[0].intended_ns).collect();
    assert_ne!((starts[0], starts[1]), (starts[1], starts[2]));
    assert!(plan.requests.is_sorted_by_key(|r| r.intended_ns));
}

#[test]
fn a_trace_without_times_needs_a_rate_and_turns_that_wait() {
    let texts = fixture("fixtures/sharegpt.json");
    assert!(refused(&format!("--trace {texts}")).contains("give --session-rate"));
    let open = refused(&format!("--trace {texts} --session-rate 2"));
    assert!(open.contains("--turns after-previous"), "{open}");
    let load = load(&format!("--trace {texts} --session-rate 2 --turns after-previous")).unwrap();
    assert_eq!(load.plan.requests.len(), 3);
    assert!(load.warnings.iter().any(|warning| warning.contains("estimated")));
    let prompts = fixture("fixtures/vllm_custom.jsonl");
    assert_eq!(plan(&format!("--trace {prompts} --session-rate 2")).requests.len(), 2);
}

#[test]
fn requests_before_the_window_fill_the_cache_and_are_not_measured() {
    let excerpt = fixture("data/mooncake_conversation_60s.jsonl");
    let cold = plan(&format!("--trace {excerpt} --scale 64 --window 30s..60s"));
    let warm = plan(&format!(
        "--trace {excerpt} --scale 64 --window 30s..60s --prefill-cache-from 0s --speedup 10"
    ));
    let measured: Vec<&PlannedRequest> =
        warm.requests.iter().filter(|r| r.phase == Phase::Measured).collect();
    assert_eq!(measured.len(), cold.requests.len());
    assert!(measured.iter().zip(&cold.requests).all(|(a, b)| a.blocks == b.blocks));
    assert_eq!(measured[0].intended_ns, 3_000_000_000);
    let hit = |plan: &Plan| ideal_hits(&plan.requests, 8).token_hit;
    assert!(hit(&warm) > hit(&cold), "{} {}", hit(&warm), hit(&cold));
    let late = format!("--trace {excerpt} --window 30s..60s --prefill-cache-from 30s");
    assert!(refused(&late).contains("is not before the window"));
}

#[test]
fn a_coarse_grid_and_a_generator_are_warned_of() {
    let excerpt = fixture("data/mooncake_conversation_60s.jsonl");
    let warned = load(&format!("--trace {excerpt}")).unwrap().warnings;
    assert!(warned.iter().any(|warning| warning.contains("grid of 3s")), "{warned:?}");
    let spread = load(&format!("--trace {excerpt} --dequantize uniform")).unwrap().warnings;
    assert!(spread.is_empty(), "{spread:?}");
    let clients = fixture("fixtures/servegen");
    let drawn = load(&format!("--trace {clients} --window 100s..160s --seed 5")).unwrap();
    assert!((100..260).contains(&drawn.plan.requests.len()), "{}", drawn.plan.requests.len());
    assert!(drawn.warnings.iter().any(|warning| warning.contains("drawn with seed 5")));
}

#[test]
fn oddities_of_a_trace_are_warnings_or_refused() {
    let ragpulse = fixture("fixtures/ragpulse");
    let warned = load(&format!("--trace {ragpulse}")).unwrap().warnings;
    assert!(warned.iter().any(|w| w == "1 record out of order, sorted (0_trace.jsonl, line 3)"));
    assert!(refused(&format!("--trace {ragpulse} --strict")).contains("0_trace.jsonl, line 3"));
}

#[test]
fn a_small_vocabulary_bounds_the_token_ids_unless_they_were_given() {
    let note = |arguments: &str| load(arguments).unwrap().prompt_note;
    assert_eq!(note("--rate 5 --requests 3"), "token ids from 250..2000, exact");
    assert_eq!(note("--rate 5 --requests 3 --token-ids 7..90"), "token ids from 7..90, exact");
}
