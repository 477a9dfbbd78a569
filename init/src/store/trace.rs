//! Which chunks of a served image are read first, in that order.

use crate::boot_order::Subject;
use std::ops::Range;

/// The most chunks told at once: five bytes each at the most, of the 32 KiB of a message.
pub const PIECE: usize = 4096;

/// What was read so far.
#[derive(Debug)]
pub struct Trace {
    subject: Subject,
    /// A bit a chunk that was read.
    seen: Vec<u64>,
    chunks: Vec<u32>,
}

impl Trace {
    /// Nothing of that image was read.
    pub fn new(subject: Subject) -> Self {
        Self { subject, seen: Vec::new(), chunks: Vec::new() }
    }

    /// These chunks are read; each counts once.
    pub fn touch(&mut self, chunks: Range<u64>) {
        let count = self.subject.size.div_ceil(u64::from(self.subject.chunk_size.max(1)));
        for chunk in chunks.start..chunks.end.min(count) {
            let (Ok(number), Ok(word)) = (u32::try_from(chunk), usize::try_from(chunk / 64)) else { return };
            if self.seen.len() <= word {
                self.seen.resize(word + 1, 0);
            }
            let Some(word) = self.seen.get_mut(word) else { return };
            if *word >> (chunk % 64) & 1 == 0 {
                *word |= 1 << (chunk % 64);
                self.chunks.push(number);
            }
        }
    }

    /// The image, and the chunks from the place `from` of the order on, [`PIECE`] at the most.
    pub fn piece(&self, from: u32) -> (Subject, Vec<u32>) {
        let from = usize::try_from(from).unwrap_or(usize::MAX);
        (self.subject, self.chunks.iter().skip(from).take(PIECE).copied().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Sha256;
    use crate::messages::StoreNews;
    use crate::messages::wire;

    fn trace(chunks: u64) -> Trace {
        Trace::new(Subject { size: chunks * 65_536 - 1, chunk_size: 65_536, sha256: Sha256([7; 32]) })
    }

    #[test]
    fn each_chunk_counts_once_in_the_order_of_its_first_read() {
        let mut trace = trace(300);
        for read in [5..7, 0..1, 6..9, 299..301, 5..6, 400..402] {
            trace.touch(read);
        }
        assert_eq!(trace.piece(0).1, [5, 6, 0, 7, 8, 299]);
        assert_eq!((trace.piece(4).1, trace.piece(6).1, trace.piece(u32::MAX).1), (vec![8, 299], vec![], vec![]));
    }

    #[test]
    fn every_piece_of_the_largest_image_fits_a_message() {
        let mut trace = trace(300);
        trace.chunks = vec![u32::MAX; PIECE + 1];
        let (subject, chunks) = trace.piece(0);
        assert_eq!(chunks.len(), PIECE);
        let Subject { chunk_size, sha256, .. } = subject;
        assert!(wire::encode(&StoreNews::Touched { size: u64::MAX, chunk_size, sha256, chunks }).is_ok());
    }
}
