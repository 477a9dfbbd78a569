//! A chunk list that comes a block at a time, while chunks of the blocks that are there are fetched already.

use super::transfer::{Hashes, Span, Transfer};
use crate::digest::Sha256;
use crate::manifest::LIST_BLOCK;
use std::collections::BTreeMap;

/// Hashes in a block.
const PER_BLOCK: u64 = LIST_BLOCK as u64 / 32;

/// The list's blocks, each judged by its hash in the manifest.
#[derive(Clone, Debug)]
pub struct Blocks {
    list: Transfer,
    /// Those that are there.
    bytes: BTreeMap<u64, Vec<u8>>,
}

impl Blocks {
    /// None there yet, of a list of `size` bytes.
    pub fn new(size: u64, hashes: Hashes) -> Self {
        Self { list: Transfer::new(size, LIST_BLOCK, hashes), bytes: BTreeMap::new() }
    }

    /// The list as a file that is fetched.
    pub fn list(&self) -> &Transfer {
        &self.list
    }

    /// The same to be changed.
    pub fn list_mut(&mut self) -> &mut Transfer {
        &mut self.list
    }

    /// The block with the hash of `chunk`.
    pub fn of(chunk: u64) -> u64 {
        chunk / PER_BLOCK
    }

    /// The chunks whose hashes are in some blocks.
    pub fn chunks_of(blocks: &Span) -> Span {
        blocks.start.saturating_mul(PER_BLOCK)..blocks.end.saturating_mul(PER_BLOCK)
    }

    /// A block that was found right.
    pub fn keep(&mut self, block: u64, bytes: &[u8]) {
        self.list.keep(block);
        if self.list.has(block) {
            self.bytes.insert(block, bytes.to_vec());
        }
    }

    /// The hash of a chunk, where its block is there.
    pub fn hash(&self, chunk: u64) -> Option<Sha256> {
        let start = usize::try_from(chunk % PER_BLOCK).ok()?.checked_mul(32)?;
        let block = self.bytes.get(&Self::of(chunk))?;
        Some(Sha256(block.get(start..start.checked_add(32)?)?.try_into().ok()?))
    }

    /// The chunks whose hashes are still to come.
    pub fn unknown(&self) -> Vec<Span> {
        let mut spans = Vec::new();
        let mut next = 0;
        while let Some(gap) = self.list.gap(next, u64::MAX, &[]) {
            next = gap.end;
            spans.push(Self::chunks_of(&gap));
        }
        spans
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_has_a_hash_once_its_block_is_there() {
        let block = |fill: u8, hashes: usize| vec![fill; hashes * 32];
        let hashes = Hashes::List([[0; 32]; 3].concat());
        let mut blocks = Blocks::new(2 * u64::from(LIST_BLOCK) + 64, hashes);
        assert!(blocks.unknown().iter().eq([&(0..6144)]));
        blocks.keep(2, &block(2, 2));
        blocks.keep(0, &block(1, 2048));
        blocks.keep(3, &block(3, 2048));
        assert!(blocks.unknown().iter().eq([&(2048..4096)]));
        let hash = |chunk| blocks.hash(chunk).map(|hash| hash.0[0]);
        assert_eq!([0, 2047, 2048, 4095, 4096, 4097].map(hash), [Some(1), Some(1), None, None, Some(2), Some(2)]);
        assert_eq!([4098, 6144, u64::MAX].map(hash), [None; 3], "beyond the end there is none");
        blocks.keep(1, &block(4, 2048));
        assert_eq!((blocks.unknown(), blocks.list().is_complete()), (vec![], true));
    }
}
