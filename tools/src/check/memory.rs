//! Image and layers against RAM, by the sums of the boot.

use super::verdict::{About, Verdict};
use crate::image::show;
use rootbeam_init::admission::{Memory, weigh};
use rootbeam_init::contract::RING_BYTES;
use rootbeam_init::settings::Settings;
use rootbeam_init::settings::values::{Mode, human};

const MEMORY: About = About::Memory;
const MIB: u64 = 1 << 20;
/// Images are held in whole pages.
const PAGE: u64 = 4096;
/// What a kernel takes that was not seen: code, data and tables of a distribution's kernel.
const KERNEL: u64 = 48 * MIB;
/// A compressed kernel takes about so many times its file.
const UNPACKED: u64 = 4;
/// What the kernel sets aside and the first processes take. With this and a [`SHARE`] Debian's 6.1 in QEMU is met from
/// below: 109 of 192 MiB (estimated 106), 419 of 512 MiB (estimated 412).
const FIXED: u64 = 40 * MIB;
/// The part of RAM that goes to the kernel's tables of pages and to its watermarks.
const SHARE: u64 = 24;

/// A machine as far as it is known.
#[derive(Clone, Copy, Debug)]
pub struct Machine {
    /// Its RAM in bytes.
    pub ram: u64,
    /// Bytes of the kernel's file.
    pub kernel: Option<u64>,
    /// Bytes of the unpacked initramfs.
    pub initramfs: u64,
}

impl Machine {
    /// What `/init` will find available, estimated.
    fn available(&self) -> u64 {
        let kernel = self.kernel.map_or(KERNEL, |file| file.saturating_mul(UNPACKED));
        self.ram.saturating_sub(self.ram / SHARE).saturating_sub(kernel + self.initramfs + FIXED)
    }
}

/// Judges an image and the layers on it, by their sizes in bytes. A boot weighs each beside those before it; the last of
/// these sums is that of all together.
pub fn judge(image: u64, layers: &[u64], machine: Option<Machine>, settings: &Settings) -> Verdict {
    let pages = |size: u64| size.checked_next_multiple_of(PAGE).unwrap_or(u64::MAX);
    let (size, what) = match layers {
        [] => (image, "The image".to_owned()),
        layers => (
            layers.iter().fold(pages(image), |sum, layer| sum.saturating_add(pages(*layer))),
            format!("The image with its {}", counted(layers.len())),
        ),
    };
    let Some(machine) = machine else {
        let bounds = show::Memory::for_image(size);
        let needed = match settings.mode {
            Mode::Ram => bounds.refused_below,
            Mode::Stream | Mode::Auto => bounds.refused_below_streaming,
        };
        return MEMORY.ok(format!(
            "{what} needs {} of available memory; how much there will be is told for --ram SIZE.",
            human(needed)
        ));
    };
    let available = machine.available();
    let estimate = format!("of {} about {} are estimated to be available", human(machine.ram), human(available));
    // Streaming, each layer is weighed beside the rings of what is below it.
    let rings = if settings.mode == Mode::Ram { 0 } else { layers.len() as u64 * RING_BYTES as u64 };
    let memory = Memory { total: machine.ram, available: available.saturating_sub(rings), given_back: 0, ring: 0 }
        .in_mode(settings.mode, machine.initramfs);
    match weigh(size, memory, settings.reserve, settings.overlay) {
        Err(failure) => {
            let object = if layers.is_empty() { failure.object } else { format!("{what}: {}", failure.object) };
            MEMORY.failure(format!("{object}: {}; {} ({estimate}).", failure.cause, failure.remedy))
        }
        Ok(admitted) => match admitted.warning {
            Some(warning) => MEMORY.warning(format!("{warning} ({estimate}).")),
            None => MEMORY.ok(format!(
                "{what} of {} fits: {estimate}, and {} stay for what the system writes.",
                human(size),
                human(admitted.overlay)
            )),
        },
    }
}

/// So many layers.
fn counted(layers: usize) -> String {
    if layers == 1 { "layer".to_owned() } else { format!("{layers} layers") }
}

#[cfg(test)]
mod tests {
    use super::super::verdict::Level;
    use super::*;

    #[test]
    fn weighs_as_a_boot_does() {
        let settings = Settings::default();
        let judged = |size, ram: u64| {
            let machine = Machine { ram, kernel: Some(8 * MIB), initramfs: 10 * MIB };
            judge(size, &[], Some(machine), &settings)
        };
        assert_eq!(judged(100 * MIB, 1024 * MIB).level, Level::Ok);
        // 300 - 12.5 - 32 - 10 - 40 MiB are available, and 292 MiB are recommended.
        let tight = judged(100 * MIB, 300 * MIB);
        assert_eq!(tight.level, Level::Warning, "{}", tight.text);
        let refused = judged(100 * MIB, 180 * MIB);
        assert_eq!(refused.level, Level::Failure);
        assert!(
            refused.text.starts_with("image of 100.0 MiB: it needs 116.0 MiB (image 100.0 MiB + ring "),
            "{}",
            refused.text
        );
        assert!(
            refused.text.ends_with("(of 180.0 MiB about 90.5 MiB are estimated to be available)."),
            "{}",
            refused.text
        );
        assert_eq!(judged(u64::MAX, u64::MAX).level, Level::Failure);
        let several = |layers: &[u64]| {
            let machine = Machine { ram: 300 * MIB, kernel: Some(8 * MIB), initramfs: 10 * MIB };
            judge(50 * MIB, layers, Some(machine), &settings)
        };
        // 205.5 MiB are available: 189.5 and the ring.
        assert_eq!(several(&[MIB, 138 * MIB]).level, Level::Warning);
        let refused = several(&[2 * MIB, 138 * MIB]);
        assert_eq!(refused.level, Level::Failure);
        let begins = "The image with its 2 layers: image of 190.0 MiB: it needs 206.0 MiB";
        assert!(refused.text.starts_with(begins), "{}", refused.text);
        assert_eq!(several(&[u64::MAX, u64::MAX]).level, Level::Failure);
        assert_eq!(judge(MIB, &[], None, &settings).level, Level::Ok);
    }

    #[test]
    fn a_streamed_stack_needs_a_ring_for_each_of_its_images() {
        let settings = Settings { mode: Mode::Stream, ..Settings::default() };
        // 205.5 MiB are available: 50 + 99.5 of images, 24 beside them, and two rings.
        let judged = |layer: u64| {
            let machine = Machine { ram: 300 * MIB, kernel: Some(8 * MIB), initramfs: 10 * MIB };
            judge(50 * MIB, &[layer], Some(machine), &settings)
        };
        assert_eq!(judged(99 * MIB).level, Level::Warning);
        let refused = judged(100 * MIB);
        assert_eq!(refused.level, Level::Failure);
        assert!(
            refused.text.contains("(image 150.0 MiB + overlay 16.0 MiB + reserve 8.0 MiB + ring 16.0 MiB) and 189.5")
        );
        assert!(judge(MIB, &[], None, &settings).text.contains("needs 41.0 MiB"), "without a machine");
    }
}
