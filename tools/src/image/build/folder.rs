//! A folder as the source of an image.

use super::exclude::Exclude;
use super::inventory::{Content, Device, Entry, Inventory, squashfs_time};
use anyhow::{Context, Result, bail};
use std::collections::HashMap;
use std::fs::Metadata;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use walkdir::WalkDir;

/// Looks through the folder at `root`, which is no symbolic link.
pub fn survey(root: &Path, exclude: &Exclude) -> Result<Inventory> {
    let mut inventory = Inventory::default();
    let mut names: HashMap<(u64, u64), PathBuf> = HashMap::new();
    // Sorted, so that the first name of a file, to which the others are links, follows from the names alone.
    let mut walk = WalkDir::new(root).sort_by_file_name().into_iter();
    while let Some(found) = walk.next() {
        let found = found.with_context(|| format!("cannot look through {}", root.display()))?;
        let path = found.path();
        let relative = path.strip_prefix(root).unwrap_or(path).to_owned();
        if relative != Path::new("") && exclude.names(&relative) {
            if found.file_type().is_dir() {
                walk.skip_current_dir();
            }
            inventory.excluded.push(relative);
            continue;
        }
        let metadata = found.metadata().with_context(|| format!("cannot read {}", path.display()))?;
        let mut entry = entry(path, &metadata)?;
        let attributes = attributes(path)?;
        entry.xattrs = attributes.storable;
        if attributes.acl {
            inventory.acls.push(relative.clone());
        }
        if !metadata.is_dir() && metadata.nlink() > 1 {
            match names.get(&(metadata.dev(), metadata.ino())) {
                Some(first) => entry.content = Content::Link(first.clone()),
                None => {
                    names.insert((metadata.dev(), metadata.ino()), relative.clone());
                }
            }
        }
        inventory.entries.insert(relative, entry);
    }
    Ok(inventory)
}

fn entry(path: &Path, metadata: &Metadata) -> Result<Entry> {
    let kind = metadata.file_type();
    let device = Device { major: rustix::fs::major(metadata.rdev()), minor: rustix::fs::minor(metadata.rdev()) };
    let content = if kind.is_dir() {
        Content::Folder
    } else if kind.is_file() {
        Content::File { size: metadata.len(), at: None }
    } else if kind.is_symlink() {
        Content::Symlink(std::fs::read_link(path).with_context(|| format!("cannot read {}", path.display()))?)
    } else if kind.is_char_device() {
        Content::CharDevice(device)
    } else if kind.is_block_device() {
        Content::BlockDevice(device)
    } else if kind.is_fifo() {
        Content::Fifo
    } else if kind.is_socket() {
        Content::Socket
    } else {
        bail!("{} is of a kind that no image can hold", path.display());
    };
    Ok(Entry {
        content,
        mode: (metadata.mode() & 0o7777) as u16,
        uid: metadata.uid(),
        gid: metadata.gid(),
        mtime: squashfs_time(metadata.mtime()),
        xattrs: false,
        sparse: false,
    })
}

#[derive(Default)]
struct Attributes {
    storable: bool,
    acl: bool,
}

fn attributes(path: &Path) -> Result<Attributes> {
    let names = match xattr::list(path) {
        Ok(names) => names,
        // A filesystem without xattrs has nothing to keep.
        Err(error) if error.kind() == std::io::ErrorKind::Unsupported => return Ok(Attributes::default()),
        Err(error) => {
            return Err(error).with_context(|| format!("cannot read the extended attributes of {}", path.display()));
        }
    };
    let mut found = Attributes::default();
    for name in names {
        found.storable |= is_storable(name.as_bytes());
        found.acl |= name.as_bytes().starts_with(b"system.posix_acl_");
    }
    Ok(found)
}

/// Whether squashfs can hold an attribute of that name.
pub fn is_storable(name: &[u8]) -> bool {
    [b"user.".as_slice(), b"trusted.", b"security."].iter().any(|prefix| name.starts_with(prefix))
}
