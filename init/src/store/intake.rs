//! The reading side of a lane of the staging ring, and the one private copy of each chunk: the other process could
//! change the ring between the hashing and the writing, so neither is done there.

use super::transfer::Transfer;
use crate::sys::memory::SharedBytes;
use std::collections::VecDeque;

/// The fetch worker announced more than the lane holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overrun;

/// Reads behind what was read before.
#[derive(Debug)]
pub struct Consumer {
    shared: SharedBytes,
    position: usize,
    /// Announced bytes by job, in order.
    announced: VecDeque<(u32, usize)>,
    available: usize,
    /// Bytes read of which the fetch worker was not told.
    credit: usize,
}

impl Consumer {
    /// An empty ring.
    pub fn new(shared: SharedBytes) -> Self {
        Self { shared, position: 0, announced: VecDeque::new(), available: 0, credit: 0 }
    }

    /// A new fetch worker begins at the first byte; what its predecessor left is void.
    pub fn restart(&mut self) {
        self.position = 0;
        self.announced.clear();
        self.available = 0;
        self.credit = 0;
    }

    /// Takes an announcement.
    pub fn announce(&mut self, job: u32, bytes: usize) -> Result<(), Overrun> {
        let available = self.available.checked_add(bytes).filter(|all| *all <= self.shared.len()).ok_or(Overrun)?;
        if available + self.credit > self.shared.len() {
            return Err(Overrun);
        }
        self.available = available;
        match self.announced.back_mut() {
            Some((last, length)) if *last == job => *length += bytes,
            _ => self.announced.push_back((job, bytes)),
        }
        Ok(())
    }

    /// The job whose bytes come next, and how many of them are there.
    pub fn front(&self) -> Option<(u32, usize)> {
        self.announced.front().copied()
    }

    /// Passes over `bytes`, at most those of the front.
    pub fn skip(&mut self, bytes: usize) {
        let Some((_, left)) = self.announced.front_mut() else { return };
        let bytes = bytes.min(*left);
        *left -= bytes;
        if *left == 0 {
            self.announced.pop_front();
        }
        self.position = (self.position + bytes) % self.shared.len();
        self.available -= bytes;
        self.credit += bytes;
    }

    /// Copies from the front into all of `to`; false where there is not so much.
    #[must_use]
    pub fn take(&mut self, to: &mut [u8]) -> bool {
        let length = to.len();
        if self.front().is_none_or(|(_, left)| left < length) {
            return false;
        }
        let before_end = length.min(self.shared.len() - self.position);
        let (first, second) = to.split_at_mut(before_end);
        let copied = self.shared.read(self.position, first) && self.shared.read(0, second);
        self.skip(length);
        copied
    }

    /// Bytes to give back, once they are worth a message.
    pub fn due_credit(&mut self) -> Option<u32> {
        // Each word of it wakes a thread over there.
        if self.credit < self.shared.len() / 2 {
            return None;
        }
        u32::try_from(std::mem::take(&mut self.credit)).ok()
    }
}

/// A chunk being put together.
#[derive(Debug, Default)]
pub struct Assembler {
    position: u64,
    buffer: Vec<u8>,
    filled: usize,
}

/// What one step of the assembler gave.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Bytes were passed over or collected; there may be more.
    Moved,
    /// This chunk is whole: see [`Assembler::chunk`].
    Whole(u64),
}

impl Assembler {
    /// The next byte is that of the file at `position`.
    pub fn seek(&mut self, position: u64) {
        self.position = position;
        self.filled = 0;
    }

    /// The bytes of the chunk that was completed last.
    pub fn chunk(&self) -> &[u8] {
        self.buffer.get(..self.filled).unwrap_or_default()
    }

    /// The same, to be kept; `next` is what the following chunk is put together in.
    pub fn take_chunk(&mut self, next: Vec<u8>) -> Vec<u8> {
        let mut chunk = std::mem::replace(&mut self.buffer, next);
        // Longer only where the last chunk, which is shorter, took the place of another.
        chunk.truncate(std::mem::take(&mut self.filled));
        chunk
    }

    /// Takes bytes of the front of `ring`, up to the end of a chunk. Passes over chunks that are there already, the
    /// rest of a chunk whose beginning did not come, and everything beyond the end of the file.
    pub fn step(&mut self, ring: &mut Consumer, transfer: &Transfer) -> Step {
        let available = ring.front().map_or(0, |(_, left)| left);
        let number = self.position / transfer.chunk_size();
        let start = transfer.offset(number);
        let length = transfer.length(number);
        let into = self.position - start;
        // The last chunk may be shorter than its slot; behind it, as behind the last slot, there is no file.
        if into >= length {
            ring.skip(available);
            return Step::Moved;
        }
        if into == 0 {
            self.filled = 0;
        }
        let left = usize::try_from(length - into).unwrap_or(usize::MAX);
        let take = available.min(left);
        if transfer.has(number) || self.filled as u64 != into {
            ring.skip(take);
            self.position += take as u64;
            return Step::Moved;
        }
        let (from, to) = (self.filled, self.filled + take);
        if self.buffer.len() < to {
            self.buffer.resize(usize::try_from(length).unwrap_or(to).max(to), 0);
        }
        if let Some(place) = self.buffer.get_mut(from..to)
            && ring.take(place)
        {
            self.filled = to;
        }
        self.position += take as u64;
        if self.filled as u64 == length { Step::Whole(number) } else { Step::Moved }
    }
}

#[cfg(test)]
mod tests {
    use super::super::transfer::Hashes;
    use super::*;
    use crate::sys::memory;

    fn ring(length: usize) -> (SharedBytes, Consumer) {
        let memfd = memory::create("ring").unwrap();
        let file = std::fs::File::from(memfd);
        file.set_len(length as u64).unwrap();
        let writer = SharedBytes::map(&file, 0, length).unwrap();
        (writer, Consumer::new(SharedBytes::map(&file, 0, length).unwrap()))
    }

    #[test]
    fn bytes_come_out_as_they_went_in_over_the_rings_end() {
        let (writer, mut ring) = ring(8192);
        assert!(writer.write(0, &[1; 8192]));
        ring.announce(1, 8000).unwrap();
        ring.skip(8000);
        assert_eq!(ring.due_credit(), Some(8000));
        assert!(writer.write(8000, &[2; 192]) && writer.write(0, &[3; 100]));
        ring.announce(1, 292).unwrap();
        let mut out = [0; 292];
        assert!(ring.take(&mut out));
        assert_eq!((&out[..192], &out[192..]), (&[2; 192][..], &[3; 100][..]));
        assert!(!ring.take(&mut out));
    }

    #[test]
    fn more_than_the_ring_holds_is_an_overrun() {
        let (_writer, mut ring) = ring(4096);
        ring.announce(1, 4096).unwrap();
        assert_eq!(ring.announce(1, 1), Err(Overrun));
        ring.skip(100);
        assert_eq!(ring.announce(1, 1), Err(Overrun), "the worker was not told of the room yet");
    }

    #[test]
    fn bytes_of_one_job_end_where_those_of_the_next_begin() {
        let (_writer, mut ring) = ring(4096);
        ring.announce(1, 10).unwrap();
        ring.announce(1, 5).unwrap();
        ring.announce(2, 7).unwrap();
        assert_eq!(ring.front(), Some((1, 15)));
        ring.skip(100);
        assert_eq!(ring.front(), Some((2, 7)));
    }

    #[test]
    fn only_whole_missing_chunks_are_put_together() {
        let (writer, mut ring) = ring(1 << 16);
        let bytes: Vec<u8> = (0..3 * 4096 + 5).map(|n| (n / 4096) as u8 + 1).collect();
        assert!(writer.write(0, &bytes));
        let mut transfer = Transfer::new(bytes.len() as u64, 4096, Hashes::List([[9; 32]; 4].concat()));
        transfer.keep(1);
        let mut assembler = Assembler::default();
        let mut whole = Vec::new();
        let mut run = |ring: &mut Consumer, at: u64| {
            assembler.seek(at);
            for _ in 0..100 {
                if ring.front().is_none() {
                    return;
                }
                if let Step::Whole(chunk) = assembler.step(ring, &transfer) {
                    whole.push((chunk, assembler.chunk().to_vec()));
                }
            }
            panic!("the ring is never empty");
        };
        ring.announce(1, bytes.len()).unwrap();
        run(&mut ring, 0);
        // From the middle of chunk 2 on: its rest is of no use; beyond the end nothing is.
        ring.announce(2, 4096).unwrap();
        run(&mut ring, 2 * 4096 + 4000);
        let first = [(0, vec![1; 4096]), (2, vec![3; 4096]), (3, vec![4; 5])];
        assert_eq!(whole, [first.as_slice(), &[(3, vec![0; 5])]].concat());
    }
}
