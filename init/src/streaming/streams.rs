//! The images of a boot that are streamed, while PID 1 tends their stores.

use super::attendant::Attendant;
use crate::contract::RING_BYTES;
use crate::failure::Failure;
use crate::messages::{Left, StoreNews, StoreOrder};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

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

    /// Whether something has waited for `limit` to be read.
    pub fn have_waited(&self, limit: Duration, now: Instant) -> bool {
        self.0.values().any(|attendant| attendant.has_waited(limit, now))
    }

    /// What has not come within the `seconds` of `rootbeam.timeout=`, first of all that which something waits for; none
    /// where all is there.
    pub fn too_late(&self, seconds: u32) -> Option<Failure> {
        let coming = || self.0.values().filter(|attendant| attendant.to_come() > 0);
        let waiting = coming().find(|attendant| attendant.waits().is_some());
        waiting.or_else(|| coming().next()).map(|attendant| attendant.too_late(seconds))
    }

    /// Bytes that are admitted and will still take memory: what is missing of the images, and their rings, which may be
    /// empty as yet.
    pub fn to_come(&self) -> u64 {
        let rings = self.numbers().count() as u64 * RING_BYTES as u64;
        self.0.values().map(Attendant::to_come).sum::<u64>() + rings
    }

    /// What a keeper has to know of those that are not released; the reads of image 0 are recorded where `traced` says so.
    pub fn left(&self, traced: bool) -> Vec<(usize, Left)> {
        let streaming = self.0.iter().filter(|(_, attendant)| !attendant.released);
        streaming.map(|(number, attendant)| (*number, attendant.left(traced && *number == 0))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::messages::{FetchCause, Tally};
    use crate::settings::source::Source;

    /// Images of which so many bytes are missing.
    fn streams(missing: [u64; 2]) -> Streams {
        let mut streams = Streams::default();
        for (number, verified) in missing.map(|missing| 100 - missing).into_iter().enumerate() {
            let source = Source::parse(&format!("http://a/{number}.img")).unwrap();
            let tally = Tally { total: 100, verified, ..Tally::default() };
            streams.add(number, Attendant::new(number.to_string(), vec![source], "6.1".to_owned(), tally));
        }
        streams
    }

    #[test]
    fn the_ring_of_an_image_takes_memory_until_it_is_released() {
        let ring = RING_BYTES as u64;
        let mut streams = streams([50, 0]);
        assert_eq!(streams.to_come(), 50 + 2 * ring);
        streams.hear(1, StoreNews::Released, Instant::now());
        assert_eq!(streams.to_come(), 50 + ring);
    }

    #[test]
    fn a_read_has_waited_since_before_it_was_told_of() {
        let (mut streams, told) = (streams([50, 50]), Instant::now());
        let after = |seconds| told + Duration::from_secs(seconds);
        let limit = Duration::from_secs(30);
        assert!(!streams.have_waited(limit, after(3600)), "nothing waits");
        streams.hear(1, StoreNews::ReadWaits, told);
        assert!(!streams.have_waited(limit, after(24)));
        assert!(streams.have_waited(limit, after(25)));
        streams.hear(1, StoreNews::ReadGoesOn, after(26));
        assert!(!streams.have_waited(limit, after(3600)));
    }

    #[test]
    fn what_is_too_late_is_what_something_waits_for_and_never_what_is_there() {
        let mut streams = streams([50, 50]);
        let late = |streams: &Streams| streams.too_late(9).map(|failure| (failure.object, failure.cause));
        let over = "the 9 s of rootbeam.timeout= are over";
        assert_eq!(late(&streams), Some(("download".to_owned(), over.to_owned())));
        let now = Instant::now();
        streams.hear(1, StoreNews::Trouble { source: 0, cause: FetchCause::Refused, pause_ms: 0 }, now);
        streams.hear(1, StoreNews::ReadWaits, now);
        let cause = format!("the server refused the connection, and {over}");
        assert_eq!(late(&streams), Some(("http://a/1.img".to_owned(), cause)));
        assert_eq!(late(&self::streams([0, 0])), None);
    }
}
