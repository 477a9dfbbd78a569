//! What a reader waits for comes before everything else: the chunks that it needs, and some that it will need next.

use super::super::Millis;
use super::super::blocks::Blocks;
use super::super::sources::Stage;
use super::super::transfer::{Span, Transfer};
use super::jobs::{Job, Jobs};
use super::schedule::{Move, PER_SOURCE, REQUEST, SILENT};
use super::vicinity::Places;
use super::{Engine, Phase, Rung};
use crate::digest::Sha256;
use crate::messages::SourceIndex;
use std::cmp::Reverse;
use std::collections::VecDeque;

/// Lanes that are kept for readers.
const KEPT: usize = 2;
/// How many chunks are asked for with one that is waited for, once the reader goes on where it was expected to and at the
/// most: twice as many each time.
const AHEAD_LEAST: u64 = 2;
const AHEAD_MOST: u64 = 32;
/// How many come with one that nobody expected, from a source that is fast and far away, at the most.
const BEHIND_MOST: u64 = 16;
/// For so long after a reader has got what it waited for nothing else is asked for: it will go on reading.
const GRACE: Millis = 20;
/// Who has not waited for anything for so long is not expected to go on soon.
const QUIET: Millis = 1000;
/// What a request of the background is meant to take while readers read, so that it is soon out of their way.
pub(super) const BESIDE: Millis = 50;
/// A job that brings a chunk within this time is not overtaken.
const SOON: Millis = 100;
/// A job so young has not shown yet how fast it is.
const YOUNG: Millis = 500;
/// How many jobs may be after one chunk: the second one where the first hardly moves.
const RIVALS: usize = 2;
/// For how many chunks that are waited for and that nobody brings a source is looked for in a turn.
const LOOKED_AT: usize = 64;

/// Who waits for what.
#[derive(Clone, Debug, Default)]
pub(super) struct Demand {
    streaming: bool,
    /// Chunks that are waited for, in the order of the asking.
    waiting: VecDeque<u64>,
    /// Where a reader that goes on in order would go on, and how many chunks are asked for then.
    expected: Span,
    /// When something was last waited for.
    last: Option<Millis>,
    pub(super) places: Places,
}

impl Demand {
    /// How many lanes are not for what nobody waits for.
    pub(super) fn lanes_kept(&self) -> usize {
        if self.streaming { KEPT } else { 0 }
    }

    /// How many connections to a source are not for what nobody waits for.
    pub(super) fn connections_kept(&self) -> usize {
        usize::from(self.streaming)
    }

    /// Whether nothing else is asked for now: what is waited for is on its way, or has just come. Where nobody can be asked
    /// for it alone (a server that knows no ranges), the rest brings it.
    pub(super) fn comes_first(&self, jobs: &Jobs, ordered: bool, now: Millis) -> bool {
        match self.waiting.is_empty() {
            // Where it is known what a boot reads next, that is the best guess at what the reader goes on with.
            true => !ordered && self.rests_until() > now,
            false => {
                let comes = |stage, place: fn(u64) -> u64| {
                    let claims = jobs.claims(stage);
                    self.waiting.iter().any(|chunk| claims.iter().any(|claim| claim.contains(&place(*chunk))))
                };
                comes(Stage::Image, |chunk| chunk) || comes(Stage::List, Blocks::of)
            }
        }
    }

    /// The first chunk is waited for: what is in it tells whether the image can be served, and then it is read.
    pub(super) fn open(&mut self) {
        self.add(0..1);
    }

    /// Whether anything was waited for yet, or will be.
    pub(super) fn is_awake(&self) -> bool {
        self.streaming || self.last.is_some() || !self.waiting.is_empty()
    }

    /// Whether the image is being served.
    pub(super) fn is_streaming(&self) -> bool {
        self.streaming
    }

    /// Until when the rest of the image rests after a reader got what it waited for.
    pub(super) fn rests_until(&self) -> Millis {
        self.last.map_or(0, |last| last.saturating_add(GRACE))
    }

    /// Whether nobody has waited for some time, or nobody ever does.
    pub(super) fn is_quiet(&self, now: Millis) -> bool {
        self.waiting.is_empty() && self.last.is_none_or(|last| now.saturating_sub(last) >= QUIET)
    }

    /// What a request of the background is meant to take, where otherwise it were `usual`: the more the longer nobody
    /// has waited.
    pub(super) fn pace(&self, usual: Millis, now: Millis) -> Millis {
        match self.last {
            Some(last) => (now.saturating_sub(last) / 2).clamp(BESIDE, usual),
            None if self.is_awake() => BESIDE,
            None => usual,
        }
    }

    /// Forgets what is there now.
    fn look(&mut self, transfer: &Transfer, now: Millis) {
        let before = self.waiting.len();
        self.waiting.retain(|chunk| !transfer.has(*chunk));
        if before > 0 {
            self.last = Some(now);
        }
    }

    /// A reader waits for a run of chunks, all at once.
    fn add(&mut self, run: Span) {
        self.places.visit(run.start);
        for chunk in run.clone() {
            if !self.waiting.contains(&chunk) {
                self.waiting.push_back(chunk);
            }
        }
        let width = self.expected.end.saturating_sub(self.expected.start);
        // The first chunks behind the last asked ones were asked for as well, so the reader comes to ask beyond them.
        let goes_on = run.start >= self.expected.start && run.start <= self.expected.end && self.last.is_some();
        let ahead = if goes_on { (width * 2).clamp(AHEAD_LEAST, AHEAD_MOST) } else { 0 };
        self.expected = run.end..run.end.saturating_add(ahead);
    }

    /// How many chunks that are waited for lie right behind that one.
    fn behind(&self, chunk: u64) -> u64 {
        (1..AHEAD_MOST).take_while(|more| self.waiting.contains(&(chunk + more))).count() as u64
    }

    /// How many chunks are asked for with those up to `end` since their reader reads in order.
    fn ahead(&self, end: u64) -> u64 {
        if self.expected.start == end { self.expected.end - end } else { 0 }
    }
}

impl Engine {
    /// Readers will see the image of this manifest: from now on no other one counts, whoever vouches for it. Where its source
    /// has contradicted itself in between, it is looked for again.
    pub fn keep_to(&mut self, manifest: Sha256, now: Millis) {
        self.wanted.manifest = Some(manifest);
        let other = match &self.phase {
            Phase::Discovery(rung) => *rung != Rung::Manifest,
            Phase::Signature { .. } => true,
            Phase::List { plan, .. }
            | Phase::Opening(plan)
            | Phase::Recovering { plan, .. }
            | Phase::Image { plan, .. } => plan.vouched.manifest != Some(manifest),
            // Too late.
            Phase::Completing { .. } | Phase::Done => false,
        };
        if other {
            self.look_for_manifest();
            self.now = now;
            self.pump(now);
        }
    }

    /// The image is served: from now on some lanes are kept for readers, and what runs already, which was asked for in
    /// one piece, is cut to what it brings soon.
    pub fn stream(&mut self, now: Millis) {
        self.demand.streaming = true;
        let size = |stage| self.part(stage).map_or(1, |file| file.chunk_size().max(1));
        let (list, image) = (size(Stage::List), size(Stage::Image));
        for job in self.jobs.live_mut().filter(|job| !job.whole) {
            let size = if job.stage == Stage::List { list } else { image };
            let soon = (job.rate(now).saturating_mul(BESIDE) / 1000 / size).max(AHEAD_LEAST);
            job.claim.end = job.claim.end.min(job.claim.start.saturating_add(soon));
        }
    }

    /// Readers wait for these chunks; where the image has to be found again first, they are brought then.
    pub fn demand(&mut self, chunks: impl IntoIterator<Item = u64>, now: Millis) {
        let there = |chunk: &u64| matches!(&self.phase, Phase::Image { image, .. } if image.has(*chunk));
        let mut runs: Vec<Span> = Vec::new();
        for chunk in chunks.into_iter().filter(|chunk| !there(chunk)) {
            match runs.last_mut() {
                Some(run) if run.end == chunk => run.end += 1,
                _ => runs.push(chunk..chunk + 1),
            }
        }
        for run in runs {
            self.demand.add(run);
            self.demand.last = Some(now);
        }
        self.now = now;
        if let Phase::Image { .. } = &self.phase {
            self.pump(now);
        }
    }

    /// Takes note of what came for readers.
    pub(super) fn look_after_readers(&mut self, now: Millis) {
        if let Phase::Image { image, .. } = &self.phase {
            self.demand.look(image, now);
        }
    }

    /// The next chunk that is waited for and that nobody brings soon.
    pub(super) fn urgent(&self, image: &Transfer, now: Millis) -> Option<Move> {
        let missing = self.demand.waiting.iter().copied().filter(|chunk| !image.has(*chunk));
        // Without its hash it is of no use.
        let needed = missing.map(|chunk| match image.list().filter(|_| image.hash(chunk).is_none()) {
            Some(list) => (Stage::List, list, Blocks::of(chunk)),
            None => (Stage::Image, image, chunk),
        });
        let nobody_brings = needed.filter(|(stage, file, chunk)| !self.comes_soon(*stage, file, *chunk, now));
        nobody_brings.take(LOOKED_AT).find_map(|(stage, file, chunk)| self.fetch_chunk(stage, file, chunk, now))
    }

    /// Whether a chunk is there and being judged, or somebody is about to bring it, or as many as may are after it.
    fn comes_soon(&self, stage: Stage, transfer: &Transfer, chunk: u64, now: Millis) -> bool {
        let after = || self.jobs.of(stage).filter(|job| job.claim.contains(&chunk));
        self.jobs.judged(stage).any(|judged| judged == chunk)
            || after().filter(|job| now.saturating_sub(job.heard) < SILENT).count() >= RIVALS
            || after().any(|job| brings_soon(job, transfer, chunk, now))
    }

    fn fetch_chunk(&self, stage: Stage, transfer: &Transfer, chunk: u64, now: Millis) -> Option<Move> {
        let source = self.best_for(stage, transfer, chunk, now)?;
        let after = self.jobs.of(stage).find(|job| job.claim.contains(&chunk));
        // What is waited for with it and what lies ahead come along, up to what is there, comes from another or has no
        // hash yet.
        let mut others = self.jobs.claims(stage);
        others.retain(|claim| !claim.contains(&chunk));
        others.extend(transfer.unknown());
        let more = if stage == Stage::Image {
            let behind = self.demand.behind(chunk);
            behind + self.demand.ahead(chunk + 1 + behind).max(self.meanwhile(source, transfer.chunk_size()))
        } else {
            0
        };
        let span = transfer.gap(chunk, more + 1, &others).filter(|span| span.start == chunk)?;
        Some(match after {
            Some(job) => Move::TakeOver(source, stage, job.number, span),
            None => Move::Ask(source, stage, span),
        })
    }

    /// How many chunks a source brings in the time that its answer takes: what lies behind a chunk is read soon more often
    /// than not, and to ask for it apart would take longer.
    fn meanwhile(&self, source: SourceIndex, chunk_size: u64) -> u64 {
        let Some(source) = self.sources.get(source) else { return 0 };
        let takes = source.delay.unwrap_or(0).max(REQUEST);
        let brings = source.rate.unwrap_or(0).saturating_mul(takes) / 1000;
        (brings / chunk_size.max(1)).min(BEHIND_MOST)
    }

    /// The fastest source that is there, may be asked, and has a connection to spare; one that is after the chunk already
    /// hardly moves, so another comes before it.
    fn best_for(&self, stage: Stage, transfer: &Transfer, chunk: u64, now: Millis) -> Option<SourceIndex> {
        let fit = self.sources.live().filter(|(index, source)| {
            source.readiness().0 <= now
                && !source.whole_only
                && !source.lacks(stage)
                && self.jobs.to(*index) < PER_SOURCE
                && self.may_ask(stage, transfer, chunk, *index)
        });
        let is_after_it = |index| self.jobs.of(stage).any(|job| job.source == index && job.claim.contains(&chunk));
        fit.min_by_key(|(index, source)| {
            let tried = is_after_it(*index);
            (tried, source.readiness().1, source.struck, Reverse(source.rate), self.jobs.to(*index), *index)
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
    // One that was fast until it fell silent is still fast by its mean.
    now.saturating_sub(job.heard) < YOUNG && before.saturating_mul(1000) / job.rate(now) <= SOON
}

#[cfg(test)]
mod tests {
    use super::*;

    fn width(demand: &Demand) -> u64 {
        demand.expected.end - demand.expected.start
    }

    #[test]
    fn a_reader_that_goes_on_in_order_gets_more_ahead_and_one_that_jumps_does_not() {
        let mut demand = Demand { last: Some(0), ..Demand::default() };
        demand.add(100..101);
        assert_eq!(width(&demand), 0);
        for (chunk, ahead) in [(101, 2), (104, 4), (109, 8), (118, 16), (135, 32), (168, 32)] {
            demand.add(chunk..chunk + 1);
            assert_eq!(width(&demand), ahead, "{chunk}");
        }
        demand.add(5..6);
        assert_eq!(width(&demand), 0);
    }

    #[test]
    fn one_read_of_several_chunks_is_not_reading_in_order_and_the_next_one_is() {
        let mut demand = Demand { last: Some(0), ..Demand::default() };
        demand.add(100..107);
        assert_eq!((width(&demand), demand.behind(100), demand.behind(104), demand.ahead(107)), (0, 6, 2, 0));
        demand.add(107..114);
        assert_eq!((demand.expected.clone(), demand.ahead(114), demand.ahead(107)), (114..116, 2, 0));
    }
}
