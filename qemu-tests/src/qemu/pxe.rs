//! What a TFTP server holds for a machine that boots by PXELINUX.

use crate::packages;
use anyhow::{Context, Result};
use std::fs;
use std::path::Path;
use std::sync::Arc;
use tempfile::TempDir;

/// A TFTP tree. It is deleted with its last clone.
#[derive(Clone, Debug)]
pub struct Tftp(Arc<TempDir>);

impl Tftp {
    /// PXELINUX, a kernel and an initramfs, booted at once with this command line and `BOOTIF=` added.
    pub fn new(kernel: &Path, initramfs: &Path, cmdline: &str) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let put = |from: &Path, name: &str| {
            fs::copy(from, folder.path().join(name))
                .map(drop)
                .with_context(|| format!("cannot copy {}", from.display()))
        };
        put(&packages::file("pxelinux", "usr/lib/PXELINUX/pxelinux.0")?, "pxelinux.0")?;
        put(&packages::file("syslinux-common", "usr/lib/syslinux/modules/bios/ldlinux.c32")?, "ldlinux.c32")?;
        put(kernel, "vmlinuz")?;
        put(initramfs, "initramfs")?;
        let config = format!(
            "SERIAL 0 115200\nDEFAULT rootbeam\nPROMPT 0\n\
             LABEL rootbeam\n  KERNEL vmlinuz\n  INITRD initramfs\n  APPEND {cmdline}\n  SYSAPPEND 2\n"
        );
        fs::create_dir(folder.path().join("pxelinux.cfg"))?;
        fs::write(folder.path().join("pxelinux.cfg/default"), config)?;
        Ok(Self(Arc::new(folder)))
    }

    /// The folder to serve.
    pub fn folder(&self) -> &Path {
        self.0.path()
    }
}
