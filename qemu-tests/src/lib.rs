//! Test beds and claims.
//!
//! Two beds run the binaries that ship: [`netns`] on the host's kernel, [`qemu`] on stock kernels. Both start a machine
//! from an initramfs and a command line and hand back how it ended, its console, and the [`world::World`] that its real
//! init found. [`claim`] is the frame of the claims under `tests/`.

pub mod archives;
pub mod certificates;
pub mod claim;
pub mod collect;
pub mod command;
pub mod console;
pub mod images;
pub mod keep;
pub mod netns;
pub mod outcome;
pub mod packages;
pub mod places;
pub mod probe;
pub mod qemu;
pub mod reach;
pub mod servers;
pub mod world;
