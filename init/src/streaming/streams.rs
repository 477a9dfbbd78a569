//! The images of a boot that are streamed, while PID 1 tends their stores.

use super::attendant::Attendant;
use crate::messages::{Left, StoreNews, StoreOrder};
use std::collections::BTreeMap;
use std::time::Instant;

/// One an image, by its number: 0 is the image, layers follow.
#[derive(Debug, Default)]
pub struct Streams(BTreeMap<usize, Attendant>);

impl Streams {
    /// Image `number` is streamed.
    pub fn add(&mut self, number: usize, attendant: Attendant) {
        self.0.insert(number, attendant);
    }

    /// The images that are not released yet, by number.
    pub fn numbers(&self) -> impl Iterator<Item = usize> {
        self.0.iter().filter(|(_, attendant)| !attendant.released).map(|(number, _)| *number)
    }

    /// Whether there are any that are not released yet.
    pub fn are_there(&self) -> bool {
        self.numbers().next().is_some()
    }

    /// Whether image `number` is streamed, and its loop device not set on its own memory yet.
    pub fn has(&self, number: usize) -> bool {
        self.numbers().any(|streamed| streamed == number)
    }

    /// Takes up news of a store.
    pub fn hear(&mut self, number: usize, news: StoreNews, now: Instant) {
        if let Some(attendant) = self.0.get_mut(&number) {
            attendant.hear(news, now);
        }
    }

    /// What the stores are told now.
    pub fn orders(&mut self, now: Instant) -> Vec<(usize, StoreOrder)> {
        self.0.iter_mut().filter_map(|(number, attendant)| Some((*number, attendant.order(now)?))).collect()
    }

    /// Bytes that are admitted and will still take memory.
    pub fn to_come(&self) -> u64 {
        self.0.values().map(|attendant| attendant.tally()).map(|tally| tally.total.saturating_sub(tally.verified)).sum()
    }

    /// What a keeper has to know of those that are not released; the reads of image 0 are recorded where `traced` says so.
    pub fn left(&self, traced: bool) -> Vec<(usize, Left)> {
        let streaming = self.0.iter().filter(|(_, attendant)| !attendant.released);
        streaming.map(|(number, attendant)| (*number, attendant.left(traced && *number == 0))).collect()
    }
}
