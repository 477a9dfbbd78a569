//! Image against memory, weighed before the first byte is fetched.

use crate::contract::RING_BYTES;
use crate::failure::{Failure, Step};
use crate::settings::values::{Amount, Mode, human};

const MIB: u64 = 1 << 20;
/// An image is held in whole pages.
const PAGE: u64 = 4096;
/// The least overlay that a system boots with.
const LEAST_OVERLAY: u64 = 16 * MIB;
/// What stays free at the least, where nothing else was said.
const RESERVE: u64 = 8 * MIB;

/// Memory of the machine, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// MemTotal of /proc/meminfo.
    pub total: u64,
    /// MemAvailable of /proc/meminfo.
    pub available: u64,
    /// What the initramfs holds until the hand-over and the booted system has.
    pub given_back: u64,
    /// What the ring holds beside the booted system, until the image is whole.
    pub ring: u64,
}

impl Memory {
    /// Reads /proc/meminfo (proc_meminfo(5)), as if initramfs and ring held nothing; none where a line is missing.
    pub fn parse(meminfo: &[u8]) -> Option<Self> {
        let field = |name: &str| {
            let text = std::str::from_utf8(meminfo).ok()?;
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
            let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
            kib.checked_mul(1024)
        };
        Some(Self { total: field("MemTotal")?, available: field("MemAvailable")?, given_back: 0, ring: 0 })
    }

    /// With the ring and the bytes that the initramfs holds. Only in ram mode do they come back in time: streaming, the
    /// workers keep the ring and the program beside the booted system, and the rest of the initramfs is small.
    pub fn in_mode(self, mode: Mode, initramfs: u64) -> Self {
        let (given_back, ring) = if mode == Mode::Ram { (initramfs, 0) } else { (0, RING_BYTES as u64) };
        Self { given_back, ring, ..self }
    }

    /// What the booted system shares with its image.
    fn afterwards(self) -> u64 {
        self.available.saturating_add(self.given_back)
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

/// Whether an image of `size` bytes fits; the message states the sums and what would fit. The ring fills while the image
/// comes; overlay and reserve are wanted when the initramfs is gone, and the ring where it can be.
pub fn weigh(size: u64, memory: Memory, reserve: Option<u64>, overlay: Option<Amount>) -> Result<Admitted, Failure> {
    let reserve = reserve.unwrap_or(RESERVE);
    let held = size.div_ceil(PAGE).saturating_mul(PAGE);
    let meanwhile = Sum { there: memory.available, held, beside: RING_BYTES as u64 };
    let afterwards = Sum {
        there: memory.afterwards(),
        held,
        beside: LEAST_OVERLAY.saturating_add(reserve).saturating_add(memory.ring),
    };
    if afterwards.lacks() > 0 && afterwards.lacks() >= meanwhile.lacks() {
        let ring = if memory.ring > 0 { format!(" + ring {}", human(memory.ring)) } else { String::new() };
        let parts = format!("overlay {} + reserve {}{ring}", human(LEAST_OVERLAY), human(reserve));
        let given_back = match memory.given_back {
            0 => String::new(),
            held => format!(", {} that the initramfs gives back among them", human(held)),
        };
        return Err(afterwards.refuse(size, memory.total, &parts, &given_back));
    }
    if meanwhile.lacks() > 0 {
        return Err(meanwhile.refuse(size, memory.total, &format!("ring {}", human(meanwhile.beside)), ""));
    }
    let left = memory.afterwards().saturating_sub(held);
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

/// What must find room at one time of a boot, in bytes.
#[derive(Clone, Copy)]
struct Sum {
    /// Memory there is.
    there: u64,
    /// The image in whole pages.
    held: u64,
    /// What is held beside the image.
    beside: u64,
}

impl Sum {
    fn needed(self) -> u64 {
        self.held.saturating_add(self.beside)
    }

    fn lacks(self) -> u64 {
        self.needed().saturating_sub(self.there)
    }

    fn refuse(self, size: u64, total: u64, parts: &str, remark: &str) -> Failure {
        Failure::new(
            Step::Memory,
            format!("image of {}", human(size)),
            format!(
                "it needs {} (image {} + {parts}) and {} of {} are available{remark}",
                human(self.needed()),
                human(self.held),
                human(self.there),
                human(total)
            ),
            match self.there.saturating_sub(self.beside) {
                0..PAGE => format!("give the machine {} more RAM; in what it has no image fits", human(self.lacks())),
                fits => {
                    format!("give the machine {} more RAM, or an image of at most {}", human(self.lacks()), human(fits))
                }
            },
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    const MACHINE: Memory = Memory { total: GIB, available: 124 * MIB, given_back: 0, ring: 0 };

    #[test]
    fn reads_meminfo_and_nothing_half() {
        let good = b"MemTotal:        2000 kB\nMemFree:          5 kB\nMemAvailable:    1000 kB\n";
        let memory = Memory { total: 2_048_000, available: 1_024_000, given_back: 0, ring: 0 };
        assert_eq!(Memory::parse(good), Some(memory));
        assert_eq!(Memory::parse(b"MemTotal:        2000 kB\n"), None);
        assert_eq!(Memory::parse(b"MemTotal: x kB\nMemAvailable: 1 kB\n"), None);
    }

    #[test]
    fn refuses_one_page_above_what_fits_and_takes_what_fits() {
        assert!(weigh(100 * MIB, MACHINE, None, None).is_ok());
        let failure = weigh(100 * MIB + 1, MACHINE, None, None).unwrap_err();
        assert_eq!(
            failure.to_string(),
            "FAILED at memory: image of 100.0 MiB: it needs 124.0 MiB (image 100.0 MiB + overlay 16.0 MiB + reserve \
             8.0 MiB) and 124.0 MiB of 1.0 GiB are available. Remedy: give the machine 4.0 KiB more RAM, or an image \
             of at most 100.0 MiB."
        );
    }

    #[test]
    fn a_machine_that_holds_no_image_of_any_size_is_told_so() {
        let remedy = |available| weigh(MIB, Memory { available, ..MACHINE }, None, None).unwrap_err().remedy;
        assert_eq!(remedy(24 * MIB + PAGE), "give the machine 1020.0 KiB more RAM, or an image of at most 4.0 KiB");
        assert_eq!(remedy(24 * MIB + PAGE - 1), "give the machine 1020.0 KiB more RAM; in what it has no image fits");
        assert_eq!(remedy(10 * MIB), "give the machine 15.0 MiB more RAM; in what it has no image fits");
    }

    #[test]
    fn overlay_and_reserve_share_with_the_initramfs_and_the_ring_does_not() {
        let memory = Memory { available: 118 * MIB, given_back: 6 * MIB, ..MACHINE };
        assert_eq!(weigh(100 * MIB, memory, None, None).map(|admitted| admitted.overlay), Ok(12 * MIB));
        let failure = weigh(101 * MIB, memory, None, None).unwrap_err();
        assert_eq!(
            failure.cause,
            "it needs 125.0 MiB (image 101.0 MiB + overlay 16.0 MiB + reserve 8.0 MiB) and 124.0 MiB of 1.0 GiB are \
             available, 6.0 MiB that the initramfs gives back among them"
        );
        let failure = weigh(103 * MIB, memory, Some(0), None).unwrap_err();
        assert_eq!(
            failure.to_string(),
            "FAILED at memory: image of 103.0 MiB: it needs 119.0 MiB (image 103.0 MiB + ring 16.0 MiB) and 118.0 MiB \
             of 1.0 GiB are available. Remedy: give the machine 1.0 MiB more RAM, or an image of at most 102.0 MiB."
        );
        // Of two sums that do not fit, the one that lacks more is told.
        let failure = weigh(200 * MIB, memory, None, None).unwrap_err();
        assert!(failure.cause.contains("reserve") && failure.remedy.starts_with("give the machine 100.0 MiB more"));
    }

    #[test]
    fn only_ram_mode_counts_what_the_initramfs_holds_and_is_rid_of_the_ring() {
        let counted = |mode| MACHINE.in_mode(mode, 6 * MIB);
        let counted = [Mode::Ram, Mode::Auto, Mode::Stream].map(counted).map(|memory| (memory.given_back, memory.ring));
        assert_eq!(counted, [(6 * MIB, 0), (0, 16 * MIB), (0, 16 * MIB)]);
    }

    #[test]
    fn a_streamed_image_shares_with_overlay_reserve_and_ring() {
        let memory = Memory { available: 140 * MIB, ..MACHINE }.in_mode(Mode::Stream, 6 * MIB);
        assert!(weigh(100 * MIB, memory, None, None).is_ok());
        let failure = weigh(101 * MIB, memory, None, None).unwrap_err();
        assert_eq!(
            failure.to_string(),
            "FAILED at memory: image of 101.0 MiB: it needs 141.0 MiB (image 101.0 MiB + overlay 16.0 MiB + reserve \
             8.0 MiB + ring 16.0 MiB) and 140.0 MiB of 1.0 GiB are available. Remedy: give the machine 1.0 MiB more \
             RAM, or an image of at most 100.0 MiB."
        );
    }

    #[test]
    fn warns_where_it_is_tight_and_halves_what_remains() {
        let comfortable = Memory { available: 292 * MIB, ..MACHINE };
        assert_eq!(weigh(100 * MIB, comfortable, None, None), Ok(Admitted { overlay: 96 * MIB, warning: None }));
        let tight = Memory { available: 291 * MIB, ..MACHINE };
        let admitted = weigh(100 * MIB, tight, None, Some(Amount::Bytes(MIB))).unwrap();
        assert_eq!(admitted.overlay, MIB);
        assert!(admitted.warning.is_some_and(|w| w.contains("191.0 MiB of 1.0 GiB")));
    }

    #[test]
    fn sizes_near_the_end_of_numbers_are_refused_and_do_not_wrap() {
        let memory = Memory { available: GIB, given_back: u64::MAX, ring: u64::MAX, ..MACHINE };
        assert!(weigh(u64::MAX, memory, Some(u64::MAX), None).is_err());
    }
}
