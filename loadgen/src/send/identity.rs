//! Ids of a run and its requests: run id, `x-request-id`, W3C trace context.

use protocol::{Traceparent, hex};

/// Ids of one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestIds {
    /// Value of `x-request-id`.
    pub request_id: String,
    /// Trace id inside `traceparent`.
    pub trace_id: String,
    /// Value of `traceparent`.
    pub traceparent: String,
}

/// The identity of a run: a random number that all ids derive from, so that no two runs share a
/// trace.
#[derive(Clone, Debug)]
pub struct Identity {
    nonce: [u8; 32],
    trace_ratio: f64,
}

impl Identity {
    /// Creates an identity. A share `trace_ratio` of its requests has the sampled flag.
    pub fn random(trace_ratio: f64) -> Self {
        Self { nonce: rand::random(), trace_ratio }
    }

    /// Returns the id of the run.
    pub fn run_id(&self) -> String {
        hex(&self.nonce[..4])
    }

    /// Returns the ids of the request at `index`.
    pub fn of(&self, index: usize) -> RequestIds {
        let digest = blake3::keyed_hash(&self.nonce, &(index as u64).to_le_bytes());
        let bytes = digest.as_bytes();
        let draw = u32::from_le_bytes([bytes[24], bytes[25], bytes[26], bytes[27]]);
        let sampled = f64::from(draw) < self.trace_ratio * 4_294_967_296.0;
        let traceparent = Traceparent {
            trace_id: std::array::from_fn(|at| bytes[at]),
            parent_id: std::array::from_fn(|at| bytes[16 + at]),
            flags: u8::from(sampled),
        };
        RequestIds {
            request_id: format!("loadgen-{}-{index}", self.run_id()),
            trace_id: hex(&traceparent.trace_id),
            traceparent: traceparent.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_well_formed_and_differ_between_requests_and_runs() {
        let (one, two) = (Identity::random(1.0), Identity::random(1.0));
        let ids = one.of(7);
        assert_eq!(ids.traceparent.len(), 55);
        assert!(ids.traceparent.starts_with(&format!("00-{}-", ids.trace_id)));
        assert!(ids.traceparent.ends_with("-01"));
        assert_eq!(one.of(7), ids);
        assert_ne!(one.of(8).trace_id, ids.trace_id);
        assert_ne!(two.of(7).trace_id, ids.trace_id);
    }

    #[test]
    fn the_sampled_part_is_the_ratio() {
        let sampled = |ratio: f64| {
            let identity = Identity { nonce: [5; 32], trace_ratio: ratio };
            (0..4000).filter(|i| identity.of(*i).traceparent.ends_with("-01")).count()
        };
        assert_eq!(sampled(0.0), 0);
        assert_eq!(sampled(1.0), 4000);
        assert!((900..1100).contains(&sampled(0.25)), "{}", sampled(0.25));
    }
}
