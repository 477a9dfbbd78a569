//! Who fetches which chunks, of a file whose chunks have hashes.
//!
//! While the image is served, the chunks that a boot is known to read come first, in that order, by requests that are
//! small enough to keep it; and one connection to each source is left to readers.
//!
//! Each source that is there has one connection; another is added for as long as that pays. A request asks for as much
//! as its source brings in two seconds, so a slow one gets less; towards the end the requests get smaller, and a
//! connection with nothing left to do takes over half of what the slowest one has still to bring.

use super::super::Millis;
use super::super::blocks::Blocks;
use super::super::sources::{Source, Stage};
use super::super::transfer::{Span, Transfer};
use super::demand::BESIDE;
use super::jobs::Job;
use super::{Asked, Engine, Phase};
use crate::contract::LANES;
use crate::messages::SourceIndex;
use std::cmp::Reverse;

/// What a request is meant to take.
const SPAN_TIME: Millis = 2000;
/// No request is meant to take less than this, or the way there and back would be what takes the time.
const SPAN_BRIEF: Millis = 100;
/// The smallest request, in bytes; the first one to each of several sources is no larger.
const SPAN_LEAST: u64 = 256 << 10;
/// The first request to a source that is the only one, in bytes.
const SPAN_FIRST: u64 = 8 << 20;
/// The largest request, in bytes.
const SPAN_MOST: u64 = 256 << 20;
/// Chunks that nobody wants yet are fetched with those around them, rather than asked around, where they take no longer
/// than this: about what a further request costs.
pub(super) const REQUEST: Millis = 3;
/// Connections to a source while small pieces are fetched beside readers: the next is asked for while one comes.
const PIPELINED: usize = 2;
/// A reader that waits so much longer for its chunk does not feel it.
const UNFELT: Millis = 2;
/// Connections to one source at the most.
pub(super) const PER_SOURCE: usize = 4;
/// Bytes of chunks that may be put together at once; only chunks of more than a megabyte make lanes scarce.
const ASSEMBLED: u64 = 8 << 20;
/// How often the schedule is looked at while nothing happens.
pub(super) const TICK: Millis = 250;
/// A connection that is worth less than this much more speed (in percent) is not kept.
const PAYS: u64 = 8;
/// How long after a connection that did not pay the next one is tried.
const CONTENT: Millis = 10_000;
/// What taking over costs: a request, and a connection that is closed.
const TAKE_OVER: Millis = 200;
/// How long a job runs before its speed is judged.
const YOUNG: Millis = 500;
/// After so much silence another connection is tried beside it.
pub(super) const SILENT: Millis = 2000;

/// The search for the number of connections that pay.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Climb {
    /// Connections beyond one a source.
    extra: usize,
    /// Beginning of the present step, and the bytes fetched by then.
    step: Option<(Millis, u64)>,
    /// Bytes a second before the last connection was added, while it is on trial.
    trial: Option<u64>,
    /// No further trial before.
    content: Millis,
}

impl Climb {
    /// What is fetched meanwhile tells nothing.
    fn pause(&mut self) {
        self.step = None;
        if self.trial.take().is_some() {
            self.extra = self.extra.saturating_sub(1);
        }
    }

    /// Takes one step at most, `fetched` bytes having come in all and `left` being missing.
    fn step(&mut self, now: Millis, fetched: u64, left: u64, most: usize) {
        let (since, before) = *self.step.get_or_insert((now, fetched));
        let took = now.saturating_sub(since);
        if took < TICK {
            return;
        }
        let rate = fetched.saturating_sub(before).saturating_mul(1000) / took;
        self.step = Some((now, fetched));
        match self.trial.take() {
            Some(before) if rate.saturating_mul(100) < before.saturating_mul(100 + PAYS) => {
                self.extra = self.extra.saturating_sub(1);
                self.content = now + CONTENT;
            }
            // What ends within a second is not worth a trial.
            _ if self.extra < most && now >= self.content && (1..left).contains(&rate) => {
                self.extra += 1;
                self.trial = Some(rate);
            }
            _ => {}
        }
    }
}

/// What a connection that is free does next.
pub(super) enum Move {
    /// Asks for chunks of a file that nobody has claimed.
    Ask(SourceIndex, Stage, Span),
    /// Takes over chunks from a job.
    TakeOver(SourceIndex, Stage, u32, Span),
}

impl Engine {
    /// Sets every connection to work that is free and of use; without a worker it asks for one.
    pub(super) fn fill(&mut self, now: Millis) {
        if !self.is_admitted() {
            return;
        }
        self.climb(now);
        self.look_after_readers(now);
        for _ in 0..LANES {
            let (Some(lane), Some(next)) = (self.jobs.free_lane(), self.next_move(now)) else { break };
            if !self.is_linked() {
                return;
            }
            match next {
                Move::Ask(source, stage, span) => self.ask_chunks(lane, source, stage, span, now),
                Move::TakeOver(source, stage, from, span) => {
                    self.hand_over(from, &span);
                    self.ask_chunks(lane, source, stage, span, now);
                }
            }
        }
        let later = self.sources.live().map(|(_, source)| source.readiness().0).filter(|ready| *ready > now).min();
        let tick = self.jobs.live().next().map(|_| now + TICK);
        let rested = Some(self.demand.rests_until()).filter(|until| *until > now);
        self.wake = [later, tick, rested].into_iter().flatten().min();
        if self.jobs.live().next().is_none() && self.wake.is_some() {
            // The worker is there when the pause is over.
            self.is_linked();
        }
    }

    /// Whether a chunk, or the whole, can be had from nobody any more.
    pub(super) fn despairs(&self) -> bool {
        let lacked = |stage| self.sources.live().all(|(_, source)| source.lacks(stage));
        self.parts().any(|(stage, _)| lacked(stage)) || self.hopeless().is_some()
    }

    /// A missing chunk that no source is left for: all of them sent it wrong too often, or those that did are there
    /// and the others are not. Whoever vouched for it is asked again then, rather than a dead server waited for.
    pub(super) fn hopeless(&self) -> Option<(Stage, u64)> {
        self.parts().find_map(|(stage, file)| Some((stage, self.hopeless_of(stage, file)?)))
    }

    fn hopeless_of(&self, stage: Stage, transfer: &Transfer) -> Option<u64> {
        let hopeless = |chunk: &u64| {
            let barred = |index| transfer.rank(*chunk, index).is_none();
            let left = self.sources.live().filter(|(index, source)| !barred(*index) && !source.lacks(stage));
            let there = self.sources.live().any(|(index, source)| barred(index) && source.answers());
            let mut left = left.map(|(_, source)| source.answers());
            if there { left.all(|answers| !answers) } else { left.next().is_none() }
        };
        transfer.doubtful().find(hopeless)
    }

    /// Whether more may be asked for at once than necessary: a reader would wait for it, unless it is what it reads next.
    fn may_climb(&self, now: Millis) -> bool {
        matches!(&self.phase, Phase::Image { image, .. } if self.demand.is_quiet(now) || self.is_ordered(image))
    }

    fn climb(&mut self, now: Millis) {
        if !self.may_climb(now) {
            self.climb.pause();
        } else if let Phase::Image { image, .. } = &self.phase {
            let sources = self.sources.live().count();
            let beside = self.base(image, sources, now);
            let most = LANES.min(sources * (PER_SOURCE - self.demand.connections_kept())).saturating_sub(beside);
            self.climb.step(now, self.tally.fetched, image.size() - image.verified(), most);
        }
    }

    fn next_move(&self, now: Millis) -> Option<Move> {
        let transfer = self.transfer()?;
        let running = self.jobs.live().filter(|job| now.saturating_sub(job.heard) < SILENT).count();
        let lanes = usize::try_from(ASSEMBLED / transfer.chunk_size().max(1)).unwrap_or(LANES).clamp(1, LANES);
        let ready = |source: &Source| source.readiness().0 <= now;
        let there = self.sources.live().filter(|(_, source)| ready(source)).count();
        let extra = if self.may_climb(now) { self.climb.extra } else { 0 };
        if let Phase::Image { image, .. } = &self.phase
            && let Some(urgent) = self.urgent(image, now)
        {
            return Some(urgent);
        }
        if running >= lanes.saturating_sub(self.demand.lanes_kept()).max(1)
            || self.demand.comes_first(&self.jobs, self.is_ordered(transfer), now)
        {
            return None;
        }
        let wanted = self.base(transfer, there, now) + extra;
        let mut free: Vec<_> = self.sources.live().filter(|(_, source)| ready(source)).collect();
        free.retain(|(index, source)| {
            let careful = source.readiness().1 || source.struck || source.whole_only;
            // Each may have one; a further one only where there are fewer than pay.
            let most = if careful || running >= wanted { 1 } else { PER_SOURCE - self.demand.connections_kept() };
            self.jobs.to(*index) < most
        });
        free.sort_by_key(|(index, source)| {
            (source.readiness().1, source.struck, self.jobs.to(*index), Reverse(source.rate), *index)
        });
        let having = |stage| free.iter().filter(move |(_, source)| !source.lacks(stage)).map(|(index, _)| *index);
        let ask = self.parts().find_map(|(stage, file)| {
            let claims = self.jobs.claims(stage);
            having(stage).find_map(|index| {
                let span = self.span(stage, file, index, &claims, wanted)?;
                Some(Move::Ask(index, stage, span))
            })
        });
        let take_over = |(stage, file)| having(stage).find_map(|index| self.take_over(stage, file, index, now));
        ask.or_else(|| self.parts().find_map(take_over))
    }

    /// How many connections so many sources have before it is tried whether more pay.
    fn base(&self, transfer: &Transfer, sources: usize, now: Millis) -> usize {
        let pipelined = self.is_ordered(transfer) || self.demand.is_streaming() && self.is_fast(transfer, now);
        if pipelined { sources * PIPELINED } else { sources }
    }

    /// Whether a source that is there brings a chunk so soon that a reader does not feel what else is on its way.
    fn is_fast(&self, transfer: &Transfer, now: Millis) -> bool {
        let there = |source: &Source| source.readiness().0 <= now && !source.readiness().1;
        let rates = self.sources.live().filter(|(_, source)| there(source)).filter_map(|(_, source)| source.rate);
        let fastest = rates.max();
        fastest.is_some_and(|rate| transfer.chunk_size().saturating_mul(1000) / rate.max(1) < UNFELT)
    }

    /// Whether what comes next is what a boot reads next. An image that is loaded before it is used is as soon whole in
    /// any order, and sooner by large requests.
    fn is_ordered(&self, transfer: &Transfer) -> bool {
        self.demand.is_streaming() && matches!(self.phase, Phase::Image { .. }) && transfer.order_is_pending()
    }

    /// Whether the hash of what a boot reads next, beyond what is asked for, is there; its block, where it is not.
    fn ordered_block(&self) -> Option<Result<(), u64>> {
        let Phase::Image { image, .. } = &self.phase else { return None };
        let mut taken = self.jobs.claims(Stage::Image);
        taken.extend(self.jobs.claims(Stage::List).iter().map(Blocks::chunks_of));
        let next = image.next_in_order(1, 0, &taken).filter(|_| self.is_ordered(image))?;
        Some(image.hash(next.start).map(drop).ok_or(Blocks::of(next.start)))
    }

    /// The next chunks for a source: those that a boot reads next, else the first that nobody has claimed, as many as it
    /// brings in good time.
    fn span(
        &self,
        stage: Stage,
        transfer: &Transfer,
        index: SourceIndex,
        claims: &[Span],
        connections: usize,
    ) -> Option<Span> {
        let source = self.sources.get(index)?;
        // It would begin with the first chunk, and not all that come after that can be judged.
        if stage == Stage::Image && source.whole_only && transfer.list().is_some() {
            return None;
        }
        let alone = self.sources.live().count() == 1;
        let first = if alone && !self.demand.is_awake() { SPAN_FIRST } else { SPAN_LEAST };
        let time = self.demand.pace(SPAN_TIME, self.now);
        let aim = source.rate.map_or(first, |rate| rate.saturating_mul(time) / 1000);
        let aim = if source.struck { SPAN_LEAST } else { aim.clamp(SPAN_LEAST, SPAN_MOST) };
        // The less is left, the smaller the requests, so that all end together.
        let share = transfer.size().saturating_sub(transfer.verified()) / (2 * connections.max(1) as u64);
        let least = source.rate.map_or(SPAN_LEAST, |rate| (rate.saturating_mul(SPAN_BRIEF) / 1000).max(SPAN_LEAST));
        let aim = if connections > 1 { aim.min(share.max(least)) } else { aim };
        let most = (aim / transfer.chunk_size().max(1)).max(1);
        let mut taken = claims.to_vec();
        taken.extend(
            transfer.doubtful().filter(|chunk| !self.may_ask(stage, transfer, *chunk, index)).map(|c| c..c + 1),
        );
        taken.extend(transfer.unknown());
        if let Some(block) = self.ordered_block().filter(|_| stage == Stage::List && !source.whole_only) {
            return block.err().and_then(|block| transfer.gap(block, 1, &taken).filter(|span| span.start == block));
        }
        // Whoever knows no ranges begins with the first chunk, whatever is asked.
        if stage == Stage::Image && self.is_ordered(transfer) && !source.whole_only {
            let brings = |time: Millis| source.rate.map_or(0, |rate| rate.saturating_mul(time) / 1000);
            let chunks = |bytes: u64| bytes / transfer.chunk_size().max(1);
            let window = chunks(brings(BESIDE).max(SPAN_LEAST)).clamp(1, most);
            if let Some(span) = transfer.next_in_order(window, chunks(brings(REQUEST)), &taken) {
                return Some(span);
            }
        }
        let around = || {
            let mut vicinities = self.demand.places.vicinities(transfer.chunk_size());
            vicinities.find_map(|near| {
                let gap = transfer.gap(near.start, most, &taken)?;
                (gap.start < near.end).then(|| gap.start..gap.end.min(near.end))
            })
        };
        let near = (stage == Stage::Image && !source.whole_only).then(around).flatten();
        near.or_else(|| transfer.gap(0, most, &taken))
    }

    /// Whether nobody better than `source` is there for a chunk that came wrong before; one that does not answer is
    /// nobody.
    pub(super) fn may_ask(&self, stage: Stage, transfer: &Transfer, chunk: u64, source: SourceIndex) -> bool {
        let rank = |index| transfer.rank(chunk, index);
        let answers = |other: &Source| !other.readiness().1 && !other.lacks(stage);
        let there = self.sources.live().filter(|(index, other)| *index == source || answers(other));
        let best = there.filter_map(|(index, _)| rank(index)).min();
        rank(source).is_some_and(|own| Some(own) == best)
    }

    /// Half of what the job that ends last has still to bring, or all of what hardly moves.
    fn take_over(&self, stage: Stage, transfer: &Transfer, index: SourceIndex, now: Millis) -> Option<Move> {
        let left = |job: &Job| {
            let range = transfer.bytes(&job.claim);
            range.end - range.start
        };
        let eta = |job: &Job| left(job).saturating_mul(1000) / job.rate(now);
        let old = |job: &&Job| !job.claim.is_empty() && !job.doubled && now.saturating_sub(job.began) >= YOUNG;
        let slowest = self.jobs.of(stage).filter(old).max_by_key(|job| eta(job))?;
        let own_rate = self.sources.get(index)?.rate.unwrap_or_else(|| slowest.rate(now)).max(1);
        let chunks = slowest.claim.end - slowest.claim.start;
        let span = slowest.claim.start + chunks / 2..slowest.claim.end;
        let bytes = transfer.bytes(&span);
        let own_time = (bytes.end - bytes.start).saturating_mul(1000) / own_rate;
        let barred = |chunk| span.contains(&chunk) && !self.may_ask(stage, transfer, chunk, index);
        let doubtful = transfer.doubtful().any(barred);
        (eta(slowest) > own_time + TAKE_OVER && !doubtful).then_some(Move::TakeOver(index, stage, slowest.number, span))
    }

    /// What a job need not bring any more.
    fn hand_over(&mut self, from: u32, span: &Span) {
        let Some(job) = self.jobs.get_mut(from) else { return };
        if span.start == job.claim.start {
            job.doubled = true;
            // What lies behind is anybody's.
            job.claim.end = job.claim.end.min(span.end);
        } else {
            job.claim.end = span.start;
        }
    }

    /// Gives up the jobs that bring nothing more of use: others have it, or will.
    pub(super) fn give_up_idle(&mut self) {
        let beyond = |transfer: &Transfer, claim: &Span| {
            transfer.gap(claim.start, 1, &[]).is_none_or(|gap| gap.start >= claim.end)
        };
        let idle = |job: &&Job| match self.part(job.stage) {
            None => false,
            Some(file) if job.claim.is_empty() => job.is_beyond(file),
            Some(file) => !job.whole && beyond(file, &job.claim),
        };
        let numbers: Vec<u32> = self.jobs.live().filter(idle).map(|job| job.number).collect();
        for number in numbers {
            self.cancel(number);
        }
    }

    /// Orders a span of chunks.
    fn ask_chunks(&mut self, lane: u8, source: SourceIndex, stage: Stage, span: Span, now: Millis) {
        let asked = self.part(stage).map(|file| (file.bytes(&span), file.size()));
        let Some((range, size)) = asked else { return };
        let Some(location) = self.sources.get(source).map(|source| source.location.clone()) else { return };
        let (Phase::List { plan, .. } | Phase::Image { plan, .. }) = &self.phase else { return };
        let url = if stage == Stage::List { location.chunks(plan.name()) } else { location.image(plan.name()) };
        // A server that does not know ranges answers a request for all of it as well.
        let range = Some(range).filter(|range| (range.start, range.end) != (0, size));
        self.order(lane, source, Asked { url, range, if_range: None, limit: size }, (stage, span), now);
    }
}
