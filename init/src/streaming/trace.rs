//! What the booted system reads first, asked of the store piece by piece and written to a file that `rootbeam trace` reads.

use crate::boot_order::{BootOrder, Subject};
use crate::messages::StoreOrder;
use crate::store::PIECE;
use std::time::{Duration, Instant};

/// How often the store is asked.
const OFTEN: Duration = Duration::from_secs(1);
/// More chunks than these are not kept, whatever the store says: 64 GiB of an image.
const MOST: usize = 1 << 20;

/// What was read so far.
#[derive(Debug)]
pub struct Recorder {
    order: Option<BootOrder>,
    /// Until when it is recorded.
    until: Instant,
    /// When the store is asked next.
    next: Instant,
    /// When the store was asked, while it has not answered.
    asked: Option<Instant>,
    /// Whether all of it is there.
    ended: bool,
    /// Whether the store was told of that.
    told: bool,
}

impl Recorder {
    /// Records from `now` on for so long.
    pub fn new(now: Instant, time: Duration) -> Self {
        Self { order: None, until: now + time, next: now, asked: None, ended: false, told: false }
    }

    /// When [`Self::order`] has something.
    pub fn due(&self) -> Option<Instant> {
        (!self.ended && self.asked.is_none()).then(|| self.next.min(self.until))
    }

    /// What the store is told now.
    pub fn order(&mut self, now: Instant) -> Option<StoreOrder> {
        if self.ended {
            return (!std::mem::replace(&mut self.told, true)).then_some(StoreOrder::TraceEnds);
        }
        self.due().filter(|due| *due <= now)?;
        self.asked = Some(now);
        let from = self.order.as_ref().map_or(0, |order| order.chunks.len());
        Some(StoreOrder::Touched { from: u32::try_from(from).unwrap_or(u32::MAX) })
    }

    /// What [`Self::order`] gave last could not be sent: it is given again.
    pub fn unsent(&mut self, now: Instant) {
        (self.asked, self.told, self.next, self.until) = (None, false, now + OFTEN, self.until.max(now + OFTEN));
    }

    /// Takes an answer up; what is to be written, where that is all for now and more than before or the last.
    pub fn hear(&mut self, subject: Subject, chunks: &[u32], now: Instant) -> Option<String> {
        let asked = self.asked.take()?;
        let order = self.order.get_or_insert(BootOrder { subject, chunks: Vec::new() });
        let room = MOST.saturating_sub(order.chunks.len());
        order.chunks.extend(chunks.iter().take(room));
        if chunks.len() >= PIECE && room > PIECE {
            self.next = now;
            return None;
        }
        self.next = now + OFTEN;
        self.ended = asked >= self.until;
        (!chunks.is_empty() || self.ended).then(|| order.render())
    }

    /// Whether all of it is there.
    pub fn has_ended(&self) -> bool {
        self.ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Sha256;

    const SUBJECT: Subject = Subject { size: 9 << 30, chunk_size: 65_536, sha256: Sha256([7; 32]) };

    fn touched(text: Option<String>) -> Option<Vec<u32>> {
        text.map(|text| BootOrder::parse(&text).unwrap().chunks)
    }

    #[test]
    fn pieces_are_asked_for_until_the_time_is_over_and_the_last_of_them_has_come() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut recorder = Recorder::new(start, Duration::from_secs(5));
        assert_eq!(recorder.order(start), Some(StoreOrder::Touched { from: 0 }));
        assert_eq!((recorder.order(at(4)), recorder.due()), (None, None), "it has not answered");
        assert_eq!(touched(recorder.hear(SUBJECT, &[3, 1], start)), Some(vec![3, 1]));
        assert_eq!(recorder.hear(SUBJECT, &[9], start), None, "nothing was asked");
        assert_eq!((recorder.order(start), recorder.due()), (None, Some(at(1))));
        assert_eq!(recorder.order(at(1)), Some(StoreOrder::Touched { from: 2 }));
        assert_eq!(recorder.hear(SUBJECT, &[], at(1)), None, "nothing new");
        assert_eq!(recorder.order(at(6)), Some(StoreOrder::Touched { from: 2 }));
        let full: Vec<u32> = (100..).take(PIECE).collect();
        assert_eq!(recorder.hear(SUBJECT, &full, at(6)), None, "there is more");
        assert_eq!(recorder.order(at(6)), Some(StoreOrder::Touched { from: 2 + PIECE as u32 }));
        let all: Vec<u32> = [3, 1].into_iter().chain(full).collect();
        assert_eq!(touched(recorder.hear(SUBJECT, &[], at(6))), Some(all));
        assert!(recorder.has_ended());
        assert_eq!((recorder.order(at(6)), recorder.order(at(7))), (Some(StoreOrder::TraceEnds), None));
    }

    #[test]
    fn a_store_that_goes_on_and_on_fills_no_memory() {
        let start = Instant::now();
        let mut recorder = Recorder::new(start, Duration::from_secs(1));
        let full: Vec<u32> = (0..).take(PIECE).collect();
        let late = start + OFTEN;
        for _ in 0..MOST / PIECE + 9 {
            recorder.order(late);
            recorder.hear(SUBJECT, &full, late);
        }
        assert!(recorder.has_ended());
        assert_eq!(recorder.order.map(|order| order.chunks.len()), Some(MOST));
    }
}
