//! What a reader waits for comes before everything else: the chunks that it needs, and some that it will need next.

use super::super::Millis;
use super::super::transfer::{Span, Transfer};
use super::jobs::Job;
use super::schedule::{Move, PER_SOURCE};
use super::{Engine, Phase};
use crate::messages::SourceIndex;
use std::cmp::Reverse;
use std::collections::VecDeque;

/// Lanes that are kept for readers.
const KEPT: usize = 2;
/// How many chunks are asked for with a single one that is waited for, at the least and at the most: twice as many each
/// time that the reader goes on where it was expected to.
const AHEAD_LEAST: u64 = 1;
const AHEAD_MOST: u64 = 32;
/// A job that brings a chunk within this time is not overtaken.
const SOON: Millis = 100;
/// A job so young has not shown yet how fast it is.
const YOUNG: Millis = 500;
/// How many jobs may be after one chunk: the second one where the first hardly moves.
const RIVALS: usize = 2;
/// How many chunks that are waited for are looked at in a turn; readers wait for few at a time.
const LOOKED_AT: usize = 64;

/// Who waits for what.
#[derive(Clone, Debug, Default)]
pub(super) struct Demand {
    streaming: bool,
    /// Chunks that are waited for, in the order of the asking.
    waiting: VecDeque<u64>,
    /// Where a reader that goes on in order would go on, and how many chunks are asked for then.
    expected: Span,
}

impl Demand {
    /// How many lanes are not for what nobody waits for.
    pub(super) fn lanes_kept(&self) -> usize {
        if self.streaming { KEPT } else { 0 }
    }

    /// Whether something is waited for: then nothing else is asked for.
    pub(super) fn comes_first(&self, transfer: &Transfer) -> bool {
        self.waiting.iter().any(|chunk| !transfer.has(*chunk))
    }

    fn add(&mut self, chunk: u64) {
        if !self.waiting.contains(&chunk) {
            self.waiting.push_back(chunk);
        }
        let width = self.expected.end.saturating_sub(self.expected.start);
        // The first chunks behind the last asked ones were asked for as well, so the reader comes to ask beyond them.
        let goes_on = chunk >= self.expected.start && chunk <= self.expected.end;
        let ahead = if goes_on { (width * 2).clamp(AHEAD_LEAST, AHEAD_MOST) } else { AHEAD_LEAST };
        self.expected = chunk + 1..chunk + 1 + ahead;
    }
}

impl Engine {
    /// The image is served: from now on some lanes are kept for readers.
    pub fn stream(&mut self) {
        self.demand.streaming = true;
    }

    /// Readers wait for these chunks.
    pub fn demand(&mut self, chunks: impl IntoIterator<Item = u64>, now: Millis) {
        let Phase::Image { image, .. } = &self.phase else { return };
        self.demand.waiting.retain(|chunk| !image.has(*chunk));
        let missing: Vec<u64> = chunks.into_iter().filter(|chunk| !image.has(*chunk)).collect();
        missing.into_iter().for_each(|chunk| self.demand.add(chunk));
        self.now = now;
        self.pump(now);
    }

    /// The next chunk that is waited for and that nobody brings soon.
    pub(super) fn urgent(&self, transfer: &Transfer, now: Millis) -> Option<Move> {
        let missing = self.demand.waiting.iter().copied().filter(|chunk| !transfer.has(*chunk));
        missing.take(LOOKED_AT).find_map(|chunk| self.fetch_now(transfer, chunk, now))
    }

    fn fetch_now(&self, transfer: &Transfer, chunk: u64, now: Millis) -> Option<Move> {
        let after: Vec<&Job> = self.jobs.live().filter(|job| job.claim.contains(&chunk)).collect();
        if after.len() >= RIVALS || after.iter().any(|job| brings_soon(job, transfer, chunk, now)) {
            return None;
        }
        let source = self.best_for(transfer, chunk, now)?;
        // What lies ahead comes along, up to what is there or comes from another.
        let others: Vec<Span> =
            self.jobs.live().filter(|job| !job.claim.contains(&chunk)).map(|j| j.claim.clone()).collect();
        let ahead = self.demand.expected.end.saturating_sub(self.demand.expected.start).max(AHEAD_LEAST);
        let span = transfer.gap(chunk, ahead + 1, &others).filter(|span| span.start == chunk)?;
        Some(match after.first() {
            Some(job) => Move::TakeOver(source, job.number, span),
            None => Move::Ask(source, span),
        })
    }

    /// The fastest source that is there, may be asked, and has a connection to spare.
    fn best_for(&self, transfer: &Transfer, chunk: u64, now: Millis) -> Option<SourceIndex> {
        let fit = self.sources.live().filter(|(index, source)| {
            source.readiness().0 <= now
                && !source.whole_only
                && self.jobs.to(*index) < PER_SOURCE
                && self.may_ask(transfer, chunk, *index)
        });
        fit.min_by_key(|(index, source)| {
            (source.readiness().1, source.struck, Reverse(source.rate), self.jobs.to(*index), *index)
        })
        .map(|(index, _)| index)
    }
}

/// Whether a job that has claimed a chunk is about to bring it.
fn brings_soon(job: &Job, transfer: &Transfer, chunk: u64, now: Millis) -> bool {
    let before = chunk.saturating_sub(job.claim.start).saturating_add(1).saturating_mul(transfer.chunk_size());
    if now.saturating_sub(job.began) < YOUNG && chunk.saturating_sub(job.claim.start) <= AHEAD_MOST {
        return true;
    }
    before.saturating_mul(1000) / job.rate(now) <= SOON
}

#[cfg(test)]
mod tests {
    use super::*;

    fn width(demand: &Demand) -> u64 {
        demand.expected.end - demand.expected.start
    }

    #[test]
    fn a_reader_that_goes_on_in_order_gets_more_ahead_and_one_that_jumps_does_not() {
        let mut demand = Demand::default();
        demand.add(100);
        assert_eq!(width(&demand), AHEAD_LEAST);
        for (chunk, ahead) in [(102, 2), (105, 4), (110, 8), (119, 16), (136, 32), (169, 32)] {
            demand.add(chunk);
            assert_eq!(width(&demand), ahead, "{chunk}");
        }
        demand.add(5);
        assert_eq!(width(&demand), AHEAD_LEAST);
    }
}
