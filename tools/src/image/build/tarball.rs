//! A tar as the source of an image: owners and device nodes are kept without being root.

use super::exclude::Exclude;
use super::inventory::{Content, Device, Entry, Inventory, squashfs_time};
use super::is_plain;
use super::members::{Member, Members};
use anyhow::{Context, Result, bail};
use std::collections::{BTreeSet, HashMap};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tar::EntryType;

/// An uncompressed tar in a file that can be read at any offset.
pub struct Tarball {
    /// The file.
    pub file: Arc<File>,
    name: String,
}

impl Tarball {
    /// Opens a tar. A compressed one is unpacked into a temporary file (in `TMPDIR`) first, as its files are not read
    /// in their order.
    pub fn open(path: &Path) -> Result<Self> {
        let name = path.display().to_string();
        let file = File::open(path).with_context(|| format!("cannot open {name}"))?;
        let unpacked = match unpacker(&file).with_context(|| format!("cannot read {name}"))? {
            None => None,
            Some(mut stream) => {
                let mut spool = tempfile::tempfile().context("cannot make a temporary file: set TMPDIR")?;
                io::copy(&mut stream, &mut spool)
                    .with_context(|| format!("cannot unpack {name} into a temporary file"))?;
                Some(spool)
            }
        };
        Ok(Self { file: Arc::new(unpacked.unwrap_or(file)), name })
    }

    fn not_a_tar(&self) -> String {
        format!("{} is not a tar that can be read (plain, .gz, .xz and .zst are)", self.name)
    }

    /// Looks through the tar. Of several members of one name the last counts, as for whoever unpacks it.
    pub fn survey(&self, exclude: &Exclude) -> Result<Inventory> {
        let mut inventory = Inventory::default();
        let mut excluded = BTreeSet::new();
        let mut spans = HashMap::new();
        let mut members = Members::of(&self.file).with_context(|| self.not_a_tar())?;
        while let Some(member) = members.next().with_context(|| self.not_a_tar())? {
            let Some((path, entry)) = read(&member).with_context(|| self.name.clone())? else { continue };
            if let Some(root) = exclude.root_of(&path) {
                excluded.insert(root.to_owned());
                inventory.skipped.push(member.span);
                continue;
            }
            if member.pax.acl {
                inventory.acls.push(path.clone());
            }
            // mksquashfs takes the first of one name, so it is not shown it.
            inventory.skipped.extend(spans.insert(path.clone(), member.span));
            inventory.entries.insert(path, entry);
        }
        check_links(&inventory, &spans).with_context(|| self.name.clone())?;
        inventory.skipped.sort_by_key(|span| span.start);
        inventory.excluded = excluded.into_iter().collect();
        settle_links(&mut inventory)?;
        imply_folders(&mut inventory)?;
        Ok(inventory)
    }

    /// Writes the tar to `out`, with headers for the folders that it only implies and without what is excluded.
    pub fn stream(&self, inventory: &Inventory, out: &mut impl Write) -> io::Result<()> {
        out.write_all(&implied_headers(inventory)?)?;
        let mut at = 0;
        for span in &inventory.skipped {
            self.copy(at..span.start, out)?;
            at = span.end;
        }
        self.copy(at..self.file.metadata()?.len(), out)
    }

    fn copy(&self, span: Range<u64>, out: &mut impl Write) -> io::Result<()> {
        let mut file: &File = &self.file;
        file.seek(SeekFrom::Start(span.start))?;
        io::copy(&mut file.take(span.end - span.start), out).map(drop)
    }
}

/// What unpacks `file`, by its first bytes; `None` where it is not compressed.
fn unpacker(file: &File) -> io::Result<Option<Box<dyn Read + '_>>> {
    let mut magic = [0; 6];
    let known = file.read_at(&mut magic, 0)?;
    Ok(match magic.get(..known).unwrap_or_default() {
        [0x1f, 0x8b, ..] => Some(Box::new(flate2::read::MultiGzDecoder::new(file))),
        [0xfd, b'7', b'z', b'X', b'Z', 0] => Some(Box::new(liblzma::read::XzDecoder::new_multi_decoder(file))),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Some(Box::new(zstd::Decoder::new(file)?)),
        _ => None,
    })
}

fn implied_headers(inventory: &Inventory) -> io::Result<Vec<u8>> {
    let mut builder = tar::Builder::new(Vec::new());
    for path in inventory.implied.iter().filter(|path| path.as_path() != Path::new("")) {
        let Some(entry) = inventory.entries.get(path) else { continue };
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(EntryType::Directory);
        header.set_mode(entry.mode.into());
        header.set_uid(entry.uid.into());
        header.set_gid(entry.gid.into());
        header.set_mtime(entry.mtime.into());
        header.set_size(0);
        builder.append_data(&mut header, path, io::empty())?;
    }
    let mut bytes = builder.into_inner()?;
    // Two blocks of zeros end an archive; here more of it follows.
    bytes.truncate(bytes.len().saturating_sub(1024));
    Ok(bytes)
}

/// Path and entry of a member; `None` for what is none of the tree.
fn read(member: &Member) -> Result<Option<(PathBuf, Entry)>> {
    let Member { header, name, link, pax, .. } = member;
    let path = clean(name)?;
    let kind = header.entry_type();
    if matches!(kind, EntryType::Link | EntryType::Symlink) && link.is_empty() {
        bail!("{} is a link to nowhere", path.display());
    }
    let device = || -> Result<Device> {
        Ok(Device { major: header.device_major()?.unwrap_or(0), minor: header.device_minor()?.unwrap_or(0) })
    };
    let content = match kind {
        EntryType::Directory => Content::Folder,
        // So did tar write folders before it had a type for them.
        EntryType::Regular if name.ends_with(b"/") => Content::Folder,
        EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
            Content::File { size: member.size, at: Some(member.contents) }
        }
        EntryType::Link => Content::Link(clean(link)?),
        EntryType::Symlink => Content::Symlink(OsStr::from_bytes(link).into()),
        EntryType::Char => Content::CharDevice(device()?),
        EntryType::Block => Content::BlockDevice(device()?),
        EntryType::Fifo => Content::Fifo,
        // A comment on the whole archive, and GNU's volume label.
        EntryType::XGlobalHeader => return Ok(None),
        other if other.as_byte() == b'V' => return Ok(None),
        other => bail!("{} is of a type ({:?}) that no image can hold", path.display(), char::from(other.as_byte())),
    };
    let id = |pax: Option<u32>, header: io::Result<u64>| -> Result<u32> {
        match pax {
            Some(id) => Ok(id),
            None => u32::try_from(header?).context("an owner's number is larger than 32 bits"),
        }
    };
    let entry = Entry {
        content,
        mode: (header.mode()? & 0o7777) as u16,
        uid: id(pax.uid, header.uid())?,
        gid: id(pax.gid, header.gid())?,
        mtime: squashfs_time(pax.mtime.unwrap_or(header.mtime()?.try_into().unwrap_or(i64::MAX))),
        xattrs: pax.xattrs,
        sparse: pax.sparse || kind == EntryType::GNUSparse,
    };
    Ok(Some((path, entry)))
}

/// A name of a tar as a path from the image's root.
fn clean(name: &[u8]) -> Result<PathBuf> {
    let mut path = PathBuf::new();
    for part in name.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".") {
        let part = OsStr::from_bytes(part);
        if !is_plain(part) || part.as_bytes().contains(&0) {
            bail!("the name {:?} leads out of the tree", String::from_utf8_lossy(name));
        }
        path.push(part);
    }
    Ok(path)
}

/// Refuses links before what they are links to. A link of a tar is to the member of that name before it: where a later one
/// replaces that, the link keeps the old contents, which no inventory has, and mksquashfs crashes at a link whose file it
/// has not seen.
fn check_links(inventory: &Inventory, spans: &HashMap<PathBuf, Range<u64>>) -> Result<()> {
    let begin = |path: &Path| spans.get(path).map(|span| span.start);
    for (path, entry) in &inventory.entries {
        if let Content::Link(target) = &entry.content
            && begin(target) > begin(path)
        {
            bail!(
                "{} is a hard link to {}, which the tar has, or has anew, only after the link: unpack the tar and build \
                 from the folder, or make the tar again in one go",
                path.display(),
                target.display()
            );
        }
    }
    Ok(())
}

/// Makes every link point at the file itself, and refuses links to what is not there.
fn settle_links(inventory: &mut Inventory) -> Result<()> {
    let links: Vec<PathBuf> = inventory.hard_links().into_iter().map(Path::to_owned).collect();
    for path in links {
        let mut at = path.clone();
        // A chain cannot be longer than there are entries.
        for _ in 0..inventory.entries.len() {
            match inventory.entries.get(&at).map(|entry| &entry.content) {
                Some(Content::Link(next)) => at = next.clone(),
                Some(Content::Folder) => bail!("{} is a hard link to a folder", path.display()),
                Some(_) => break,
                None => bail!(
                    "{} is a hard link to {}, which is not in the tar or is excluded: exclude both or neither",
                    path.display(),
                    at.display()
                ),
            }
        }
        if at == path || matches!(inventory.entries.get(&at).map(|entry| &entry.content), Some(Content::Link(_))) {
            bail!("{} is a hard link to itself", path.display());
        }
        if let Some(entry) = inventory.entries.get_mut(&path) {
            entry.content = Content::Link(at);
            // They are those of the file; a tar may repeat them.
            entry.xattrs = false;
        }
    }
    Ok(())
}

/// Adds the folders that a tar has only in the names of what they hold.
fn imply_folders(inventory: &mut Inventory) -> Result<()> {
    let newest = inventory.entries.values().map(|entry| entry.mtime).max().unwrap_or(0);
    let mut missing = BTreeSet::new();
    for path in inventory.entries.keys() {
        for folder in path.ancestors().skip(1) {
            match inventory.entries.get(folder).map(|entry| &entry.content) {
                Some(Content::Folder) => {}
                Some(_) => bail!("{} lies in {}, which is not a folder", path.display(), folder.display()),
                None => {
                    missing.insert(folder.to_owned());
                }
            }
        }
    }
    for path in missing {
        inventory.entries.insert(path.clone(), Entry { mtime: newest, ..Entry::new(Content::Folder) });
        inventory.implied.push(path);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_in_the_tree() {
        assert_eq!(clean(b"./usr//bin/").unwrap(), Path::new("usr/bin"));
        assert_eq!(clean(b"/etc/passwd").unwrap(), Path::new("etc/passwd"));
        assert_eq!(clean(b"./").unwrap(), Path::new(""));
        assert!(clean(b"usr/../../etc/passwd").is_err());
        assert!(clean(b"a\0b").is_err());
    }

    fn link(to: &str) -> Entry {
        Entry::new(Content::Link(to.into()))
    }

    #[test]
    fn links_end_at_a_file() {
        let mut inventory = Inventory::default();
        inventory.entries.insert("a".into(), Entry::new(Content::File { size: 0, at: Some(0) }));
        inventory.entries.insert("b".into(), link("a"));
        inventory.entries.insert("c".into(), link("b"));
        settle_links(&mut inventory).unwrap();
        assert_eq!(inventory.entries.get(Path::new("c")), Some(&link("a")));
        inventory.entries.insert("d".into(), link("gone"));
        assert!(settle_links(&mut inventory).unwrap_err().to_string().contains("exclude both or neither"));
        inventory.entries.insert("d".into(), link("e"));
        inventory.entries.insert("e".into(), link("d"));
        assert!(settle_links(&mut inventory).unwrap_err().to_string().ends_with("is a hard link to itself"));
    }
}
