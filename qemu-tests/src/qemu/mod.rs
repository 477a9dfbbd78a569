//! The QEMU bed: stock kernels on a machine that is emulated whole, firmware and network boot included.
//!
//! A [`Boot`] describes a machine, a [`Guest`] runs, and a [`crate::outcome::Booted`] is left of it. Guests run under
//! TCG: `/dev/kvm` may open and yet hang a guest. `ROOTBEAM_KVM=1` is for those who know theirs.

mod emulator;
mod guest;
mod machine;
mod pxe;
mod qmp;

pub use emulator::Emulator;
pub use guest::{Guest, Turn};
pub use machine::{Boot, Nic, Wiring};
pub use pxe::Tftp;

use anyhow::{Result, bail};

/// The host as guests see it: an HTTP server on the host's loopback is reached at this address.
pub const HOST: &str = "10.0.2.2";

/// Whether this host can run the bed; the error says what is missing.
pub fn available() -> Result<()> {
    for program in ["mksquashfs", "cpio", "zstd", "depmod"] {
        if !crate::command::exists(program) {
            bail!("{program} is missing: run `make deps`");
        }
    }
    Emulator::get().map(drop)
}
