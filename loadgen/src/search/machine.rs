//! The choice of the next rate: doubling, halving, bisection, confirmation. Pure: probes in, next
//! step out.

use crate::report::search::{Judgement, Outcome, Probe, Space};

/// Number of confirmations before the search ends with an unconfirmed result.
const CONFIRMATIONS: usize = 4;

/// Next step of a search.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Try this rate.
    Try(f64),
    /// Confirm this rate with a longer run and other arrivals.
    Confirm(f64),
    /// End.
    Done(Outcome),
}

/// Returns the next step after `probes`.
pub fn next(space: &Space, probes: &[Probe]) -> Step {
    if let Some(step) = generator_fault(probes) {
        return step;
    }
    let Bracket { held, missed } = Bracket::of(probes);
    if probes.len() >= space.probes {
        let confirmed = held.is_some_and(|rate| is_confirmed(probes, rate));
        return Step::Done(match (held, missed) {
            (Some(rate), Some(_)) if confirmed => Outcome::Found { rate, confirmed },
            (held, _) => Outcome::OutOfProbes { held },
        });
    }
    match (held, missed) {
        (None, None) => Step::Try(space.start),
        (Some(held), None) if held >= space.highest => {
            Step::Done(Outcome::HeldAtHighest { rate: held })
        }
        (Some(held), None) => Step::Try((2.0 * held).min(space.highest)),
        (None, Some(missed)) if missed <= space.lowest => {
            Step::Done(Outcome::MissedAtLowest { rate: missed })
        }
        (None, Some(missed)) => Step::Try((missed / 2.0).max(space.lowest)),
        (Some(held), Some(missed)) if missed / held > 1.0 + space.precision => {
            Step::Try(rounded((held * missed).sqrt()))
        }
        (Some(rate), Some(_)) => {
            let confirmed = is_confirmed(probes, rate);
            let tries = probes.iter().filter(|probe| probe.confirming).count();
            if confirmed || tries >= CONFIRMATIONS {
                Step::Done(Outcome::Found { rate, confirmed })
            } else {
                Step::Confirm(rate)
            }
        }
    }
}

/// Rounds a rate to four significant digits, for people to type.
fn rounded(rate: f64) -> f64 {
    let scale = 10_f64.powf(3.0 - rate.log10().floor());
    (rate * scale).round() / scale
}

/// Retries a rate that the generator failed at once, then ends the search.
fn generator_fault(probes: &[Probe]) -> Option<Step> {
    let last = probes.last().filter(|probe| probe.judgement == Judgement::Invalid)?;
    let before = probes.len().checked_sub(2).map(|place| &probes[place]);
    let again = before
        .is_some_and(|probe| probe.judgement == Judgement::Invalid && probe.rate == last.rate);
    Some(if again {
        let held = Bracket::of(probes).held;
        Step::Done(Outcome::GeneratorLimited { rate: last.rate, held, why: last.why.clone() })
    } else if last.confirming {
        Step::Confirm(last.rate)
    } else {
        Step::Try(last.rate)
    })
}

fn is_confirmed(probes: &[Probe], rate: f64) -> bool {
    let mut at = probes.iter().filter(|probe| probe.rate == rate && probe.confirming);
    at.next_back().is_some_and(|probe| probe.judgement == Judgement::Held)
}

/// The rates between which the capacity lies.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Bracket {
    /// Highest held rate below every missed one.
    held: Option<f64>,
    /// Lowest missed rate.
    missed: Option<f64>,
}

impl Bracket {
    /// Derives the bracket. The last result of a rate counts, so a confirmation overrules.
    fn of(probes: &[Probe]) -> Self {
        let judged = |judgement| {
            let latest = probes.iter().filter(move |probe| {
                probes
                    .iter()
                    .rfind(|other| {
                        other.rate == probe.rate && other.judgement != Judgement::Invalid
                    })
                    .is_some_and(|last| std::ptr::eq(last, *probe))
            });
            latest.filter(move |probe| probe.judgement == judgement).map(|probe| probe.rate)
        };
        let missed = judged(Judgement::Missed).min_by(f64::total_cmp);
        let held = judged(Judgement::Held)
            .filter(|rate| missed.is_none_or(|missed| *rate < missed))
            .max_by(f64::total_cmp);
        Self { held, missed }
    }
}

/// Returns the interval of the capacity: from the highest rate that was certainly held and below
/// which no rate was missed, to the lowest one that was certainly missed. An end is `None` if no
/// probe was certain.
pub fn interval(probes: &[Probe]) -> (Option<f64>, Option<f64>) {
    let sure = |judgement| {
        probes
            .iter()
            .filter(move |probe| probe.sure && probe.judgement == judgement)
            .map(|probe| probe.rate)
    };
    let missed = Bracket::of(probes).missed;
    let low = sure(Judgement::Held)
        .filter(|rate| missed.is_none_or(|missed| *rate < missed))
        .max_by(f64::total_cmp);
    (low, sure(Judgement::Missed).min_by(f64::total_cmp))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPACE: Space =
        Space { start: 4.0, lowest: 0.5, highest: 64.0, precision: 0.05, probes: 40 };

    fn probe(rate: f64, judgement: Judgement, confirming: bool) -> Probe {
        Probe {
            rate,
            requests: 100,
            judgement,
            sure: true,
            confirming,
            attained: Vec::new(),
            ttft_ms: (None, None),
            why: "because".to_owned(),
        }
    }

    /// Searches with a server that holds rates up to a capacity.
    fn search(space: Space, judge: impl Fn(f64, usize) -> Judgement) -> (Outcome, Vec<Probe>) {
        let mut probes = Vec::new();
        loop {
            let (rate, confirming) = match next(&space, &probes) {
                Step::Try(rate) => (rate, false),
                Step::Confirm(rate) => (rate, true),
                Step::Done(outcome) => return (outcome, probes),
            };
            probes.push(probe(rate, judge(rate, probes.len()), confirming));
        }
    }

    fn up_to(capacity: f64) -> impl Fn(f64, usize) -> Judgement {
        move |rate, _| if rate <= capacity { Judgement::Held } else { Judgement::Missed }
    }

    #[test]
    fn a_capacity_anywhere_in_the_space_is_found_and_confirmed() {
        for capacity in [0.6, 3.0, 4.0, 17.3, 63.0] {
            let (outcome, probes) = search(SPACE, up_to(capacity));
            let Outcome::Found { rate, confirmed: true } = outcome else { panic!("{outcome:?}") };
            assert!(rate <= capacity && capacity <= rate * 1.05, "{capacity}: {rate}");
            assert!(probes.len() <= 14, "{capacity}: {} probes", probes.len());
            let (low, high) = interval(&probes);
            assert!(low.unwrap() <= capacity && capacity < high.unwrap());
        }
    }

    #[test]
    fn the_ends_of_the_space_are_said_to_be_ends() {
        assert_eq!(search(SPACE, up_to(0.1)).0, Outcome::MissedAtLowest { rate: 0.5 });
        assert_eq!(search(SPACE, up_to(1e9)).0, Outcome::HeldAtHighest { rate: 64.0 });
    }

    #[test]
    fn nothing_is_concluded_from_a_generator_at_fault() {
        // The generator fails above 20. Two failures at one rate end the search with the held rate.
        let (outcome, probes) =
            search(SPACE, |rate, _| if rate > 20.0 { Judgement::Invalid } else { Judgement::Held });
        let Outcome::GeneratorLimited { rate, held, .. } = outcome else { panic!("{outcome:?}") };
        assert_eq!((rate, held, probes.len()), (32.0, Some(16.0), 5));
        // A single fault does not count.
        let (outcome, _) =
            search(
                SPACE,
                |rate, place| {
                    if place == 2 { Judgement::Invalid } else { up_to(10.0)(rate, place) }
                },
            );
        assert!(matches!(outcome, Outcome::Found { confirmed: true, .. }));
    }

    #[test]
    fn a_confirmation_that_misses_sends_the_search_down() {
        // Short probes are too optimistic: only a confirmation finds the limit of 12.
        let mut probes: Vec<Probe> = Vec::new();
        let outcome = loop {
            let (rate, confirming) = match next(&SPACE, &probes) {
                Step::Try(rate) => (rate, false),
                Step::Confirm(rate) => (rate, true),
                Step::Done(outcome) => break outcome,
            };
            let limit = if confirming { 12.0 } else { 12.9 };
            probes.push(probe(rate, up_to(limit)(rate, 0), confirming));
        };
        let Outcome::Found { rate, confirmed: true } = outcome else { panic!("{outcome:?}") };
        assert!((11.0..=12.0).contains(&rate), "{rate}");
        // A rate that a confirmation missed was not certainly held, whatever the short probe found.
        let (low, high) = interval(&probes);
        assert!(low.unwrap() <= 12.0 && high.unwrap() > 12.0, "{low:?} {high:?}");
    }

    #[test]
    fn probes_are_limited() {
        let space = Space { probes: 3, ..SPACE };
        let (outcome, probes) = search(space, up_to(1e9));
        assert_eq!((outcome, probes.len()), (Outcome::OutOfProbes { held: Some(16.0) }, 3));
    }
}
