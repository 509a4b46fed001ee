//! Quantities with units, as text: durations, windows and ranges.

use std::fmt;
use std::str::FromStr;

/// Nanoseconds in one second.
pub const NS_PER_S: i64 = 1_000_000_000;
/// Nanoseconds in one millisecond.
pub const NS_PER_MS: i64 = 1_000_000;

/// A text that is not a quantity.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    /// The number is missing, negative or too large.
    #[error("{0:?} is not a duration: write a number and one of ns, us, ms, s, m, h")]
    Duration(String),
    /// Not two durations in ascending order.
    #[error("{0:?} is not a window: write FROM..TO, for example 0s..300s, with FROM before TO")]
    Window(String),
    /// Not a whole number, or two in ascending order.
    #[error("{0:?} is not a count or range: write N or LO..HI with LO not above HI")]
    Range(String),
}

/// A duration in nanoseconds, never negative, read from text such as `1.5s`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Nanos(pub i64);

impl FromStr for Nanos {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let bad = || UnitError::Duration(text.to_owned());
        let text = text.trim();
        let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let value: f64 = number.parse().map_err(|_| bad())?;
        let scale = match unit.trim() {
            "ns" => 1.0,
            "us" | "µs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" | "min" => 60e9,
            "h" => 3600e9,
            "" if value == 0.0 => 1.0,
            _ => return Err(bad()),
        };
        let ns = value * scale;
        if !ns.is_finite() || ns > i64::MAX as f64 / 4.0 {
            return Err(bad());
        }
        Ok(Self(ns.round() as i64))
    }
}

impl fmt::Display for Nanos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ns = self.0 as f64;
        match self.0.unsigned_abs() {
            0 => f.write_str("0s"),
            1..1_000 => write!(f, "{}ns", self.0),
            1_000..1_000_000 => write!(f, "{}us", trimmed(ns / 1e3)),
            1_000_000..1_000_000_000 => write!(f, "{}ms", trimmed(ns / 1e6)),
            _ => write!(f, "{}s", trimmed(ns / 1e9)),
        }
    }
}

fn trimmed(value: f64) -> String {
    let text = format!("{value:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// A half-open span of trace time, `from..to`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// First instant of the window.
    pub from: Nanos,
    /// First instant after the window; `None` for the end of the trace.
    pub to: Option<Nanos>,
}

impl FromStr for Window {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let bad = || UnitError::Window(text.to_owned());
        let (from, to) = text.split_once("..").ok_or_else(bad)?;
        let from = if from.is_empty() { Nanos(0) } else { from.parse().map_err(|_| bad())? };
        let to = if to.is_empty() { None } else { Some(to.parse().map_err(|_| bad())?) };
        if to.is_some_and(|to| to <= from) {
            return Err(bad());
        }
        Ok(Self { from, to })
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..", self.from)?;
        self.to.map_or(Ok(()), |to| write!(f, "{to}"))
    }
}

/// A whole number or an inclusive range of them, `128` or `64..256`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// Smallest value.
    pub lo: u32,
    /// Largest value.
    pub hi: u32,
}

impl FromStr for Range {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let bad = |_| UnitError::Range(text.to_owned());
        let (lo, hi) = match text.split_once("..") {
            Some((lo, hi)) => (lo.parse().map_err(bad)?, hi.parse().map_err(bad)?),
            None => {
                let value = text.parse().map_err(bad)?;
                (value, value)
            }
        };
        if lo > hi {
            return Err(UnitError::Range(text.to_owned()));
        }
        Ok(Self { lo, hi })
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.lo == self.hi {
            write!(f, "{}", self.lo)
        } else {
            write!(f, "{}..{}", self.lo, self.hi)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_need_a_unit_and_read_back_what_they_print() {
        for (text, ns) in [("500ms", 500_000_000), ("1.5s", 1_500_000_000), ("2m", 120_000_000_000)]
        {
            assert_eq!(text.parse(), Ok(Nanos(ns)));
            assert_eq!(Nanos(ns).to_string().parse(), Ok(Nanos(ns)));
        }
        assert_eq!("0".parse(), Ok(Nanos(0)));
        for bad in ["", "5", "-1s", "1parsec", "1e99s", "ms", "99999999999999h"] {
            assert!(bad.parse::<Nanos>().is_err(), "{bad}");
        }
    }

    #[test]
    fn windows_are_half_open_and_forward() {
        let window: Window = "0s..300s".parse().unwrap();
        assert_eq!((window.from.0, window.to), (0, Some(Nanos(300 * NS_PER_S))));
        assert_eq!("10s..".parse::<Window>().unwrap().to, None);
        assert!("5s..5s".parse::<Window>().is_err());
        assert!("5s".parse::<Window>().is_err());
    }

    #[test]
    fn ranges_are_read() {
        assert_eq!("128".parse(), Ok(Range { lo: 128, hi: 128 }));
        assert_eq!("64..256".parse(), Ok(Range { lo: 64, hi: 256 }));
        assert!("9..3".parse::<Range>().is_err());
    }
}
