//! The lanes of the ring: bytes go from them into chunks, and chunks to the hashers.

use super::engine::{Event, Intake};
use super::hashers::Work;
use super::intake::{Assembler, Consumer, Step};
use super::transfer::Transfer;
use super::{Millis, Worker};
use crate::contract::LANES;
use crate::messages::{FetchNews, FetchOrder};

/// What comes by one lane of the ring.
pub(super) struct Lane {
    pub(super) ring: Consumer,
    pub(super) assembler: Assembler,
    pub(super) document: Vec<u8>,
    /// The end of its job, until the bytes before it are taken in.
    pub(super) ending: Option<FetchNews>,
    /// Chunks of it that are being judged.
    pub(super) under_way: usize,
}

impl Worker {
    /// A new fetch worker begins each lane at its first byte; what is being judged stays.
    pub(super) fn restart_lanes(&mut self) {
        for lane in &mut self.lanes {
            lane.ring.restart();
            lane.ending = None;
            lane.document.clear();
        }
    }

    pub(super) fn take_in_all(&mut self) {
        (0..LANES).for_each(|lane| self.take_in(lane));
    }

    /// Takes bytes out of a lane for as long as they are of use or in the way, and somebody has time to judge them.
    pub(super) fn take_in(&mut self, number: usize) {
        loop {
            let (Some(lane), Some(engine)) = (self.lanes.get_mut(number), &self.engine) else { return };
            let Some((job, bytes)) = lane.ring.front() else { break };
            match engine.intake(job) {
                Intake::Hold => return,
                Intake::Skip => lane.ring.skip(bytes),
                Intake::Document { limit } => {
                    lane.collect(bytes, limit);
                    let now = self.now();
                    if let Some(engine) = &mut self.engine {
                        engine.count(job, bytes as u64, now);
                    }
                }
                Intake::Chunks { image } => {
                    let length = engine.file(job).map_or(0, Transfer::chunk_size);
                    if !self.hashers.has_room(usize::try_from(length).unwrap_or(usize::MAX)) {
                        return;
                    }
                    self.cut(number, job, image);
                }
            }
            self.give_credit(number);
        }
        self.finish(number);
    }

    /// Passes on the end of a lane's job once all of it was judged.
    pub(super) fn finish(&mut self, number: usize) {
        let Some(lane) = self.lanes.get_mut(number) else { return };
        if lane.under_way > 0 || lane.ring.front().is_some() {
            return;
        }
        match lane.ending.take() {
            Some(FetchNews::End { job, .. }) => {
                let document = std::mem::take(&mut lane.document);
                self.handle(Event::End { job, document });
            }
            Some(FetchNews::Failed { job, cause, .. }) => {
                // What came of a document is no part of the next try.
                lane.document.clear();
                self.handle(Event::Failed { job, cause });
            }
            _ => {}
        }
    }

    /// Moves bytes of a lane on, up to the end of a chunk.
    fn cut(&mut self, number: usize, job: u32, image: bool) {
        let now = self.now();
        let (Some(lane), Some(engine)) = (self.lanes.get_mut(number), &mut self.engine) else { return };
        let Some(transfer) = engine.file(job) else { return };
        let before = lane.ring.front().map_or(0, |(_, left)| left);
        let step = lane.assembler.step(&mut lane.ring, transfer);
        let after = lane.ring.front().filter(|(next, _)| *next == job).map_or(0, |(_, left)| left);
        engine.count(job, (before - after) as u64, now);
        let Step::Whole(chunk) = step else { return };
        let Some(transfer) = engine.file(job) else { return };
        let offset = transfer.offset(chunk);
        match transfer.hash(chunk) {
            Some(expected) if image => {
                engine.take(job, chunk);
                let bytes = lane.assembler.take_chunk(self.hashers.buffer());
                lane.under_way += 1;
                self.hashers.submit(Work { lane: number, job, chunk, offset, expected, bytes });
                self.act();
            }
            Some(_) => {
                engine.take(job, chunk);
                engine.list_chunk(job, chunk, lane.assembler.chunk(), now);
                self.written(now);
            }
            None => self.append(number, job, chunk, offset),
        }
    }

    /// The next chunk of an image without chunk hashes.
    fn append(&mut self, number: usize, job: u32, chunk: u64, offset: u64) {
        let now = self.now();
        let (Some(lane), Some(engine)) = (self.lanes.get(number), &mut self.engine) else { return };
        let bytes = lane.assembler.chunk();
        if engine.next_chunk(job, chunk, bytes) {
            let whole = engine.hashes_whole();
            match self.image.write(offset, bytes) {
                Ok(()) if whole => self.image.follow(offset, bytes),
                Ok(()) => {}
                Err(error) => return self.no_memory(&error),
            }
        }
        self.written(now);
    }

    pub(super) fn written(&mut self, now: Millis) {
        if let Some(engine) = &mut self.engine {
            engine.written(now);
        }
        self.act();
    }

    fn give_credit(&mut self, number: usize) {
        if let Some(bytes) = self.lanes.get_mut(number).and_then(|lane| lane.ring.due_credit()) {
            self.order(&FetchOrder::Consumed { lane: number as u8, bytes });
        }
    }
}

impl Lane {
    /// Keeps bytes of a document up to `limit` of them in all.
    fn collect(&mut self, bytes: usize, limit: usize) {
        let from = self.document.len();
        let to = (from + bytes).min(limit);
        self.document.resize(to, 0);
        if let Some(place) = self.document.get_mut(from..to)
            && !self.ring.take(place)
        {
            self.document.truncate(from);
        }
        self.ring.skip(bytes - (to - from));
    }
}
