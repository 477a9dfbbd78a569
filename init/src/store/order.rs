//! The order in which a boot reads a file's chunks, and what of it is still to come.

use super::transfer::Span;

/// Chunks in the order in which they are wanted.
#[derive(Clone, Debug, Default)]
pub struct Order {
    chunks: Vec<u32>,
    /// All before this place are there.
    passed: usize,
}

impl Order {
    /// Of these chunks; to name one again does nothing.
    pub fn new(chunks: Vec<u32>) -> Self {
        Self { chunks, passed: 0 }
    }

    /// Goes beyond what is there.
    pub fn advance(&mut self, has: impl Fn(u64) -> bool) {
        let rest = self.chunks.iter().skip(self.passed);
        self.passed += rest.take_while(|chunk| has(u64::from(**chunk))).count();
    }

    /// Begins again: nothing is there any more.
    pub fn start_over(&mut self) {
        self.passed = 0;
    }

    /// Whether some of it is not there.
    pub fn is_pending(&self) -> bool {
        self.passed < self.chunks.len()
    }

    /// The next chunks to ask for, in one span of at most `most`: the first one that is free, and with it those of the
    /// next `most` free ones that lie in a row with it. Between two in a row may be `reach` others, if they are free.
    pub fn next(&self, most: u64, reach: u64, free: impl Fn(u64) -> bool) -> Option<Span> {
        let (most, reach) = (most.max(1), reach.saturating_add(1));
        let rest = self.chunks.iter().skip(self.passed).map(|chunk| u64::from(*chunk)).filter(|chunk| free(*chunk));
        let mut soon: Vec<u64> = rest.take(usize::try_from(most).unwrap_or(usize::MAX)).collect();
        let first = *soon.first()?;
        soon.sort_unstable();
        soon.dedup();
        let joins = |low: u64, high: u64| high - low <= reach && (low + 1..high).all(&free);
        // What lies before it was wanted later, but comes with it for nothing more than its bytes.
        let start = soon
            .iter()
            .rev()
            .skip_while(|chunk| **chunk >= first)
            .copied()
            .fold(first, |start, chunk| if joins(chunk, start) && first - chunk < most { chunk } else { start });
        let end = soon
            .iter()
            .skip_while(|chunk| **chunk <= first)
            .copied()
            .fold(first, |end, chunk| if joins(end, chunk) && chunk - start < most { chunk } else { end });
        Some(start..end + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_in_a_row_that_are_wanted_soon_are_asked_for_together() {
        let order = Order::new(vec![7, 3, 8, 6, 20, 9, 10, 5]);
        let next = |most, reach| order.next(most, reach, |_| true);
        assert_eq!(next(1, 0), Some(7..8));
        assert_eq!(next(3, 0), Some(7..9));
        assert_eq!(next(4, 0), Some(6..9));
        assert_eq!(next(8, 0), Some(5..11));
        // Chunk 4 between 3 and 5 is not wanted at all.
        assert_eq!(next(8, 1), Some(3..11));
        assert_eq!(order.next(8, 1, |chunk| chunk != 4), Some(5..11));
        assert_eq!(next(20, 9), Some(3..21));
        assert_eq!(order.next(8, 0, |chunk| chunk != 7), Some(3..4));
        assert_eq!(order.next(8, 0, |_| false), None);
    }

    #[test]
    fn a_chunk_that_is_named_twice_is_asked_for_once() {
        let order = Order::new(vec![4, 4, 5, 4]);
        assert_eq!(order.next(4, 0, |_| true), Some(4..6));
        assert_eq!(order.next(4, 0, |chunk| chunk != 4), Some(5..6));
    }

    #[test]
    fn it_goes_on_behind_what_is_there() {
        let mut order = Order::new(vec![4, 2, 9]);
        order.advance(|chunk| chunk == 2);
        assert_eq!(order.next(1, 0, |_| true), Some(4..5));
        order.advance(|chunk| chunk != 9);
        assert_eq!((order.next(1, 0, |_| true), order.is_pending()), (Some(9..10), true));
        order.advance(|_| true);
        assert_eq!((order.next(1, 0, |_| true), order.is_pending()), (None, false));
        order.start_over();
        assert_eq!(order.next(1, 0, |_| true), Some(4..5));
    }
}
