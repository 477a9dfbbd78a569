//! A file that is fetched in chunks: which are there, which are missing, which were wrong and from whom.
//! Used for the chunk list (against the manifest) and for the image (against the chunk list).

use super::blocks::Blocks;
use super::order::Order;
use crate::digest::Sha256;
use crate::messages::{Range, SourceIndex};
use std::collections::BTreeMap;
use std::ops;

/// How often a chunk may come wrong from one source before that source is not asked for it any more.
const REJECTIONS: usize = 2;

/// Chunk numbers, from the first one up to one past the last.
pub type Span = ops::Range<u64>;

/// The hashes of a file's chunks.
#[derive(Clone, Debug)]
pub enum Hashes {
    /// There are none: bytes are taken in order, and the whole is judged at its end.
    None,
    /// One a chunk, 32 bytes each.
    List(Vec<u8>),
    /// The same, a block at a time.
    Blocks(Box<Blocks>),
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
    /// Which chunks a boot reads first.
    order: Order,
    /// Who sent which chunk wrong, as often as it did.
    rejected: BTreeMap<u64, Vec<SourceIndex>>,
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
            order: Order::default(),
            rejected: BTreeMap::new(),
        }
    }

    /// Which chunks a boot reads first, in that order.
    pub fn set_order(&mut self, chunks: &[u32]) {
        let there = |chunk: &u32| u64::from(*chunk) < self.chunks();
        self.order = Order::new(chunks.iter().copied().filter(there).collect());
        self.advance_order();
    }

    fn advance_order(&mut self) {
        let mut order = std::mem::take(&mut self.order);
        order.advance(|chunk| self.has(chunk));
        self.order = order;
    }

    /// Forgets every chunk.
    pub fn start_over(&mut self) {
        self.order.start_over();
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
        !matches!(self.hashes, Hashes::None)
    }

    /// The hash that a chunk must have, where there are hashes.
    pub fn hash(&self, chunk: u64) -> Option<Sha256> {
        let list = match &self.hashes {
            Hashes::None => return None,
            Hashes::List(list) => list,
            Hashes::Blocks(blocks) => return blocks.hash(chunk),
        };
        let start = usize::try_from(chunk).ok()?.checked_mul(32)?;
        Some(Sha256(list.get(start..start.checked_add(32)?)?.try_into().ok()?))
    }

    /// The list of its hashes, while blocks of that are missing.
    pub fn list(&self) -> Option<&Transfer> {
        match &self.hashes {
            Hashes::Blocks(blocks) if !blocks.list().is_complete() => Some(blocks.list()),
            _ => None,
        }
    }

    /// The same to be changed, with its blocks.
    pub fn blocks_mut(&mut self) -> Option<&mut Blocks> {
        match &mut self.hashes {
            Hashes::Blocks(blocks) if !blocks.list().is_complete() => Some(blocks),
            _ => None,
        }
    }

    /// The chunks that cannot be judged yet.
    pub fn unknown(&self) -> Vec<Span> {
        match &self.hashes {
            Hashes::Blocks(blocks) => blocks.unknown(),
            _ => Vec::new(),
        }
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

    /// The bytes of a span.
    pub fn bytes(&self, span: &Span) -> Range {
        Range { start: self.offset(span.start).min(self.size), end: self.offset(span.end).min(self.size) }
    }

    /// Whether a chunk is there.
    pub fn has(&self, chunk: u64) -> bool {
        let word = usize::try_from(chunk / 64).ok().and_then(|index| self.have.get(index));
        word.is_some_and(|word| word >> (chunk % 64) & 1 == 1)
    }

    /// The first span from `from` on that is neither there nor in one of `taken`, of at most `most` chunks.
    pub fn gap(&self, from: u64, most: u64, taken: &[Span]) -> Option<Span> {
        let mut start = from.max(self.first_missing);
        loop {
            let before = start;
            start = self.next(start, false);
            if let Some(span) = taken.iter().find(|span| span.contains(&start)) {
                start = span.end;
            }
            if start >= self.chunks() {
                return None;
            }
            if start == before {
                break;
            }
        }
        let ahead = taken.iter().map(|span| span.start).filter(|taken| *taken > start).min();
        let end = self.next(start, true).min(ahead.unwrap_or(u64::MAX));
        Some(start..end.min(start.saturating_add(most.max(1))))
    }

    /// Whether chunks are missing that a boot reads first.
    pub fn order_is_pending(&self) -> bool {
        self.order.is_pending()
    }

    /// The first span in the order of a boot that is neither there nor in one of `taken`, of at most `most` chunks, which
    /// spans gaps of `reach` chunks.
    pub fn next_in_order(&self, most: u64, reach: u64, taken: &[Span]) -> Option<Span> {
        let free = |chunk| !self.has(chunk) && !taken.iter().any(|span| span.contains(&chunk));
        self.order.next(most, reach, free)
    }

    /// The first chunk from `from` on that is there (or missing), or the number of chunks.
    fn next(&self, from: u64, there: bool) -> u64 {
        let mut chunk = from;
        while chunk < self.chunks() {
            let word = usize::try_from(chunk / 64).ok().and_then(|index| self.have.get(index)).copied();
            let Some(word) = word else { return if there { self.chunks() } else { chunk } };
            let candidates = if there { word } else { !word } >> (chunk % 64);
            if candidates != 0 {
                return (chunk + u64::from(candidates.trailing_zeros())).min(self.chunks());
            }
            chunk = (chunk / 64 + 1) * 64;
        }
        self.chunks()
    }

    /// How often `chunk` came wrong from `source`; none if that is too often to ask again.
    pub fn rank(&self, chunk: u64, source: SourceIndex) -> Option<u32> {
        let sources = self.rejected.get(&chunk).map(Vec::as_slice).unwrap_or_default();
        let times = sources.iter().filter(|from| **from == source).count();
        (times < REJECTIONS).then_some(times as u32)
    }

    /// The missing chunks that came wrong from somebody.
    pub fn doubtful(&self) -> impl Iterator<Item = u64> {
        self.rejected.keys().copied().filter(|chunk| !self.has(*chunk))
    }

    /// The source that a chunk last came wrong from.
    pub fn last_wrong(&self, chunk: u64) -> Option<SourceIndex> {
        self.rejected.get(&chunk).and_then(|sources| sources.last()).copied()
    }

    /// Forgets who sent what wrong.
    pub fn forgive(&mut self) {
        self.rejected.clear();
        if let Some(blocks) = self.blocks_mut() {
            blocks.list_mut().forgive();
        }
    }

    /// Notes that a chunk came wrong.
    pub fn reject(&mut self, chunk: u64, source: SourceIndex) {
        // Twice is enough to know; a source that goes on sending it does not grow this.
        if self.rank(chunk, source).is_some() {
            self.rejected.entry(chunk).or_default().push(source);
        }
    }

    /// Notes that a chunk is there. Without hashes only the next one counts.
    pub fn keep(&mut self, chunk: u64) {
        let length = self.length(chunk);
        let Ok(index) = usize::try_from(chunk / 64) else { return };
        if chunk >= self.chunks() || !self.has_hashes() && chunk != self.first_missing {
            return;
        }
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
        self.first_missing = self.next(self.first_missing, false);
        self.advance_order();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Five chunks, the last of one byte; chunk `n` has the hash of all `n`.
    fn five() -> Transfer {
        let hashes = (0..5).flat_map(|n| [n; 32]).collect();
        Transfer::new(4 * 4096 + 1, 4096, Hashes::List(hashes))
    }

    /// The first gap beside one that is taken.
    fn gap(transfer: &Transfer, taken: Span) -> Option<Span> {
        transfer.gap(0, u64::MAX, std::slice::from_ref(&taken))
    }

    #[test]
    fn a_gap_is_what_is_neither_there_nor_taken() {
        let mut transfer = five();
        assert_eq!(transfer.gap(0, 9, &[]), Some(0..5));
        assert_eq!(transfer.gap(0, 2, &[]), Some(0..2));
        transfer.keep(0);
        transfer.keep(3);
        assert_eq!(transfer.gap(0, 9, &[]), Some(1..3));
        assert_eq!(gap(&transfer, 1..2), Some(2..3));
        assert_eq!(gap(&transfer, 2..3), Some(1..2));
        assert_eq!(transfer.gap(0, 9, &[2..3, 1..2]), Some(4..5));
        assert_eq!(transfer.gap(0, 9, &[1..4, 4..5]), None);
        assert_eq!(transfer.gap(3, 9, &[]), Some(4..5));
        for chunk in [1, 2, 4] {
            assert!(!transfer.is_complete());
            transfer.keep(chunk);
        }
        assert_eq!((transfer.gap(0, 9, &[]), transfer.verified(), transfer.is_complete()), (None, 16_385, true));
    }

    #[test]
    fn gaps_are_found_over_many_words() {
        let mut transfer = Transfer::new(1000 * 4096, 4096, Hashes::List(vec![0; 32_000]));
        (0..1000).filter(|chunk| !(130..700).contains(chunk)).for_each(|chunk| transfer.keep(chunk));
        assert_eq!(transfer.first_missing(), 130);
        assert_eq!(transfer.gap(0, 9999, &[]), Some(130..700));
        (130..200).for_each(|chunk| transfer.keep(chunk));
        assert_eq!(gap(&transfer, 200..300), Some(300..700));
        assert_eq!(transfer.bytes(&(0..2000)), Range { start: 0, end: 1000 * 4096 });
    }

    #[test]
    fn a_source_that_sent_a_chunk_wrong_loses_rank_for_it_alone() {
        let mut transfer = five();
        transfer.reject(2, 1);
        assert!(!transfer.has(2));
        assert_eq!((transfer.rank(2, 0), transfer.rank(2, 1), transfer.last_wrong(2)), (Some(0), Some(1), Some(1)));
        transfer.reject(2, 1);
        transfer.reject(2, 1);
        assert_eq!((transfer.rank(2, 0), transfer.rank(2, 1), transfer.rank(1, 1)), (Some(0), None, Some(0)));
        assert_eq!(transfer.doubtful().collect::<Vec<_>>(), [2]);
        transfer.keep(2);
        assert_eq!(transfer.doubtful().count(), 0);
    }

    #[test]
    fn a_chunk_beyond_the_end_has_no_hash_and_is_never_there() {
        let mut transfer = five();
        assert_eq!(transfer.hash(4), Some(Sha256([4; 32])));
        assert_eq!((transfer.hash(5), transfer.hash(u64::MAX)), (None, None));
        transfer.keep(5);
        transfer.keep(u64::MAX);
        assert_eq!((transfer.length(5), transfer.length(u64::MAX), transfer.verified()), (0, 0, 0));
    }

    #[test]
    fn without_hashes_only_the_next_chunk_counts() {
        let mut transfer = Transfer::new(8193, 4096, Hashes::None);
        transfer.keep(1);
        assert_eq!(transfer.verified(), 0);
        transfer.keep(0);
        assert_eq!((transfer.first_missing(), transfer.verified()), (1, 4096));
        transfer.start_over();
        assert_eq!((transfer.first_missing(), transfer.verified()), (0, 0));
    }
}
