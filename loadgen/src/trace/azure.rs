//! Azure LLM inference CSV: `TIMESTAMP,ContextTokens,GeneratedTokens`.

use super::Record;
use crate::units::NS_PER_S;

/// The only header accepted.
pub(super) const HEADER: &str = "TIMESTAMP,ContextTokens,GeneratedTokens";

/// Whether `text` is the header, with or without a byte-order mark.
pub(super) fn is_header(text: &str) -> bool {
    text.trim_start_matches('\u{feff}').trim_end() == HEADER
}

/// Reads one row.
pub(super) fn record(text: &str) -> Result<Record, String> {
    let columns: Vec<&str> = text.split(',').collect();
    let [time, input, output] = columns[..] else {
        return Err(format!("expected 3 columns, found {}", columns.len()));
    };
    let at_ns = time_ns(time)
        .ok_or_else(|| format!("{time:?} is not a time such as 2023-11-16 18:15:46.6805900"))?;
    let count = |name: &str, value: &str| {
        value.parse::<u32>().map_err(|e| format!("{name} is {value:?}: {e}"))
    };
    let input_tokens = count("ContextTokens", input)?;
    if input_tokens == 0 {
        return Err("ContextTokens is 0".to_owned());
    }
    let output_tokens = count("GeneratedTokens", output)?;
    Ok(Record { at_ns, input_tokens, output_tokens, blocks: Vec::new() })
}

/// Nanoseconds since 1970 of `YYYY-MM-DD hh:mm:ss[.fraction]`.
fn time_ns(text: &str) -> Option<i64> {
    let (date, clock) = text.split_once(' ')?;
    let (clock, fraction) = clock.split_once('.').unwrap_or((clock, "0"));
    let [year, month, day] = parts(date, '-', [4, 2, 2])?;
    let [hour, minute, second] = parts(clock, ':', [2, 2, 2])?;
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let month_days = match month {
        4 | 6 | 9 | 11 => 30,
        2 => 28 + i64::from(leap),
        1..=12 => 31,
        _ => return None,
    };
    if !(1970..=2200).contains(&year) || !(1..=month_days).contains(&day) {
        return None;
    }
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    if fraction.is_empty() || fraction.len() > 9 || !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let nanos = fraction.parse::<i64>().ok()? * 10_i64.pow(9 - fraction.len() as u32);
    let seconds = days(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second;
    Some(seconds * NS_PER_S + nanos)
}

fn parts(text: &str, separator: char, widths: [usize; 3]) -> Option<[i64; 3]> {
    let mut values = [0; 3];
    let mut pieces = text.split(separator);
    for (value, width) in values.iter_mut().zip(widths) {
        let piece = pieces.next()?;
        if piece.len() != width || !piece.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        *value = piece.parse().ok()?;
    }
    pieces.next().is_none().then_some(values)
}

/// Days from 1970-01-01 in the Gregorian calendar, counted in years that begin in March.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    y * 365 + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day - 1 - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_follow_the_calendar() {
        assert_eq!(time_ns("1970-01-01 00:00:00"), Some(0));
        assert_eq!(time_ns("2000-03-01 00:00:00"), Some(951_868_800 * NS_PER_S));
        assert_eq!(time_ns("2023-11-16 18:15:46.68059"), Some(1_700_158_546_680_590_000));
        assert_eq!(time_ns("2024-02-29 00:00:00.1"), Some(1_709_164_800_100_000_000));
        assert_eq!(time_ns("2023-02-29 00:00:00"), None);
    }
}
