//! Writing squashfs with backhand: no program needed, for sources without xattrs and hard links.

use super::inventory::{Content, Entry, Inventory};
use super::{Compress, Compression, Source};
use crate::term::{Progress, Term};
use anyhow::{Context, Result};
use backhand::compression::{CompressionOptions, Compressor, Gzip, Zstd};
use backhand::{FilesystemCompressor, FilesystemReader, FilesystemWriter, NodeHeader};
use std::fs::File;
use std::io::{self, Cursor, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Writes the image of `inventory` to `out`. Hard links become copies.
pub fn write(
    source: &Source,
    inventory: &Inventory,
    compression: Compression,
    date: u32,
    out: &mut File,
    term: &Term,
) -> Result<()> {
    let total = inventory.entries.keys().filter_map(|path| inventory.target(path)).map(|(_, entry)| size(entry)).sum();
    let progress = term.progress("compressing", total);
    let root = inventory.entries.get(Path::new("")).context("the source has no root")?;
    let seed = seed(root)?;
    let mut writer = FilesystemWriter::from_fs_reader(&seed)?;
    writer.set_time(date);
    writer.set_compressor(compressor(compression)?);
    for path in inventory.entries.keys().filter(|path| path.as_path() != Path::new("")) {
        let (place, entry) =
            inventory.target(path).with_context(|| format!("{} is a link to nothing", path.display()))?;
        add(&mut writer, source, path, place, entry, &progress)
            .with_context(|| format!("cannot add /{} to the image", path.display()))?;
    }
    writer.write(out).context("cannot write the image")?;
    drop(writer);
    progress.finish();
    Ok(())
}

/// An image of nothing but `root`. Only through a reader does backhand's writer take a root folder with its time.
fn seed(root: &Entry) -> Result<FilesystemReader<'static>> {
    let mut writer = FilesystemWriter::default();
    writer.set_root_uid(root.uid);
    writer.set_root_gid(root.gid);
    // Owners enter the image's table with files; this one is not kept.
    writer.push_dir("seed", header(root))?;
    let mut image = Cursor::new(Vec::new());
    writer.write(&mut image)?;
    image.set_position(0);
    let mut reader = FilesystemReader::from_reader(image)?;
    reader.root.nodes.truncate(1);
    reader.root.root_mut().header = header(root);
    Ok(reader)
}

fn header(entry: &Entry) -> NodeHeader {
    NodeHeader::new(entry.mode, entry.uid, entry.gid, entry.mtime)
}

fn size(entry: &Entry) -> u64 {
    match entry.content {
        Content::File { size, .. } => size,
        _ => 0,
    }
}

fn compressor(Compression { compress, level }: Compression) -> Result<FilesystemCompressor> {
    let (id, options) = match (compress, level) {
        (Compress::Zstd, Some(level)) => {
            (Compressor::Zstd, Some(CompressionOptions::Zstd(Zstd { compression_level: level })))
        }
        (Compress::Gzip, Some(level)) => {
            let gzip = Gzip { compression_level: level, window_size: 15, strategies: 0 };
            (Compressor::Gzip, Some(CompressionOptions::Gzip(gzip)))
        }
        (Compress::Zstd, None) => (Compressor::Zstd, None),
        (Compress::Gzip, None) => (Compressor::Gzip, None),
        (Compress::Xz, _) => (Compressor::Xz, None),
    };
    Ok(FilesystemCompressor::new(id, options)?)
}

fn add<'c>(
    writer: &mut FilesystemWriter<'_, '_, 'c>,
    source: &Source,
    path: &Path,
    place: &Path,
    entry: &Entry,
    progress: &'c Progress,
) -> Result<()> {
    let header = header(entry);
    match &entry.content {
        Content::Folder => writer.push_dir(path, header)?,
        Content::File { size, at } => {
            let from = match (source, at) {
                (Source::Folder(root), _) => From::Path(root.join(place)),
                (Source::Tar(tar), at) => From::Tar { file: tar.file.clone(), at: at.unwrap_or(0), left: *size },
            };
            writer.push_file(Contents { from, name: place.to_owned(), progress }, path, header)?;
        }
        Content::Symlink(target) => writer.push_symlink(target, path, header)?,
        Content::CharDevice(device) => writer.push_char_device(device.encode(), path, header)?,
        Content::BlockDevice(device) => writer.push_block_device(device.encode(), path, header)?,
        Content::Fifo => writer.push_fifo(path, header)?,
        Content::Socket => writer.push_socket(path, header)?,
        Content::Link(_) => anyhow::bail!("it is a link to a link"),
    }
    Ok(())
}

/// A file's contents, opened when they are first read: an image may have more files than a process descriptors.
struct Contents<'c> {
    from: From,
    name: PathBuf,
    progress: &'c Progress,
}

enum From {
    Path(PathBuf),
    File(File),
    Tar { file: Arc<File>, at: u64, left: u64 },
}

impl Contents<'_> {
    fn fetch(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let From::Path(path) = &self.from {
            self.from = From::File(File::open(path)?);
        }
        match &mut self.from {
            From::Path(_) => Ok(0),
            From::File(file) => file.read(buffer),
            From::Tar { file, at, left } => {
                let wanted = buffer.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                let read = file.read_at(buffer.get_mut(..wanted).unwrap_or_default(), *at)?;
                if read == 0 && wanted > 0 {
                    return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the tar is truncated"));
                }
                *at += read as u64;
                *left -= read as u64;
                Ok(read)
            }
        }
    }
}

impl Read for Contents<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.fetch(buffer) {
            Ok(read) => {
                self.progress.add(read as u64);
                Ok(read)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Err(error),
            Err(error) => Err(io::Error::new(error.kind(), format!("/{}: {error}", self.name.display()))),
        }
    }
}
