//! Reads samples back out of an OpenMetrics text: what the page shows is what Prometheus sees.

use std::collections::BTreeMap;

/// One line of a metric.
#[derive(Debug, PartialEq)]
pub(super) struct Sample {
    labels: Vec<(String, String)>,
    value: f64,
}

impl Sample {
    fn label(&self, name: &str) -> Option<&str> {
        self.labels.iter().find(|(label, _)| label == name).map(|(_, value)| value.as_str())
    }
}

/// The samples of the series `name`.
fn samples<'a>(text: &'a str, name: &'a str) -> impl Iterator<Item = Sample> + 'a {
    text.lines().filter_map(move |line| {
        let rest = line.strip_prefix(name)?;
        match rest.chars().next()? {
            '{' => {
                let (labels, rest) = labels(&rest[1..])?;
                Some(Sample { labels, value: value(rest)? })
            }
            ' ' => Some(Sample { labels: Vec::new(), value: value(rest)? }),
            _ => None,
        }
    })
}

fn value(rest: &str) -> Option<f64> {
    rest.split_ascii_whitespace().next()?.parse().ok()
}

/// Labels up to the closing brace, and what follows that.
fn labels(mut rest: &str) -> Option<(Vec<(String, String)>, &str)> {
    let mut labels = Vec::new();
    loop {
        rest = rest.trim_start_matches(',');
        if let Some(rest) = rest.strip_prefix('}') {
            return Some((labels, rest));
        }
        let (name, after) = rest.split_once("=\"")?;
        let mut value = String::new();
        let mut chars = after.char_indices();
        let end = loop {
            match chars.next()? {
                (at, '"') => break at,
                (_, '\\') => value.push(match chars.next()?.1 {
                    'n' => '\n',
                    plain => plain,
                }),
                (_, plain) => value.push(plain),
            }
        };
        labels.push((name.to_owned(), value));
        rest = &after[end + 1..];
    }
}

/// The sum over all samples of a series; 0 when there is none yet.
pub(super) fn total(text: &str, name: &str) -> f64 {
    samples(text, name).map(|sample| sample.value).sum()
}

/// A series summed by the values of one label.
pub(super) fn by_label(text: &str, name: &str, label: &str) -> BTreeMap<String, f64> {
    let mut sums = BTreeMap::new();
    for sample in samples(text, name) {
        let key = sample.label(label).unwrap_or_default().to_owned();
        *sums.entry(key).or_default() += sample.value;
    }
    sums
}

/// A histogram's finite upper bounds, ascending, each with how many values are at most that large,
/// and how many values there are.
pub(super) fn histogram(text: &str, name: &str) -> (Vec<(f64, f64)>, f64) {
    let by_bound = by_label(text, &format!("{name}_bucket"), "le");
    let bounds = by_bound.iter().filter_map(|(le, count)| Some((le.parse::<f64>().ok()?, *count)));
    let mut buckets: Vec<(f64, f64)> = bounds.filter(|(le, _)| le.is_finite()).collect();
    buckets.sort_by(|(a, _), (b, _)| a.total_cmp(b));
    (buckets, total(text, &format!("{name}_count")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"# HELP a A.
# TYPE a counter
a_total{model="x\"},{\\",status="200"} 5
a_total{model="y",status="200"} 2
a_total{model="y",status="429"} 1
a_total_of_others 100
b 7.5
h_bucket{m="x",le="10.0"} 9
h_bucket{m="x",le="0.5"} 3 # {trace_id="abc"} 0.4 1700000000.0
h_bucket{m="x",le="+Inf"} 10
h_count{m="x"} 10
# EOF
"#;

    #[test]
    fn series_are_summed_by_what_one_asks_for() {
        assert_eq!(total(TEXT, "a_total"), 8.0);
        assert_eq!(total(TEXT, "b"), 7.5);
        assert_eq!(total(TEXT, "nothing"), 0.0);
        let expected = [("200".to_owned(), 7.0), ("429".to_owned(), 1.0)];
        assert_eq!(by_label(TEXT, "a_total", "status"), BTreeMap::from(expected));
    }

    #[test]
    fn escapes_in_labels_are_taken_back() {
        let first = samples(TEXT, "a_total").next().unwrap();
        assert_eq!(first.label("model"), Some("x\"},{\\"));
        assert_eq!((first.label("status"), first.value), (Some("200"), 5.0));
    }

    #[test]
    fn buckets_come_in_the_order_of_their_bounds() {
        assert_eq!(histogram(TEXT, "h"), (vec![(0.5, 3.0), (10.0, 9.0)], 10.0));
    }

    #[test]
    fn a_broken_line_is_no_sample() {
        for line in ["a{b=\"c} 1", "a{b} 1", "a{b=\"c\"}", "a x", "a"] {
            assert_eq!(samples(line, "a").count(), 0, "{line}");
        }
    }
}
