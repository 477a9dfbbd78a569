//! The folder from which a firmware boots PXELINUX, and PXELINUX the kernel.

use anyhow::{Context, Result, bail};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// The file that the firmware loads.
pub const BOOT_FILE: &str = "pxelinux.0";

/// Where Debian's packages have PXELINUX's parts, and which package that is.
const PARTS: [(&str, &str, &str); 2] = [
    (BOOT_FILE, "/usr/lib/PXELINUX/pxelinux.0", "pxelinux"),
    ("ldlinux.c32", "/usr/lib/syslinux/modules/bios/ldlinux.c32", "syslinux-common"),
];

/// PXELINUX's configuration. `IPAPPEND 2` adds `BOOTIF=`, by which init knows the card that was booted from; not 1,
/// which would add `ip=` and so take the place of DHCP.
fn config(command_line: &str) -> String {
    format!(
        "SERIAL 0 115200\nDEFAULT rootbeam\nPROMPT 0\nLABEL rootbeam\n  KERNEL vmlinuz\n  INITRD initramfs\n  \
         APPEND {command_line}\n  IPAPPEND 2\n"
    )
}

/// Makes the folder; it goes away with the value.
pub fn tree(kernel: &Path, initramfs: &Path, command_line: &str) -> Result<TempDir> {
    // PXELINUX takes 2047 bytes of a command line, with what it adds itself.
    if command_line.len() > 1900 || command_line.contains('\n') {
        bail!("the command line is too long for PXELINUX or has line ends: shorten what --append says");
    }
    let tree = tempfile::Builder::new().prefix("rootbeam-tftp-").tempdir().context("cannot make a temporary folder")?;
    let root = tree.path();
    for (name, part, package) in PARTS {
        if !Path::new(part).exists() {
            bail!("{part} is missing: install the package {package}, or boot without --pxe");
        }
        symlink(part, root.join(name))?;
    }
    for (name, file) in [("vmlinuz", kernel), ("initramfs", initramfs)] {
        symlink(absolute(file)?, root.join(name))?;
    }
    std::fs::create_dir(root.join("pxelinux.cfg"))?;
    std::fs::write(root.join("pxelinux.cfg/default"), config(command_line))?;
    Ok(tree)
}

fn absolute(file: &Path) -> Result<PathBuf> {
    file.canonicalize().with_context(|| format!("cannot find {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_is_this() {
        assert_eq!(
            config("console=ttyS0 quiet"),
            "SERIAL 0 115200\nDEFAULT rootbeam\nPROMPT 0\nLABEL rootbeam\n  KERNEL vmlinuz\n  INITRD initramfs\n  \
             APPEND console=ttyS0 quiet\n  IPAPPEND 2\n"
        );
    }
}
