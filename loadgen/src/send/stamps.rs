//! Compact times of tokens: the first in full, then each gap in as few bytes as possible.

/// Ascending times, in nanoseconds from the start of the run.
///
/// A gap of up to 16 ms takes four bytes or fewer, one of up to 2 s five.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenTimes {
    first_ns: i64,
    last_ns: i64,
    len: u32,
    /// Gaps, least significant seven bits first, with the high bit set on all bytes but the last.
    gaps: Vec<u8>,
}

impl TokenTimes {
    /// Adds a time. A time before the last one counts as the last one.
    pub fn push(&mut self, at_ns: i64) {
        if self.len == 0 {
            (self.first_ns, self.last_ns) = (at_ns, at_ns);
        } else {
            let mut gap = (at_ns - self.last_ns).max(0).unsigned_abs();
            self.last_ns += gap as i64;
            while gap >= 0x80 {
                self.gaps.push(gap as u8 | 0x80);
                gap >>= 7;
            }
            self.gaps.push(gap as u8);
        }
        self.len += 1;
    }

    /// Returns the number of times.
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Returns whether there are no times.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns the first time.
    pub fn first(&self) -> Option<i64> {
        (self.len > 0).then_some(self.first_ns)
    }

    /// Returns the last time.
    pub fn last(&self) -> Option<i64> {
        (self.len > 0).then_some(self.last_ns)
    }

    /// Yields the gaps between neighboring times.
    pub fn gaps(&self) -> impl Iterator<Item = i64> + '_ {
        let mut bytes = self.gaps.iter();
        std::iter::from_fn(move || {
            let (mut gap, mut shift) = (0_u64, 0);
            loop {
                let byte = *bytes.next()?;
                gap |= u64::from(byte & 0x7f) << shift;
                if byte & 0x80 == 0 {
                    return Some(gap as i64);
                }
                shift += 7;
            }
        })
    }

    /// Yields all times.
    pub fn iter(&self) -> impl Iterator<Item = i64> + '_ {
        let rest = self.gaps().scan(self.first_ns, |at, gap| {
            *at += gap;
            Some(*at)
        });
        self.first().into_iter().chain(rest)
    }

    /// Frees the memory that is reserved for further times.
    pub fn settle(&mut self) {
        self.gaps.shrink_to_fit();
    }

    /// Returns the bytes allocated besides the value itself.
    pub fn heap_bytes(&self) -> usize {
        self.gaps.capacity()
    }
}

impl FromIterator<i64> for TokenTimes {
    fn from_iter<T: IntoIterator<Item = i64>>(times: T) -> Self {
        let mut all = Self::default();
        times.into_iter().for_each(|at| all.push(at));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_long_reply_takes_four_bytes_a_token() {
        let mut times: TokenTimes = (0..10_000).map(|n| n * 15_000_000).collect();
        times.settle();
        assert!(times.heap_bytes() <= 4 * 10_000, "{}", times.heap_bytes());
        assert_eq!(
            (times.len(), times.first(), times.last()),
            (10_000, Some(0), Some(149_985_000_000))
        );
    }

    #[test]
    fn what_goes_back_stands_still() {
        let times: TokenTimes = [5, 3, 9].into_iter().collect();
        assert_eq!(times.iter().collect::<Vec<_>>(), [5, 5, 9]);
        assert_eq!(TokenTimes::default().iter().count(), 0);
    }

    proptest! {
        #[test]
        fn what_goes_in_comes_out(
            start in -1_000_000_000_i64..1_000_000_000_000,
            gaps in prop::collection::vec(0_i64..1_i64 << 45, 0..40),
        ) {
            let times: Vec<i64> = std::iter::once(start)
                .chain(gaps.iter().scan(start, |at, gap| { *at += gap; Some(*at) }))
                .collect();
            let kept: TokenTimes = times.iter().copied().collect();
            prop_assert_eq!(kept.iter().collect::<Vec<_>>(), times.clone());
            prop_assert_eq!(kept.gaps().collect::<Vec<_>>(), gaps);
            prop_assert_eq!((kept.first(), kept.last()), (times.first().copied(), times.last().copied()));
        }
    }
}
