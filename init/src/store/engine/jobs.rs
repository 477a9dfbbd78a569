//! The requests that run, each in its lane.

use super::super::Millis;
use super::super::sources::Stage;
use super::super::transfer::{Span, Transfer};
use crate::contract::LANES;
use crate::messages::{Range, SourceIndex};

/// A job's place in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// It is wanted.
    Live,
    /// Everything that was asked for is there; its end is on the way, and the lane takes another behind it.
    Delivered,
    /// It was given up; its lane is free when the worker says so.
    GivenUp,
}

/// One request.
#[derive(Clone, Debug)]
pub struct Job {
    /// Its number.
    pub number: u32,
    /// Its lane.
    pub lane: u8,
    /// Who is asked.
    pub source: SourceIndex,
    /// The bytes asked for; none is the whole file.
    pub range: Option<Range>,
    /// Content-Length, once the head was seen.
    pub head: Option<Option<u64>>,
    /// Whether it brought anything that could be judged.
    pub useful: bool,
    /// The file that it fetches: a document, the chunk list or the image.
    pub stage: Stage,
    /// The chunks of that file that nobody else need fetch: those that it has still to bring.
    pub claim: Span,
    /// Whether the whole file comes, whatever was asked for.
    pub whole: bool,
    /// Wrong chunks since the last right one.
    pub wrong_in_a_row: u32,
    /// How long it may say nothing, or all but nothing.
    pub patience: Millis,
    /// When it was ordered.
    pub began: Millis,
    /// When its head was seen.
    pub answered: Option<Millis>,
    /// Bytes of its body so far.
    pub bytes: u64,
    /// When the worker last said something of it.
    pub heard: Millis,
    /// When its present stretch of being watched for slowness began, and its bytes then.
    pub stretch: (Millis, u64),
    /// Whether another job was sent for the same chunks, since this one is so slow.
    pub doubled: bool,
    /// Chunks that are being judged.
    under_way: Vec<u64>,
    state: State,
}

impl Job {
    /// A job for a span of chunks, or for a document where that is empty.
    pub fn new(number: u32, lane: u8, source: SourceIndex, range: Option<Range>, claim: Span, now: Millis) -> Self {
        Self {
            patience: Millis::MAX,
            stage: Stage::Discovery,
            number,
            lane,
            source,
            range,
            head: None,
            useful: false,
            claim,
            whole: false,
            wrong_in_a_row: 0,
            began: now,
            answered: None,
            bytes: 0,
            heard: now,
            stretch: (now, 0),
            doubled: false,
            under_way: Vec::new(),
            state: State::Live,
        }
    }

    /// The same for a part of that file.
    pub fn of(self, stage: Stage) -> Self {
        Self { stage, ..self }
    }

    /// The same with a bound on its silence.
    pub fn patient(self, patience: Millis) -> Self {
        Self { patience, ..self }
    }

    /// Bytes a second so far, at least 1. The time until its head came, in which it may have waited behind another on the
    /// same connection, says little of the wire; all of it is not left out either, for what then came at once may have
    /// waited here.
    pub fn rate(&self, now: Millis) -> u64 {
        let took = now.saturating_sub(self.began);
        let since_answer = self.answered.map_or(took, |answered| now.saturating_sub(answered));
        let took = since_answer.max(took / 2).max(1);
        (self.bytes.saturating_mul(1000) / took).max(1)
    }

    /// When it is to be looked whether it brought enough: a byte a millisecond.
    pub fn due(&self) -> Millis {
        self.stretch.0.saturating_add(self.patience)
    }

    /// A chunk of it is being judged: what follows is still to come.
    pub fn take(&mut self, chunk: u64) {
        self.claim.start = self.claim.start.max(chunk.saturating_add(1));
        self.claim.end = self.claim.end.max(self.claim.start);
        self.under_way.push(chunk);
    }

    /// A chunk of it was judged.
    pub fn settle(&mut self, chunk: u64) {
        self.under_way.retain(|other| *other != chunk);
    }

    /// Whether bytes beyond its claim are on the way to nobody.
    pub fn is_beyond(&self, transfer: &Transfer) -> bool {
        let asked = self.range.map_or(transfer.size(), |range| range.end);
        self.claim.is_empty() && !self.whole && transfer.bytes(&self.claim).end < asked
    }
}

/// All of them.
#[derive(Clone, Debug, Default)]
pub struct Jobs(Vec<Job>);

impl Jobs {
    /// Those that are wanted of a file.
    pub fn of(&self, stage: Stage) -> impl Iterator<Item = &Job> {
        self.live().filter(move |job| job.stage == stage)
    }

    /// Those that are wanted.
    pub fn live(&self) -> impl Iterator<Item = &Job> {
        self.0.iter().filter(|job| job.state == State::Live)
    }

    /// The same to be changed.
    pub fn live_mut(&mut self) -> impl Iterator<Item = &mut Job> {
        self.0.iter_mut().filter(|job| job.state == State::Live)
    }

    /// One that is wanted.
    pub fn get(&self, number: u32) -> Option<&Job> {
        self.live().find(|job| job.number == number)
    }

    /// The same to be changed.
    pub fn get_mut(&mut self, number: u32) -> Option<&mut Job> {
        self.live_mut().find(|job| job.number == number)
    }

    /// One that is wanted or was.
    pub fn any(&self, number: u32) -> Option<&Job> {
        self.0.iter().find(|job| job.number == number)
    }

    /// The same to be changed.
    pub fn any_mut(&mut self, number: u32) -> Option<&mut Job> {
        self.0.iter_mut().find(|job| job.number == number)
    }

    /// All of them, wanted or not.
    pub fn all(&self) -> impl Iterator<Item = &Job> {
        self.0.iter()
    }

    /// How many that are wanted go to `source`.
    pub fn to(&self, source: SourceIndex) -> usize {
        self.live().filter(|job| job.source == source).count()
    }

    /// A lane that takes another job at once.
    pub fn free_lane(&self) -> Option<u8> {
        let busy = |lane: &u8| self.0.iter().any(|job| job.lane == *lane && job.state != State::Delivered);
        (0..LANES as u8).find(|lane| !busy(lane))
    }

    /// One more.
    pub fn add(&mut self, job: Job) {
        self.0.push(job);
    }

    /// It has ended.
    pub fn remove(&mut self, number: u32) -> Option<Job> {
        let at = self.0.iter().position(|job| job.number == number)?;
        Some(self.0.swap_remove(at))
    }

    /// The worker is gone, and every job with it; returns those that were wanted.
    pub fn clear(&mut self) -> Vec<Job> {
        let all = std::mem::take(&mut self.0);
        all.into_iter().filter(|job| job.state == State::Live).collect()
    }

    /// It is not wanted any more.
    pub fn give_up(&mut self, number: u32) {
        self.set(number, State::GivenUp);
    }

    /// Nothing more of it is to come but its end.
    pub fn deliver(&mut self, number: u32) {
        self.set(number, State::Delivered);
    }

    fn set(&mut self, number: u32, state: State) {
        if let Some(job) = self.0.iter_mut().find(|job| job.number == number) {
            job.state = state;
        }
    }

    /// The chunks of a file that need nobody else: to come, or being judged.
    pub fn claims(&self, stage: Stage) -> Vec<Span> {
        let to_come = self.of(stage).map(|job| job.claim.clone()).filter(|claim| !claim.is_empty());
        to_come.chain(self.judged(stage).map(|chunk| chunk..chunk + 1)).collect()
    }

    /// The chunks of a file that are there and being judged, whatever became of the jobs that brought them.
    pub fn judged(&self, stage: Stage) -> impl Iterator<Item = u64> {
        self.0.iter().filter(move |job| job.stage == stage).flat_map(|job| job.under_way.iter().copied())
    }
}
