//! Unpacks an initramfs into a folder, as the kernel does into its rootfs: every archive of the file, in order.

use anyhow::{Context, Result};
use rootbeam_initramfs::archive::{Archive, read};
use rootbeam_initramfs::newc::{Entry, kind};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};

/// Unpacks the initramfs `file` into `folder`; needs root.
pub fn unpack(file: &Path, folder: &Path) -> Result<()> {
    let bytes = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    for archive in read(&bytes).with_context(|| format!("not an initramfs: {}", file.display()))? {
        let mut linked = BTreeMap::new();
        for entry in &archive.entries {
            let path = folder.join(OsStr::from_bytes(&entry.path));
            put(&archive, entry, &path, &mut linked).with_context(|| format!("cannot make {}", path.display()))?;
        }
    }
    Ok(())
}

/// Makes an entry; `linked` holds the first path of every file with several names, by inode.
fn put(archive: &Archive, entry: &Entry, path: &Path, linked: &mut BTreeMap<u32, PathBuf>) -> Result<()> {
    let data = archive.data(entry);
    // A later archive replaces what an earlier one brought.
    if entry.kind() != kind::DIRECTORY && fs::symlink_metadata(path).is_ok() {
        fs::remove_file(path)?;
    }
    match entry.kind() {
        kind::DIRECTORY => fs::create_dir_all(path)?,
        kind::SYMLINK => {
            symlink(OsStr::from_bytes(data), path)?;
            // A link has no permissions of its own.
            return Ok(lchown(path, Some(entry.owner.0), Some(entry.owner.1))?);
        }
        kind::FILE => match linked.get(&entry.inode).filter(|_| entry.links > 1) {
            Some(first) => {
                fs::hard_link(first, path)?;
                // The data comes with the last name.
                if !data.is_empty() {
                    fs::write(path, data)?;
                }
            }
            None => {
                fs::write(path, data)?;
                linked.insert(entry.inode, path.to_owned());
            }
        },
        other => {
            let device = rustix::fs::makedev(entry.device.0, entry.device.1);
            mknodat(CWD, path, FileType::from_raw_mode(other), Mode::from_raw_mode(entry.mode), device)?;
        }
    }
    lchown(path, Some(entry.owner.0), Some(entry.owner.1))?;
    Ok(fs::set_permissions(path, Permissions::from_mode(entry.mode & 0o7777))?)
}
