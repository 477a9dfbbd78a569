//! What becomes of a chunk.

use super::super::Millis;
use super::super::sources::Stage;
use super::super::superblock::{self, PROBE, SuperblockFault};
use super::super::transfer::Transfer;
use super::jobs::Job;
use super::{Action, Engine, Phase};
use crate::digest::Sha256;
use crate::messages::{FetchCause, SourceIndex, StoreCause};

/// So many wrong chunks in a row end a request: what comes is another file.
const ROW: u32 = 4;

impl Engine {
    /// A chunk of a job is whole, and being judged.
    pub fn take(&mut self, number: u32, chunk: u64) {
        if let Some(job) = self.jobs.get_mut(number) {
            job.take(chunk);
            self.widen(number);
            self.give_up_idle();
        }
    }

    /// A chunk of the image was held against `expected`; a right one is written. It may have come by a job that is no
    /// more, but counts only for the plan that it was judged for.
    pub fn judged(&mut self, number: u32, chunk: u64, bytes: &[u8], expected: Sha256, right: bool, now: Millis) {
        let source = self.jobs.any(number).map(|job| job.source);
        if let Some(job) = self.jobs.any_mut(number) {
            job.settle(chunk);
            job.useful = true;
            job.wrong_in_a_row = if right { 0 } else { job.wrong_in_a_row.saturating_add(1) };
        }
        let Phase::Image { image, .. } = &mut self.phase else { return };
        if image.hash(chunk) != Some(expected) {
            return;
        }
        match (right, source) {
            (true, _) => {
                // The first chunk is judged by its contents too, by whom it came from.
                if chunk == 0 && !self.opens(bytes, source.unwrap_or(0)) {
                    return;
                }
                if let Phase::Image { image, .. } = &mut self.phase {
                    image.keep(chunk);
                    self.tally.verified = image.verified();
                }
                if let Some(source) = source {
                    self.sources.succeeded(source);
                }
                self.give_up_idle();
            }
            (false, Some(source)) => {
                image.reject(chunk, source);
                self.struck(number, source, now);
            }
            (false, None) => {}
        }
    }

    /// A source sent a wrong chunk. Where there are others it is left alone for a while.
    fn struck(&mut self, number: u32, index: SourceIndex, now: Millis) {
        self.tally.rejected_chunks = self.tally.rejected_chunks.saturating_add(1);
        let others = self.sources.live().any(|(other, _)| other != index);
        if let Some(source) = self.sources.get_mut(index) {
            source.tally.rejected_chunks = source.tally.rejected_chunks.saturating_add(1);
            source.struck = true;
        }
        if others {
            let jobs: Vec<_> = self.jobs.live().filter(|job| job.source == index).cloned().collect();
            jobs.iter().for_each(|job| self.cancel(job.number));
            if let Some(job) = jobs.first() {
                self.request_failed(job, FetchCause::WrongBytes, now);
            }
        } else if self.jobs.get(number).is_some_and(|job| job.wrong_in_a_row >= ROW) {
            self.cancel(number);
        }
    }

    /// A chunk of the chunk list came by a job.
    pub fn list_chunk(&mut self, number: u32, chunk: u64, bytes: &[u8], now: Millis) {
        let Some(source) = self.jobs.get(number).map(|job| job.source) else { return };
        let Some(size) = self.part(Stage::List).map(Transfer::size) else { return };
        let right = match &mut self.phase {
            Phase::List { list: transfer, bytes: list, .. } => {
                let right = transfer.hash(chunk) == Some(Sha256::of(bytes));
                if right {
                    let start = usize::try_from(transfer.offset(chunk)).unwrap_or(usize::MAX);
                    let Some(end) = start.checked_add(bytes.len()) else { return };
                    if list.len() < end {
                        list.resize(end, 0);
                    }
                    if let Some(place) = list.get_mut(start..end) {
                        place.copy_from_slice(bytes);
                    }
                    transfer.keep(chunk);
                } else {
                    transfer.reject(chunk, source);
                }
                right
            }
            Phase::Image { image, .. } => {
                let Some(blocks) = image.blocks_mut() else { return };
                let right = blocks.list().hash(chunk) == Some(Sha256::of(bytes));
                if right {
                    blocks.keep(chunk, bytes);
                } else {
                    blocks.list_mut().reject(chunk, source);
                }
                right
            }
            _ => return,
        };
        if let Some(job) = self.jobs.get_mut(number) {
            job.settle(chunk);
            job.useful = true;
            job.wrong_in_a_row = if right { 0 } else { job.wrong_in_a_row.saturating_add(1) };
        }
        if right {
            self.sources.succeeded(source);
            self.give_up_idle();
            if let Phase::Image { image, .. } = &self.phase
                && image.list().is_none()
            {
                self.release_jobs(Stage::List, size);
                self.sources.list_is_whole(self.now);
            }
        } else {
            self.struck(number, source, now);
        }
    }

    /// The next chunk of an image without chunk hashes came. True if it is to be written.
    pub fn next_chunk(&mut self, number: u32, chunk: u64, bytes: &[u8]) -> bool {
        let Some(job) = self.jobs.get_mut(number) else { return false };
        job.useful = true;
        let source = job.source;
        let Phase::Image { image, .. } = &mut self.phase else { return false };
        if image.has_hashes() || chunk != image.first_missing() || chunk == 0 && !self.opens(bytes, source) {
            return false;
        }
        if let Phase::Image { image, .. } = &mut self.phase {
            image.keep(chunk);
            self.tally.verified = image.verified();
        }
        self.sources.succeeded(source);
        true
    }

    /// Whether the first chunk is that of a filesystem that fits: it tells a web page, a truncated image or another
    /// file before the rest is fetched.
    fn opens(&mut self, bytes: &[u8], source: SourceIndex) -> bool {
        let Phase::Image { plan, image } = &self.phase else { return false };
        match superblock::inspect(bytes.get(..PROBE).unwrap_or(bytes), image.size()) {
            Ok(facts) => {
                self.facts = Some(facts);
                true
            }
            Err(fault) => {
                // A chunk that has the right hash is what its origin said.
                let blamed = plan.origin.filter(|_| image.has_hashes()).unwrap_or(source);
                self.blame(blamed, cause(fault, source));
                false
            }
        }
    }

    /// A chunk that a store that died left; it counts as there if its hash is right.
    pub fn recover(&mut self, chunk: u64, bytes: &[u8], hash: Sha256) {
        let Phase::Recovering { image, .. } = &mut self.phase else { return };
        if image.hash(chunk) != Some(hash) {
            return;
        }
        if chunk == 0 {
            match superblock::inspect(bytes.get(..PROBE).unwrap_or(bytes), image.size()) {
                Ok(facts) => self.facts = Some(facts),
                // It is fetched, and judged like any other.
                Err(_) => return,
            }
        }
        image.keep(chunk);
        self.tally.verified = image.verified();
    }

    /// On to what is missing still.
    pub(super) fn recovered(&mut self, now: Millis) {
        let phase = std::mem::replace(&mut self.phase, Phase::Done);
        self.phase = match phase {
            Phase::Recovering { plan, image } => Phase::Image { plan, image },
            other => other,
        };
        self.written(now);
    }

    /// What was kept of a chunk is written: goes on where that completed the file.
    pub fn written(&mut self, now: Millis) {
        self.now = now;
        match &self.phase {
            Phase::List { list, .. } if list.is_complete() => {
                self.release_jobs(Stage::List, list.size());
                self.list_complete();
            }
            Phase::Image { image, .. } if image.is_complete() => {
                self.release_jobs(Stage::Image, image.size());
                let phase = std::mem::replace(&mut self.phase, Phase::Done);
                if let Phase::Image { plan, image } = phase {
                    self.actions.push_back(Action::Complete { hash: plan.whole.is_some() });
                    self.phase = Phase::Completing { plan, image };
                }
            }
            _ => {}
        }
        self.pump(now);
    }

    /// A file of `size` bytes is complete: requests that have no more bytes to come are let run out, since their connections stay of
    /// use; the others are given up.
    fn release_jobs(&mut self, stage: Stage, size: u64) {
        let asked = |job: &Job| job.range.map_or(size, |range| range.end - range.start);
        let jobs: Vec<_> = self.jobs.of(stage).map(|job| (job.number, job.bytes >= asked(job))).collect();
        for (number, delivered) in jobs {
            if delivered {
                self.jobs.deliver(number);
            } else {
                self.cancel(number);
            }
        }
    }
}

fn cause(fault: SuperblockFault, source: SourceIndex) -> StoreCause {
    match fault {
        SuperblockFault::Empty => StoreCause::Empty { source },
        SuperblockFault::Truncated { size, needed } => StoreCause::Truncated { size, needed },
        SuperblockFault::NotAFilesystem { magic } => StoreCause::NotAFilesystem { magic },
        SuperblockFault::Invalid { filesystem } => StoreCause::Superblock { filesystem },
    }
}
