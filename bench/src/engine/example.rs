//! An invented result, for the tests of reports.

use jiff::Timestamp;
use kernels::Peak;
use modelfile::{Family, ModelSpec, RopePairs};

use super::cases::{Case, Contender, Samples};
use super::cost::Weights;
use super::machine::Resident;
use super::report::{Machine, Report};

/// Returns the matrices of an invented file.
pub(super) fn weights() -> Weights {
    Weights {
        layer_bytes: 600.0,
        layer_values: 1000.0,
        head_bytes: 272.0,
        head_values: 256.0,
        embedding_bytes: 1.0625,
    }
}

/// Returns the shape of a small model.
pub(super) fn spec() -> ModelSpec {
    ModelSpec {
        family: Family::Llama,
        layers: 2,
        hidden: 8,
        heads: 4,
        kv_heads: 2,
        head_dim: 4,
        ffn: 16,
        vocab: 32,
        context_tokens: 4096,
        rope_theta: 1e4,
        rope_factors: None,
        rope_pairs: RopePairs::Halves,
        rms_eps: 1e-5,
        tied_embeddings: true,
        window: None,
        qkv_bias: false,
        head_norms: false,
    }
}

/// Returns two rounds of all cases, with Tandem ahead of both peers.
pub(super) fn report() -> Report {
    let peers = vec![Contender::Same, Contender::Requantized];
    let mut samples = Samples::default();
    for case in Case::FULL {
        let rate = if case.is_prefill() { 2000.0 } else { 70.0 * (1 + case.size()) as f64 };
        for round in 0..2 {
            let rate = rate + f64::from(round) * 10.0;
            samples.add(case, Contender::Ours, rate);
            samples.add(case, Contender::Same, rate / 4.0);
            samples.add(case, Contender::Requantized, rate / 2.0);
        }
    }
    Report {
        cases: Case::FULL.to_vec(),
        samples,
        peers,
        weights: weights(),
        spec: spec(),
        chunk: 512,
        machine: Machine {
            cpu: "Some & Other <CPU>".to_owned(),
            cores: 2,
            threads: 2,
            device: "cpu".to_owned(),
            isa: Some("avx2".to_owned()),
            activations: Some("int8".to_owned()),
            file: ("model.gguf".to_owned(), 98 << 20),
            peak: Some(Peak { int8_operations: 900e9, f32_operations: 230e9, memory_bytes: 28e9 }),
            loaded: Some(Resident { bytes: 100 << 20, peak_bytes: 101 << 20 }),
            ended: Some(Resident { bytes: 120 << 20, peak_bytes: 130 << 20 }),
            peer: Some("b1".to_owned()),
            peer_peak_bytes: Some(200 << 20),
            rounds: 2,
            measured_at: Timestamp::constant(1_795_510_000, 0),
            ..Machine::default()
        },
    }
}
