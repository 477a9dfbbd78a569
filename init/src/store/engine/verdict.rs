//! What becomes of a chunk.

use super::super::Millis;
use super::super::superblock::{self, PROBE, SuperblockFault};
use super::super::transfer::Verdict;
use super::discovery::NO_HASH;
use super::{Action, Engine, Phase};
use crate::digest::Sha256;
use crate::messages::{SourceIndex, StoreCause};

impl Engine {
    /// Judges a missing chunk by its bytes and, where there are hashes, by its hash. True if it is to be written to
    /// the image.
    pub fn chunk(&mut self, chunk: u64, bytes: &[u8], hash: Option<Sha256>) -> bool {
        let Some(job) = &mut self.job else { return false };
        let source = job.source;
        let transfer = match &mut self.phase {
            Phase::List { list, .. } => list,
            Phase::Image { image, .. } => image,
            _ => return false,
        };
        let verdict = match hash {
            None if transfer.has_hashes() => return false,
            hash => transfer.judge(chunk, hash.unwrap_or(NO_HASH), source),
        };
        if verdict == Verdict::Kept {
            job.useful = true;
            self.sources.succeeded(source);
            return self.kept_chunk(chunk, bytes, source);
        }
        // A wrong chunk is an answer too: what follows is decided by who sent how many, not by a pause.
        job.useful = true;
        self.tally.rejected_chunks += 1;
        if verdict == Verdict::AllWrong {
            self.cancel();
        }
        false
    }

    /// A chunk that a store that died left; it counts as there if its hash is right.
    pub fn recover(&mut self, chunk: u64, bytes: &[u8], hash: Sha256) {
        let Phase::Recovering { image, .. } = &mut self.phase else { return };
        if chunk != 0 {
            image.recall(chunk, hash);
        } else if let Ok(facts) = superblock::inspect(bytes.get(..PROBE).unwrap_or(bytes), image.size())
            && image.recall(chunk, hash)
        {
            self.facts = Some(facts);
        }
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

    /// What was kept of a chunk is written: goes on where that completed the file, or ended the request.
    pub fn written(&mut self, now: Millis) {
        match &self.phase {
            // The request is let run out: it has no more bytes to come, and its connection stays of use.
            Phase::List { list, .. } if list.is_complete() => {
                self.job = None;
                self.list_complete();
            }
            Phase::Image { image, .. } if image.is_complete() => {
                self.job = None;
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

    fn kept_chunk(&mut self, chunk: u64, bytes: &[u8], source: SourceIndex) -> bool {
        match &mut self.phase {
            Phase::List { bytes: list, list: transfer, .. } => {
                let end = transfer.offset(chunk).saturating_add(bytes.len() as u64);
                let (Ok(start), Ok(end)) = (usize::try_from(transfer.offset(chunk)), usize::try_from(end)) else {
                    return false;
                };
                if list.len() < end {
                    list.resize(end, 0);
                }
                if let Some(place) = list.get_mut(start..end) {
                    place.copy_from_slice(bytes);
                }
                false
            }
            Phase::Image { plan, image } => {
                self.tally.verified = image.verified();
                if chunk != 0 {
                    return true;
                }
                // The first chunk tells a web page, a truncated image or another file before the rest is fetched.
                let size = image.size();
                match superblock::inspect(bytes.get(..PROBE).unwrap_or(bytes), size) {
                    Ok(facts) => {
                        self.facts = Some(facts);
                        true
                    }
                    Err(fault) => {
                        let blamed = plan.origin.unwrap_or(source);
                        self.blame(blamed, cause(fault, source));
                        // That chunk counts as there, but was never written.
                        self.kept = None;
                        false
                    }
                }
            }
            _ => false,
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
