//! A file that is fetched in chunks: which are there, which are asked for next, which were wrong and from whom.
//! Used for the chunk list (against the manifest) and for the image (against the chunk list).

use crate::digest::Sha256;
use crate::messages::{Range, SourceIndex};
use std::collections::BTreeMap;

/// How often a chunk may come wrong from one source before that source is not asked for it any more.
const REJECTIONS: usize = 2;
/// So many wrong chunks in a row end a request: what comes is another file.
const ROW: u32 = 4;

/// The hashes of a file's chunks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hashes {
    /// There are none: bytes are taken in order, and the whole is judged at its end.
    None,
    /// One a chunk, 32 bytes each.
    List(Vec<u8>),
}

/// The state of a file's chunks.
#[derive(Clone, Debug)]
pub struct Transfer {
    size: u64,
    chunk_size: u64,
    hashes: Hashes,
    /// A bit a chunk, up to the last one that is there.
    have: Vec<u64>,
    first_missing: u64,
    verified: u64,
    rejected: BTreeMap<u64, Vec<SourceIndex>>,
    wrong_in_a_row: u32,
}

/// What became of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is right and was missing.
    Kept,
    /// It is wrong.
    Wrong,
    /// It is wrong, as were those before it: nothing of use comes from this request.
    AllWrong,
}

impl Transfer {
    /// Nothing there yet. `chunk_size` is at least 1.
    pub fn new(size: u64, chunk_size: u32, hashes: Hashes) -> Self {
        Self {
            size,
            chunk_size: u64::from(chunk_size.max(1)),
            hashes,
            have: Vec::new(),
            first_missing: 0,
            verified: 0,
            rejected: BTreeMap::new(),
            wrong_in_a_row: 0,
        }
    }

    /// Forgets every chunk.
    pub fn start_over(&mut self) {
        self.have.clear();
        self.first_missing = 0;
        self.verified = 0;
    }

    /// Bytes of the file.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Bytes that are there.
    pub fn verified(&self) -> u64 {
        self.verified
    }

    /// Bytes a chunk.
    pub fn chunk_size(&self) -> u64 {
        self.chunk_size
    }

    /// How many chunks it has.
    pub fn chunks(&self) -> u64 {
        self.size.div_ceil(self.chunk_size)
    }

    /// Whether it has hashes; if not, chunks must come in order.
    pub fn has_hashes(&self) -> bool {
        self.hashes != Hashes::None
    }

    /// Whether every chunk is there.
    pub fn is_complete(&self) -> bool {
        self.first_missing >= self.chunks()
    }

    /// The first chunk that is missing, or the number of chunks.
    pub fn first_missing(&self) -> u64 {
        self.first_missing
    }

    /// First byte of a chunk.
    pub fn offset(&self, chunk: u64) -> u64 {
        chunk.saturating_mul(self.chunk_size)
    }

    /// Length of a chunk; the last may be shorter, none lies beyond the end.
    pub fn length(&self, chunk: u64) -> u64 {
        self.size.saturating_sub(self.offset(chunk)).min(self.chunk_size)
    }

    /// Whether a chunk is there.
    pub fn has(&self, chunk: u64) -> bool {
        let word = usize::try_from(chunk / 64).ok().and_then(|index| self.have.get(index));
        word.is_some_and(|word| word >> (chunk % 64) & 1 == 1)
    }

    /// The bytes to ask for next: from the first missing chunk up to the next one that is there.
    pub fn missing(&self) -> Option<Range> {
        if self.is_complete() {
            return None;
        }
        let known = self.chunks().min(self.have.len() as u64 * 64);
        let last = (self.first_missing..known).find(|chunk| self.has(*chunk)).unwrap_or(self.chunks());
        Some(Range { start: self.offset(self.first_missing), end: self.offset(last).min(self.size) })
    }

    /// How often `chunk` came wrong from `source`; none if that is too often to ask again.
    pub fn rank(&self, chunk: u64, source: SourceIndex) -> Option<u32> {
        let sources = self.rejected.get(&chunk).map(Vec::as_slice).unwrap_or_default();
        let times = sources.iter().filter(|from| **from == source).count();
        (times < REJECTIONS).then_some(times as u32)
    }

    /// The source that a chunk last came wrong from.
    pub fn last_wrong(&self, chunk: u64) -> Option<SourceIndex> {
        self.rejected.get(&chunk).and_then(|sources| sources.last()).copied()
    }

    /// Forgets who sent what wrong.
    pub fn forgive(&mut self) {
        self.rejected.clear();
    }

    /// A request begins.
    pub fn begin(&mut self) {
        self.wrong_in_a_row = 0;
    }

    /// A chunk that no request brought: it counts as there if its hash is right. Says whether it is.
    pub fn recall(&mut self, chunk: u64, found: Sha256) -> bool {
        let right = self.has_hashes() && self.is_right(chunk, found);
        if right {
            self.keep(chunk);
        }
        right
    }

    fn is_right(&self, chunk: u64, found: Sha256) -> bool {
        let at = usize::try_from(chunk).unwrap_or(usize::MAX);
        match &self.hashes {
            Hashes::None => chunk == self.first_missing,
            Hashes::List(list) => list.chunks_exact(32).nth(at).is_some_and(|hash| *hash == found.0),
        }
    }

    /// Judges a missing chunk by its hash; right ones count as there.
    pub fn judge(&mut self, chunk: u64, found: Sha256, source: SourceIndex) -> Verdict {
        if self.is_right(chunk, found) {
            self.keep(chunk);
            self.wrong_in_a_row = 0;
            return Verdict::Kept;
        }
        self.rejected.entry(chunk).or_default().push(source);
        self.wrong_in_a_row += 1;
        if self.wrong_in_a_row >= ROW { Verdict::AllWrong } else { Verdict::Wrong }
    }

    fn keep(&mut self, chunk: u64) {
        let length = self.length(chunk);
        let Ok(index) = usize::try_from(chunk / 64) else { return };
        // Grown by what is there, never by what a server says there will be.
        if self.have.len() <= index {
            self.have.resize(index + 1, 0);
        }
        let Some(word) = self.have.get_mut(index) else { return };
        let bit = 1 << (chunk % 64);
        if *word & bit == 0 {
            *word |= bit;
            self.verified += length;
        }
        while self.first_missing < self.chunks() && self.has(self.first_missing) {
            self.first_missing += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Five chunks, the last of one byte; chunk `n` is right when its hash is all `n`.
    fn five() -> Transfer {
        let hashes = (0..5).flat_map(|n| [n; 32]).collect();
        Transfer::new(4 * 4096 + 1, 4096, Hashes::List(hashes))
    }

    #[test]
    fn asks_for_what_is_missing_up_to_what_is_there() {
        let mut transfer = five();
        assert_eq!(transfer.missing(), Some(Range { start: 0, end: 16_385 }));
        assert_eq!(transfer.judge(0, Sha256([0; 32]), 0), Verdict::Kept);
        assert_eq!(transfer.judge(3, Sha256([3; 32]), 0), Verdict::Kept);
        assert_eq!(transfer.missing(), Some(Range { start: 4096, end: 12_288 }));
        assert_eq!(transfer.judge(1, Sha256([1; 32]), 0), Verdict::Kept);
        assert_eq!(transfer.judge(2, Sha256([2; 32]), 0), Verdict::Kept);
        assert_eq!(transfer.missing(), Some(Range { start: 16_384, end: 16_385 }));
        assert_eq!(transfer.judge(4, Sha256([4; 32]), 0), Verdict::Kept);
        assert_eq!((transfer.missing(), transfer.verified(), transfer.is_complete()), (None, 16_385, true));
    }

    #[test]
    fn a_wrong_chunk_is_not_kept_and_its_source_loses_rank() {
        let mut transfer = five();
        assert_eq!(transfer.judge(2, Sha256([9; 32]), 1), Verdict::Wrong);
        assert!(!transfer.has(2));
        assert_eq!((transfer.rank(2, 0), transfer.rank(2, 1), transfer.last_wrong(2)), (Some(0), Some(1), Some(1)));
        assert_eq!(transfer.judge(2, Sha256([9; 32]), 1), Verdict::Wrong);
        assert_eq!((transfer.rank(2, 0), transfer.rank(2, 1)), (Some(0), None));
        assert_eq!(transfer.rank(1, 1), Some(0));
    }

    #[test]
    fn wrong_chunks_in_a_row_end_a_request() {
        let mut transfer = five();
        let wrong = Sha256([9; 32]);
        let verdicts: Vec<_> = (0..4).map(|chunk| transfer.judge(chunk, wrong, 0)).collect();
        assert_eq!(verdicts, [Verdict::Wrong, Verdict::Wrong, Verdict::Wrong, Verdict::AllWrong]);
        transfer.begin();
        assert_eq!(transfer.judge(4, wrong, 0), Verdict::Wrong);
    }

    #[test]
    fn a_chunk_beyond_the_end_is_never_right() {
        let mut transfer = five();
        assert_eq!(transfer.judge(5, Sha256([5; 32]), 0), Verdict::Wrong);
        assert_eq!(transfer.judge(u64::MAX, Sha256([0; 32]), 0), Verdict::Wrong);
        assert_eq!((transfer.length(5), transfer.length(u64::MAX), transfer.verified()), (0, 0, 0));
    }

    #[test]
    fn without_hashes_only_the_next_chunk_counts() {
        let mut transfer = Transfer::new(8193, 4096, Hashes::None);
        assert_eq!(transfer.judge(1, Sha256([0; 32]), 0), Verdict::Wrong);
        assert_eq!(transfer.judge(0, Sha256([0; 32]), 0), Verdict::Kept);
        transfer.start_over();
        assert_eq!((transfer.first_missing(), transfer.verified()), (0, 0));
    }
}
