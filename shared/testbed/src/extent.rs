//! The extent of the tests that try many cases: a representative part, or all of them.

use std::io::Write;
use std::sync::Once;

const VARIABLE: &str = "TANDEM_TESTS";

/// Number of cases that the large suites try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// A part that finds most mistakes within minutes: the default.
    Representative,
    /// Everything: `TANDEM_TESTS=exhaustive`, as the gate sets it.
    Exhaustive,
}

impl Extent {
    /// Reads `TANDEM_TESTS`, and prints once per process, past the capture of the test harness,
    /// which extent it asks for.
    ///
    /// # Panics
    ///
    /// When the variable has a value that is neither `representative` nor `exhaustive`.
    pub fn from_env() -> Self {
        static PRINTED: Once = Once::new();
        let value = std::env::var_os(VARIABLE);
        let extent = Self::parse(value.as_ref().map(|it| it.to_string_lossy()).as_deref());
        PRINTED.call_once(|| {
            let hint = extent.pick(" (TANDEM_TESTS=exhaustive tries every case)", "");
            let name = extent.pick("representative", "exhaustive");
            // A line that cannot be printed changes no result.
            let _ = writeln!(std::io::stderr(), "test extent: {name}{hint}");
        });
        extent
    }

    /// Returns the value for this extent.
    pub fn pick<T>(self, representative: T, exhaustive: T) -> T {
        match self {
            Self::Representative => representative,
            Self::Exhaustive => exhaustive,
        }
    }

    fn parse(value: Option<&str>) -> Self {
        match value {
            None | Some("" | "representative") => Self::Representative,
            Some("exhaustive") => Self::Exhaustive,
            Some(other) => {
                panic!("{VARIABLE} is `{other}`; it must be `representative` or `exhaustive`")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_representative() {
        assert_eq!(Extent::parse(None), Extent::Representative);
        assert_eq!(Extent::parse(Some("")), Extent::Representative);
        assert_eq!(Extent::parse(Some("exhaustive")), Extent::Exhaustive);
        assert_eq!(Extent::Representative.pick(16, 256), 16);
        assert_eq!(Extent::Exhaustive.pick(16, 256), 256);
    }

    #[test]
    #[should_panic(expected = "TANDEM_TESTS is `all`; it must be `representative` or `exhaustive`")]
    fn an_unknown_extent_is_refused() {
        Extent::parse(Some("all"));
    }
}
