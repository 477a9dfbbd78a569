//! Where readers have been of late. A file system keeps what belongs together close together: what lies around there is
//! read next more often than what lies at the beginning of the image.

use super::super::transfer::Span;
use std::collections::VecDeque;

/// Bytes of a vicinity before and behind the place that was read.
const BEFORE: u64 = 512 << 10;
const BEHIND: u64 = 1536 << 10;
/// How many places are remembered.
const MOST: usize = 16;

/// The places, the latest first.
#[derive(Clone, Debug, Default)]
pub(super) struct Places(VecDeque<u64>);

impl Places {
    /// A reader asks for the chunk.
    pub(super) fn visit(&mut self, chunk: u64) {
        self.0.retain(|place| *place != chunk);
        self.0.push_front(chunk);
        self.0.truncate(MOST);
    }

    /// What lies around them, in chunks of that size.
    pub(super) fn vicinities(&self, chunk_size: u64) -> impl Iterator<Item = Span> {
        let chunks = move |bytes: u64| bytes / chunk_size.max(1);
        self.0.iter().map(move |place| place.saturating_sub(chunks(BEFORE))..place.saturating_add(chunks(BEHIND)))
    }
}
