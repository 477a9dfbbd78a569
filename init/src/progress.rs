//! The line that tells a person that it goes on.

use crate::messages::Tally;
use crate::settings::values::human;
use std::time::{Duration, Instant};

/// Progress of one download.
#[derive(Debug)]
pub struct Progress {
    /// What is downloaded.
    name: String,
    begun: Instant,
    printed: Option<Instant>,
}

impl Progress {
    /// The download of what is called so begins at `now`.
    pub fn new(name: String, now: Instant) -> Self {
        Self { name, begun: now, printed: None }
    }

    /// The line for `tally`, where a second has passed since the last one.
    pub fn line(&mut self, now: Instant, tally: &Tally) -> Option<String> {
        if now.saturating_duration_since(self.printed.unwrap_or(self.begun)) < Duration::from_secs(1) {
            return None;
        }
        self.printed = Some(now);
        let percent = (u128::from(tally.verified) * 100).checked_div(u128::from(tally.total))?;
        let elapsed = now.saturating_duration_since(self.begun);
        let rate = rate(tally.fetched, elapsed);
        let rest = match tally.total.saturating_sub(tally.verified).checked_div(rate) {
            Some(seconds) => format!("{seconds} s left"),
            None => "nothing yet".to_owned(),
        };
        let (done, total) = (human(tally.verified), human(tally.total));
        Some(format!("{}: {done} of {total} ({percent} %), {}/s, {rest}", self.name, human(rate)))
    }
}

/// Bytes a second.
pub fn rate(bytes: u64, elapsed: Duration) -> u64 {
    let per_second = (u128::from(bytes) * 1000).checked_div(elapsed.as_millis()).unwrap_or(u128::from(bytes));
    u64::try_from(per_second).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_bytes_percent_rate_and_rest_once_a_second() {
        let begin = Instant::now();
        let mut progress = Progress::new("image".to_owned(), begin);
        let tally = Tally { total: 100 << 20, verified: 25 << 20, fetched: 25 << 20, ..Tally::default() };
        assert_eq!(progress.line(begin + Duration::from_millis(900), &tally), None);
        let line = progress.line(begin + Duration::from_millis(2500), &tally);
        assert_eq!(line.as_deref(), Some("image: 25.0 MiB of 100.0 MiB (25 %), 10.0 MiB/s, 7 s left"));
        assert_eq!(progress.line(begin + Duration::from_millis(3400), &tally), None);
    }

    #[test]
    fn nothing_fetched_is_no_division_by_zero() {
        let begin = Instant::now();
        let tally = Tally { total: 100, ..Tally::default() };
        let line = Progress::new("image".to_owned(), begin).line(begin + Duration::from_secs(5), &tally);
        assert_eq!(line.as_deref(), Some("image: 0 bytes of 100 bytes (0 %), 0 bytes/s, nothing yet"));
    }
}
