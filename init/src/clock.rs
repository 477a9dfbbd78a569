//! The wall clock: what it is raised to, what of another's time is believed, and how a time is written.
//!
//! A machine without a clock of its own wakes in 1970, where no certificate is valid yet. It is never set back.

use crate::contract;
use crate::sys::machine;
use std::fmt;
use std::path::Path;

/// How far past the build of its archive a machine may believe to be: a clock chip with an empty battery shows any
/// year, and so may a time server that lies. Seconds.
const FURTHEST: u64 = 20 * 31_556_952;

/// By how much the clock must be behind the chip to be worth raising: the kernel sets it from the chip where it can,
/// cutting fractions, and no certificate is that exact. Seconds.
const SLACK: u64 = 60;

/// A time in seconds since 1970; `Display` writes it as `2026-11-24 13:48:55 UTC`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Utc(pub u64);

impl fmt::Display for Utc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (days, rest) = (self.0 / 86_400, self.0 % 86_400);
        // Years that begin in March put the leap day last; 719 468 days lie between 0000-03-01 and 1970-01-01.
        let shifted = days + 719_468;
        let (era, day) = (shifted / 146_097, shifted % 146_097);
        let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
        let day = day - (365 * year + year / 4 - year / 100);
        let march = (5 * day + 2) / 153;
        let (day, month) = (day - (153 * march + 2) / 5 + 1, if march < 10 { march + 3 } else { march - 9 });
        let year = era * 400 + year + u64::from(month <= 2);
        write!(f, "{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02} UTC", rest / 3600, rest / 60 % 60, rest % 60)
    }
}

/// When the archive was built, in seconds since 1970.
pub fn build_time() -> Option<u64> {
    built(&std::fs::read(Path::new("/").join(contract::BUILD_TIME)).ok()?)
}

/// The time in the file [`contract::BUILD_TIME`].
pub fn built(file: &[u8]) -> Option<u64> {
    std::str::from_utf8(file).ok()?.trim().parse().ok()
}

/// Whether `seconds` since 1970 can be the time of a machine whose archive was built at `built`.
pub fn is_plausible(seconds: u64, built: u64) -> bool {
    (built..=built.saturating_add(FURTHEST)).contains(&seconds)
}

/// Raises the clock to the archive's build time. Returns a line for the log where it did or could not.
pub fn raise_to_build() -> Option<String> {
    raise(build_time()?, "the build of this initramfs")
}

/// Raises the clock to what a time server says, where that can be true. Returns a line for the log where it did or
/// could not.
pub fn raise_to_server(seconds: u64) -> Option<String> {
    is_plausible(seconds, build_time().unwrap_or(0)).then(|| raise(seconds, "the time server"))?
}

/// Raises the clock to when a manifest was signed by a packed key: it cannot be earlier. Returns a line for the log
/// where it did or could not.
pub fn raise_to_manifest(seconds: u64) -> Option<String> {
    is_plausible(seconds, build_time().unwrap_or(0)).then(|| raise(seconds, "the signed manifest"))?
}

/// Raises the clock to the machine's clock chip, where that is ahead: the kernel sets the clock by itself only from
/// chips whose driver is built in. Returns a line for the log where it did or could not.
pub fn raise_to_chip() -> Option<String> {
    // Seconds since 1970, the chip read as UTC (Documentation/ABI/testing/sysfs-class-rtc).
    let chip = std::fs::read_to_string("/sys/class/rtc/rtc0/since_epoch").ok()?;
    raise(ahead(&chip, machine::wall_clock(), build_time().unwrap_or(0))?, "the clock chip")
}

/// The time of the chip where the clock, which says `now`, is to be raised to it.
fn ahead(chip: &str, now: u64, built: u64) -> Option<u64> {
    let chip = chip.trim().parse().ok()?;
    (is_plausible(chip, built) && chip > now.saturating_add(SLACK)).then_some(chip)
}

fn raise(seconds: u64, source: &str) -> Option<String> {
    match machine::raise_clock(seconds) {
        Ok(false) => None,
        Ok(true) => Some(format!("clock: it was behind {source} and was raised to {}", Utc(seconds))),
        Err(e) => Some(format!("clock: it is behind {source} ({}) and cannot be raised: {e}", Utc(seconds))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, text) in [
            (0, "1970-01-01 00:00:00 UTC"),
            (951_782_399, "2000-02-28 23:59:59 UTC"),
            (951_782_400, "2000-02-29 00:00:00 UTC"),
            (1_763_806_068, "2025-11-22 10:07:48 UTC"),
            (4_107_542_400, "2100-03-01 00:00:00 UTC"),
        ] {
            assert_eq!(Utc(seconds).to_string(), text);
        }
    }

    #[test]
    fn the_chip_raises_the_clock_and_never_sets_it_back() {
        let built = 1_700_000_000;
        assert_eq!(ahead("1750000000\n", built, built), Some(1_750_000_000));
        for (chip, now) in [
            // The same time; behind; before the build; an empty battery; no number.
            ("1750000000", 1_750_000_000 - SLACK),
            ("1740000000", 1_750_000_000),
            ("946684800", 0),
            ("5000000000", built),
            ("", built),
            ("-1", built),
        ] {
            assert_eq!(ahead(chip, now, built), None, "{chip}");
        }
    }

    #[test]
    fn a_time_is_believed_from_the_build_on_and_not_for_ever() {
        let built = 1_700_000_000;
        let believed = [built - 1, built, built + FURTHEST, built + FURTHEST + 1].map(|time| is_plausible(time, built));
        assert_eq!(believed, [false, true, true, false]);
    }
}
