//! Image against memory, weighed before the first byte is fetched.

use crate::failure::{Failure, Step};
use crate::settings::values::{Amount, human};

const MIB: u64 = 1 << 20;
/// The least overlay that a system boots with.
const LEAST_OVERLAY: u64 = 16 * MIB;
/// What stays free at the least, where nothing else was said.
const RESERVE: u64 = 16 * MIB;

/// Memory of the machine, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// MemTotal of /proc/meminfo.
    pub total: u64,
    /// MemAvailable of /proc/meminfo.
    pub available: u64,
}

impl Memory {
    /// Reads /proc/meminfo (proc_meminfo(5)); none where a line is missing.
    pub fn parse(meminfo: &[u8]) -> Option<Self> {
        let field = |name: &str| {
            let text = std::str::from_utf8(meminfo).ok()?;
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
            let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
            kib.checked_mul(1024)
        };
        Some(Self { total: field("MemTotal")?, available: field("MemAvailable")? })
    }
}

/// An image that fits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admitted {
    /// Limit of the overlay, in bytes.
    pub overlay: u64,
    /// What to say where it is tight.
    pub warning: Option<String>,
}

/// Whether an image of `size` bytes fits; the message states the sums and what would fit.
pub fn weigh(size: u64, memory: Memory, reserve: Option<u64>, overlay: Option<Amount>) -> Result<Admitted, Failure> {
    let reserve = reserve.unwrap_or(RESERVE);
    let held = size.div_ceil(4096).saturating_mul(4096);
    let needed = held.saturating_add(LEAST_OVERLAY).saturating_add(reserve);
    if needed > memory.available {
        let fits = memory.available.saturating_sub(LEAST_OVERLAY).saturating_sub(reserve);
        return Err(Failure::new(
            Step::Memory,
            format!("image of {}", human(size)),
            format!(
                "it needs {} (image {} + overlay {} + reserve {}) and {} of {} are available",
                human(needed),
                human(held),
                human(LEAST_OVERLAY),
                human(reserve),
                human(memory.available),
                human(memory.total)
            ),
            format!(
                "give the machine {} more RAM, or an image of at most {}",
                human(needed - memory.available),
                human(fits)
            ),
        ));
    }
    let left = memory.available.saturating_sub(held);
    let limit = overlay.map_or(left / 2, |amount| amount.of(left));
    let comfort = (64 * MIB).saturating_add((128 * MIB).max(memory.total / 20).max(reserve));
    let warning = (left < comfort).then(|| {
        format!(
            "memory is tight: beside the image of {} stay {} of {}; {} are recommended",
            human(size),
            human(left),
            human(memory.total),
            human(comfort)
        )
    });
    Ok(Admitted { overlay: limit, warning })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn reads_meminfo_and_nothing_half() {
        let good = b"MemTotal:        2000 kB\nMemFree:          5 kB\nMemAvailable:    1000 kB\n";
        assert_eq!(Memory::parse(good), Some(Memory { total: 2_048_000, available: 1_024_000 }));
        assert_eq!(Memory::parse(b"MemTotal:        2000 kB\n"), None);
        assert_eq!(Memory::parse(b"MemTotal: x kB\nMemAvailable: 1 kB\n"), None);
    }

    #[test]
    fn refuses_one_page_above_what_fits_and_takes_what_fits() {
        let memory = Memory { total: GIB, available: 132 * MIB };
        assert!(weigh(100 * MIB, memory, None, None).is_ok());
        let failure = weigh(100 * MIB + 1, memory, None, None).unwrap_err();
        assert_eq!(
            failure.to_string(),
            "FAILED at memory: image of 100.0 MiB: it needs 132.0 MiB (image 100.0 MiB + overlay 16.0 MiB + reserve \
             16.0 MiB) and 132.0 MiB of 1.0 GiB are available. Remedy: give the machine 4.0 KiB more RAM, or an \
             image of at most 100.0 MiB."
        );
    }

    #[test]
    fn warns_where_it_is_tight_and_halves_what_remains() {
        let comfortable = Memory { total: GIB, available: 292 * MIB };
        assert_eq!(weigh(100 * MIB, comfortable, None, None), Ok(Admitted { overlay: 96 * MIB, warning: None }));
        let tight = Memory { available: 291 * MIB, ..comfortable };
        let admitted = weigh(100 * MIB, tight, None, Some(Amount::Bytes(MIB))).unwrap();
        assert_eq!(admitted.overlay, MIB);
        assert!(admitted.warning.is_some_and(|w| w.contains("191.0 MiB of 1.0 GiB")));
    }

    #[test]
    fn sizes_near_the_end_of_numbers_are_refused_and_do_not_wrap() {
        let memory = Memory { total: GIB, available: GIB };
        assert!(weigh(u64::MAX, memory, Some(u64::MAX), None).is_err());
    }
}
