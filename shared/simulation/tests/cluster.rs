//! Whole clusters under load and faults: nothing is lost, nothing leaks, nothing differs.

use std::ops::Range;

use proptest::prelude::*;
use protocol::{ErrorClass, Role};
use scheduling::route::Disaggregate;
use simulation::{Cluster, End, Fault, Load, Network, Outcome};
use testbed::Extent;

/// Returns the seeds of `count` clusters, of which the representative extent tries a quarter.
fn seeds(count: u64) -> Range<u64> {
    0..Extent::from_env().pick(count / 4, count)
}

/// Checks what holds whatever goes wrong: every request ends, no token is wrong, no page is held.
fn check(end: &End, seed: u64) {
    assert_eq!(end.lost(), 0, "seed {seed}: requests that never ended");
    assert_eq!(end.wrong, [0; 0], "seed {seed}: requests with other tokens");
    assert!(end.at_rest(), "seed {seed}: pages held at rest: {:?}", end.pools);
    let all = end.answered() + end.refused() + end.failed() + end.left();
    assert_eq!(all, end.outcomes.len(), "seed {seed}");
}

fn failures(end: &End) -> Vec<&Outcome> {
    let outcomes = end.outcomes.iter();
    outcomes.filter(|it| !matches!(it, Outcome::Answered | Outcome::Left)).collect()
}

fn hung(end: &End) -> bool {
    end.outcomes.iter().any(|outcome| match outcome {
        Outcome::Failed(refusal) => refusal.class == ErrorClass::Deadline,
        _ => false,
    })
}

#[test]
fn an_undisturbed_cluster_answers_everything() {
    for seed in seeds(50) {
        let cluster = Cluster::seeded(seed).prefill(1).decode(1);
        let end = cluster.offer(Load::poisson(20.0, 5_000)).run_until_quiet();
        check(&end, seed);
        assert_eq!(end.answered(), end.outcomes.len(), "seed {seed}: {:?}", failures(&end));
        assert_eq!(end.retries, 0, "seed {seed}");
        assert!(end.blocks > 0);
    }
}

#[test]
fn no_request_is_lost_when_a_worker_dies() {
    let mut retries = 0;
    for seed in seeds(200) {
        let role = if seed % 2 == 0 { Role::Decode } else { Role::Prefill };
        let cluster = Cluster::seeded(seed).prefill(2).decode(2);
        let cluster = cluster.offer(Load::poisson(20.0, 4_000)).at_ms(2_000, Fault::Kill(role, 0));
        let end = cluster.run_until_quiet();
        check(&end, seed);
        assert_eq!(end.answered(), end.outcomes.len(), "seed {seed}: {:?}", failures(&end));
        retries += end.retries;
    }
    assert!(retries > 0, "no gateway noticed the deaths");
}

#[test]
fn the_last_worker_of_a_role_may_die_and_come_back() {
    for seed in seeds(100) {
        let role = if seed % 2 == 0 { Role::Decode } else { Role::Prefill };
        let cluster = Cluster::seeded(seed).prefill(1).decode(1);
        let end = cluster
            .offer(Load::poisson(15.0, 6_000))
            .at_ms(1_500, Fault::Kill(role, 0))
            .at_ms(3_000 + seed, Fault::Restart(role, 0))
            .run_until_quiet();
        check(&end, seed);
        assert_eq!(end.answered(), end.outcomes.len(), "seed {seed}: {:?}", failures(&end));
    }
}

#[test]
fn with_everybody_dead_every_request_ends_with_an_error() {
    for seed in seeds(50) {
        let cluster = Cluster::seeded(seed).prefill(1).decode(1);
        let end = cluster
            .offer(Load::poisson(20.0, 4_000))
            .at_ms(1_000, Fault::Kill(Role::Decode, 0))
            .at_ms(1_300, Fault::Kill(Role::Prefill, 0))
            .run_until_quiet();
        check(&end, seed);
        assert!(end.refused() + end.failed() > 0, "seed {seed}");
    }
}

#[test]
fn clients_that_leave_free_what_they_held() {
    for seed in seeds(100) {
        let load = Load { leaving: 0.5, ..Load::poisson(20.0, 4_000) };
        let end = Cluster::seeded(seed).prefill(1).decode(2).offer(load).run_until_quiet();
        check(&end, seed);
        assert!(end.left() > 0 && end.answered() > 0, "seed {seed}");
        assert_eq!((end.failed(), end.refused()), (0, 0), "seed {seed}: {:?}", failures(&end));
    }
}

#[test]
fn small_pools_preempt_and_nothing_differs() {
    let mut preemptions = 0;
    for seed in seeds(100) {
        let load = Load { output_tokens_max: 200, ..Load::poisson(15.0, 3_000) };
        let cluster = Cluster::seeded(seed).pages(36).prefill(1).decode(1).offer(load);
        let end = cluster.run_until_quiet();
        check(&end, seed);
        preemptions += end.preemptions;
    }
    assert!(preemptions > 0, "the pools were not small");
}

#[test]
fn requests_that_cannot_be_met_in_time_end_at_their_deadline() {
    for seed in seeds(50) {
        let load = Load { deadline_ms: 400, ..Load::poisson(60.0, 3_000) };
        let end = Cluster::seeded(seed).prefill(1).decode(1).offer(load).run_until_quiet();
        check(&end, seed);
        assert!(end.end_ms < 30_000, "seed {seed}: quiet only after {} ms", end.end_ms);
    }
}

#[test]
fn a_network_that_loses_and_repeats_costs_time_but_no_token() {
    let network = Network { repeated: 0.1, lost: 0.02, ..Network::default() };
    for seed in seeds(100) {
        let load = Load { leaving: 0.1, ..Load::poisson(15.0, 4_000) };
        let cluster = Cluster::seeded(seed).prefill(2).decode(2).network(network).offer(load);
        let end = cluster.run_until_quiet();
        check(&end, seed);
        let most = end.outcomes.len() * 9 / 10;
        assert!(most <= end.answered() + end.left(), "seed {seed}: {:?}", failures(&end));
        assert!(!hung(&end), "seed {seed}: waited until the deadline: {:?}", failures(&end));
    }
}

/// Longer than presence and leases last: the gateway gives the workers up, they give up what they
/// have, and when the network is back everybody works again.
#[test]
fn a_partition_ends_with_leases_and_leaves_nothing_behind() {
    for seed in seeds(50) {
        let cut = Network { lost: 1.0, ..Network::default() };
        let load = Load { output_tokens_max: 300, ..Load::poisson(15.0, 25_000) };
        let end = Cluster::seeded(seed)
            .prefill(1)
            .decode(1)
            .offer(load)
            .at_ms(1_500, Fault::Network(cut))
            .at_ms(12_000, Fault::Network(Network::default()))
            .run_until_quiet();
        check(&end, seed);
        assert!(end.failed() > 0 && end.refused() > 0, "seed {seed}: no one noticed");
        let later = &end.outcomes[end.outcomes.len() * 2 / 3..];
        let well = later.iter().all(|outcome| matches!(outcome, Outcome::Answered));
        assert!(well, "seed {seed}: {:?}", failures(&end));
    }
}

#[test]
fn the_same_seed_gives_the_same_log() {
    let run = |seed| {
        let network = Network { repeated: 0.05, lost: 0.01, ..Network::default() };
        let cluster = Cluster::seeded(seed).prefill(2).decode(2).network(network);
        let cluster = cluster.offer(Load::poisson(20.0, 3_000));
        cluster.at_ms(1_500, Fault::Kill(Role::Decode, 1)).run_until_quiet()
    };
    let (one, again, other) = (run(7), run(7), run(8));
    assert_eq!(one, again);
    assert_ne!(one.log, other.log);
}

fn fault() -> impl Strategy<Value = Fault> {
    let role = || prop_oneof![Just(Role::Prefill), Just(Role::Decode)];
    let network = (0.0..0.05_f64, 0.0..0.2_f64, 1_000_u64..80_000);
    prop_oneof![
        3 => (role(), 0_usize..3).prop_map(|(role, index)| Fault::Kill(role, index)),
        3 => (role(), 0_usize..3).prop_map(|(role, index)| Fault::Restart(role, index)),
        1 => network.prop_map(|(lost, repeated, delay_max_us)| {
            Fault::Network(Network { delay_min_us: 50, delay_max_us, repeated, lost })
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(Extent::from_env().pick(16, 64)))]

    /// Any sequence of deaths, returns and network weather, under any policy.
    #[test]
    fn whatever_happens_everything_ends_right(
        seed in any::<u64>(),
        policy in prop_oneof![
            Just(Disaggregate::Always), Just(Disaggregate::Auto), Just(Disaggregate::Never)
        ],
        pages in 36_u32..256,
        leaving in 0.0..0.3_f64,
        faults in proptest::collection::vec((200_u64..5_000, fault()), 0..8),
    ) {
        let load = Load { leaving, deadline_ms: 20_000, ..Load::poisson(15.0, 4_000) };
        let cluster = Cluster::seeded(seed).pages(pages).prefill(3).decode(3).policy(policy);
        let mut cluster = cluster.offer(load);
        for (at_ms, fault) in faults {
            cluster = cluster.at_ms(at_ms, fault);
        }
        check(&cluster.run_until_quiet(), seed);
    }
}
