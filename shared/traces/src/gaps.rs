//! Distributions of the gaps of a renewal process, scaled to a mean of one.

use rand_distr::Gamma;

use crate::random::Stream;

/// A distribution of gaps with mean 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Gaps {
    /// Constant gaps.
    Constant,
    /// Exponential: a Poisson process.
    Exponential,
    /// Gamma with this coefficient of variation: bursty above 1, regular below.
    Gamma {
        /// Standard deviation over mean.
        cv: f64,
    },
    /// Weibull with this shape: bursty below 1, regular above.
    Weibull {
        /// Shape parameter.
        shape: f64,
    },
}

/// Range of `cv` and `shape`. Outside of it the arithmetic loses its precision.
const PARAMETERS: std::ops::RangeInclusive<f64> = 0.01..=100.0;

impl Gaps {
    /// Returns whether the parameter is in range.
    pub fn is_valid(self) -> bool {
        match self {
            Self::Constant | Self::Exponential => true,
            Self::Gamma { cv } => PARAMETERS.contains(&cv),
            Self::Weibull { shape } => PARAMETERS.contains(&shape),
        }
    }

    /// Draws one gap.
    pub fn draw(self, stream: &mut Stream) -> f64 {
        match self {
            Self::Constant => 1.0,
            Self::Exponential => stream.exponential(),
            Self::Gamma { cv } => gamma(1.0 / (cv * cv), stream) * cv * cv,
            Self::Weibull { shape } => {
                stream.exponential().powf(1.0 / shape) / gamma_function(1.0 + 1.0 / shape)
            }
        }
    }

    /// Draws the time from a random moment to the first arrival: the rest of the gap around that
    /// moment, which is more likely to be a long one. The process is therefore as dense at its
    /// start as later. Constant gaps begin with an arrival.
    pub fn draw_first(self, stream: &mut Stream) -> f64 {
        match self {
            Self::Constant => 0.0,
            Self::Exponential => stream.exponential(),
            Self::Gamma { cv } => {
                let around = gamma(1.0 / (cv * cv) + 1.0, stream) * cv * cv;
                stream.unit() * around
            }
            Self::Weibull { shape } => {
                let around = gamma(1.0 + 1.0 / shape, stream).powf(1.0 / shape);
                stream.unit() * around / gamma_function(1.0 + 1.0 / shape)
            }
        }
    }
}

/// Draws a gamma variate with this shape and scale 1; 0 for an invalid shape.
fn gamma(shape: f64, stream: &mut Stream) -> f64 {
    Gamma::new(shape, 1.0).map_or(0.0, |distribution| stream.sample(&distribution))
}

/// Computes the gamma function of a positive number, by Lanczos' approximation.
fn gamma_function(x: f64) -> f64 {
    const G: f64 = 7.0;
    const TERMS: [f64; 9] = [
        0.999_999_999_999_809_9,
        676.520_368_121_885_1,
        -1_259.139_216_722_402_8,
        771.323_428_777_653_1,
        -176.615_029_162_140_6,
        12.507_343_278_686_905,
        -0.138_571_095_265_720_12,
        9.984_369_578_019_572e-6,
        1.505_632_735_149_311_6e-7,
    ];
    let x = x - 1.0;
    let t = x + G + 0.5;
    let series = (1..9).map(|i| TERMS[i] / (x + i as f64)).sum::<f64>() + TERMS[0];
    std::f64::consts::TAU.sqrt() * t.powf(x + 0.5) * (-t).exp() * series
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::RngStream;

    fn moments(mut draw: impl FnMut() -> f64, n: usize) -> (f64, f64) {
        let samples: Vec<f64> = (0..n).map(|_| draw()).collect();
        let mean = samples.iter().sum::<f64>() / n as f64;
        let var = samples.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n as f64;
        (mean, var.sqrt() / mean)
    }

    #[test]
    fn gaps_have_mean_one_and_the_variation_asked_for() {
        // The CV of a Weibull with shape 0.5 is the root of 5, with shape 2 it is 0.5227.
        for (gaps, cv) in [
            (Gaps::Exponential, 1.0),
            (Gaps::Gamma { cv: 0.5 }, 0.5),
            (Gaps::Gamma { cv: 3.0 }, 3.0),
            (Gaps::Weibull { shape: 0.5 }, 5_f64.sqrt()),
            (Gaps::Weibull { shape: 2.0 }, 0.5227),
        ] {
            let mut stream = Stream::new(11, RngStream::Arrivals);
            let (mean, got) = moments(|| gaps.draw(&mut stream), 400_000);
            assert!((mean - 1.0).abs() < 0.02, "{gaps:?}: mean {mean}");
            assert!((got / cv - 1.0).abs() < 0.03, "{gaps:?}: CV {got}");
        }
    }

    #[test]
    fn the_first_gap_is_what_is_left_of_a_gap_that_a_moment_falls_into() {
        // Renewal theory: its mean is (1 + cv²) / 2.
        for (gaps, cv) in [(Gaps::Gamma { cv: 2.0 }, 2.0), (Gaps::Weibull { shape: 0.7 }, 1.4624)] {
            let mut stream = Stream::new(12, RngStream::Arrivals);
            let (mean, _) = moments(|| gaps.draw_first(&mut stream), 400_000);
            let expected = f64::midpoint(1.0, cv * cv);
            assert!((mean / expected - 1.0).abs() < 0.02, "{gaps:?}: {mean} for {expected}");
        }
    }

    #[test]
    fn the_gamma_function_is_a_factorial() {
        for (x, expected) in
            [(1.0, 1.0), (5.0, 24.0), (1.5, 0.886_226_925_452_758), (11.0, 3_628_800.0)]
        {
            let got = gamma_function(x);
            assert!((got / expected - 1.0).abs() < 1e-12, "{x}: {got}");
        }
    }
}
