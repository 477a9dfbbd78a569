//! When somebody is told that a read waits for long, and when that it goes on.

use std::time::{Duration, Instant};

/// So long a read waits before somebody is told.
pub const LONG: Duration = Duration::from_secs(5);

/// What was told of the reads that wait.
#[derive(Clone, Copy, Debug, Default)]
pub struct Patience {
    /// Since when that read waits of which it was told last that it waits.
    told: Option<Instant>,
}

impl Patience {
    /// What is to be told now, where `oldest` is since when the read waits that waits longest and `stalled` since when
    /// something waits and nothing came: true that this one waits for long, false that no read does any more.
    /// What failed has not come, and what is asked for again has not waited long: nothing goes on before something came.
    pub fn look(&mut self, oldest: Option<Instant>, stalled: Option<Instant>, now: Instant) -> Option<bool> {
        let long = |since: &Instant| now.saturating_duration_since(*since) >= LONG;
        match oldest.filter(long) {
            Some(since) if self.told.is_none_or(|told| told < since) => {
                self.told = Some(since);
                Some(true)
            }
            None if self.told.is_some() && !stalled.is_some_and(|since| long(&since)) => {
                self.told = None;
                Some(false)
            }
            _ => None,
        }
    }

    /// When something may be to tell.
    pub fn due(&self, oldest: Instant) -> Option<Instant> {
        self.told.is_none_or(|told| told < oldest).then_some(oldest + LONG)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is told at these seconds, at each of which `oldest` and `stalled` are since those.
    fn told(turns: &[(u64, Option<u64>, Option<u64>)]) -> Vec<(u64, bool)> {
        let begun = Instant::now();
        let at = |second: u64| begun + Duration::from_secs(second);
        let mut patience = Patience::default();
        let mut look = |(now, oldest, stalled): &(u64, Option<u64>, Option<u64>)| {
            patience.look(oldest.map(at), stalled.map(at), at(*now)).map(|waits| (*now, waits))
        };
        turns.iter().filter_map(&mut look).collect()
    }

    #[test]
    fn a_read_is_told_of_once_it_waits_for_long_and_once_it_goes_on() {
        let turns =
            [(1, Some(0), Some(0)), (5, Some(0), Some(0)), (9, Some(0), Some(0)), (10, None, None), (11, None, None)];
        assert_eq!(told(&turns), [(5, true), (10, false)]);
    }

    #[test]
    fn it_goes_on_though_others_wait_that_have_not_waited_for_long() {
        let turns = [(5, Some(0), Some(0)), (6, Some(5), Some(6)), (7, Some(6), Some(7)), (8, Some(7), Some(8))];
        assert_eq!(told(&turns), [(5, true), (6, false)]);
    }

    #[test]
    fn who_waits_for_long_after_another_is_told_of_as_well() {
        let turns = [(5, Some(0), Some(5)), (6, Some(1), Some(6)), (7, Some(1), Some(7)), (8, Some(3), Some(8))];
        assert_eq!(told(&turns), [(5, true), (6, true), (8, true)]);
    }

    #[test]
    fn a_read_that_failed_and_is_not_made_again_does_not_go_on_before_something_came() {
        let turns = [(5, Some(0), Some(0)), (30, None, Some(0)), (31, None, Some(0)), (32, None, None)];
        assert_eq!(told(&turns), [(5, true), (32, false)]);
    }

    #[test]
    fn a_read_that_failed_and_is_made_again_does_not_go_on_before_something_came() {
        let turns = [(5, Some(0), Some(0)), (30, Some(30), Some(0)), (31, Some(30), Some(0)), (32, Some(30), Some(32))];
        assert_eq!(told(&turns), [(5, true), (32, false)]);
    }
}
