//! The `baggage` header, in which a request names the load run that it belongs to.

/// Longest run id that is accepted from a client.
const RUN_ID_BYTES_MAX: usize = 64;
const RUN_ID_KEY: &str = "loadgen.run_id";

/// Returns the load run of a request, if its `baggage` header names one.
pub(crate) fn run_id(baggage: &str) -> Option<&str> {
    let members = baggage.split(',').map(|member| member.split(';').next().unwrap_or_default());
    let mut pairs = members.filter_map(|member| member.split_once('='));
    let (_, id) = pairs.find(|(key, _)| key.trim() == RUN_ID_KEY)?;
    let id = id.trim();
    let is_plain = id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    ((1..=RUN_ID_BYTES_MAX).contains(&id.len()) && is_plain).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_id_is_found_among_other_baggage() {
        assert_eq!(run_id("loadgen.run_id=ab-12"), Some("ab-12"));
        assert_eq!(run_id("user=x;p=1, loadgen.run_id = 7 ;ttl=2"), Some("7"));
        let long = format!("loadgen.run_id={}", "a".repeat(65));
        for bad in ["", "loadgen.run_id", "loadgen.run_id=", "loadgen.run_id=a b", &long] {
            assert_eq!(run_id(bad), None, "{bad}");
        }
    }
}
