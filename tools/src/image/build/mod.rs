//! `rootbeam image build`: a squashfs from a folder or a tar.
//!
//! A source is first looked through into an [`Inventory`]; from what it needs follows the [`Writer`]. backhand keeps
//! neither xattrs nor hard links, so sources that have them go through mksquashfs.

mod exclude;
mod folder;
mod inventory;
mod members;
mod native;
pub(crate) mod remarks;
mod squashfs_tools;
mod tarball;

use super::source_date_epoch;
use crate::output::Output;
use crate::term::{Bytes, Term, result};
use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use exclude::Exclude;
use inventory::Inventory;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use tarball::Tarball;

const EXAMPLES: &str = "\
Examples:
  rootbeam image build /srv/web-root -o web.squashfs
  rootbeam image build rootfs.tar.zst -o web.squashfs --exclude 'boot' --exclude 'var/cache/*'
  SOURCE_DATE_EPOCH=1700000000 rootbeam image build root -o web.squashfs --compress xz

Owners, modes, times, device nodes, hard links, extended attributes and file capabilities are kept. Where there are
hard links or extended attributes, mksquashfs (package squashfs-tools) does the writing.

The same source gives the same bytes: the image's date is SOURCE_DATE_EPOCH, else that of the newest file; with
SOURCE_DATE_EPOCH no file is newer than it.

A folder whose owners are to be kept must be read as root; a tar need not be. OUT lies outside of the folder, or in one
of its folders that --exclude leaves out.

A build that is killed leaves a hidden file .rootbeam-build-… beside OUT, which the next build there removes.";

/// Arguments of `rootbeam image build`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// A folder, or a tar (plain, .gz, .xz or .zst)
    #[arg(value_name = "SRC")]
    pub source: PathBuf,
    /// The image to write
    #[arg(short, long, value_name = "OUT")]
    pub output: PathBuf,
    /// How to compress; the kernel must know it too
    #[arg(long, value_enum, default_value_t = Compress::Zstd)]
    pub compress: Compress,
    /// Compression level: zstd 1 to 22 (default 15), gzip 1 to 9 (default 9); xz has none
    #[arg(long, value_name = "N")]
    pub level: Option<u32>,
    /// Leave extended attributes and file capabilities out; without mksquashfs, hard links become copies
    #[arg(long)]
    pub drop_xattrs: bool,
    /// Leave out what has this path; `*` and `?` match within a name. May be given several times
    #[arg(long, value_name = "PATH")]
    pub exclude: Vec<String>,
}

/// A compressor of squashfs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Compress {
    /// Best compromise; kernel 4.14 or newer.
    Zstd,
    /// Every kernel has it.
    Gzip,
    /// Smallest, slowest to read.
    Xz,
}

/// A compressor with its level, which fits it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Compression {
    compress: Compress,
    level: Option<u32>,
}

impl Compression {
    fn new(compress: Compress, level: Option<u32>) -> Result<Self> {
        let (default, range) = match compress {
            Compress::Zstd => (15, 1..=22),
            Compress::Gzip => (9, 1..=9),
            Compress::Xz if level.is_some() => bail!("xz takes no --level: leave it out"),
            Compress::Xz => return Ok(Self { compress, level: None }),
        };
        let level = level.unwrap_or(default);
        if !range.contains(&level) {
            bail!("--level {level} does not exist: it goes from {} to {}", range.start(), range.end());
        }
        Ok(Self { compress, level: Some(level) })
    }
}

/// Who writes the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Writer {
    Backhand,
    SquashfsTools,
}

/// Where the bytes come from.
enum Source {
    Folder(PathBuf),
    Tar(Tarball),
}

/// Runs `rootbeam image build`.
pub fn run(args: Args, term: &Term) -> Result<()> {
    let compression = Compression::new(args.compress, args.level)?;
    let exclude = Exclude::new(&args.exclude)?;
    let epoch = source_date_epoch()?;
    let mut output = Output::swept(&args.output)?;
    if args.source.is_dir() {
        check_apart(&args, output.path(), &exclude)?;
    }
    let (source, mut inventory) = survey(&args.source, &exclude)?;
    if inventory.entries.len() < 2 {
        bail!("{} holds nothing: an image of it would be empty", args.source.display());
    }
    for pattern in exclude.unused() {
        term.warn(format_args!("--exclude {pattern} matches nothing"));
    }
    let date = inventory.settle_times(epoch)?;

    let mksquashfs = squashfs_tools::find();
    let writer = choose(&inventory, args.drop_xattrs, mksquashfs.is_some())?;
    if args.drop_xattrs {
        say_dropped(&inventory, writer, term);
    }
    remarks::warn(&inventory, &source, term)?;

    match (writer, mksquashfs) {
        (Writer::SquashfsTools, Some(program)) => {
            let job = squashfs_tools::Job { program, compression, date, drop_xattrs: args.drop_xattrs };
            match &source {
                Source::Folder(root) => job.folder(root, &inventory, output.path())?,
                Source::Tar(tar) => job.tar(tar, &inventory, output.path(), term)?,
            }
        }
        _ => native::write(&source, &inventory, compression, date, output.file(), term)?,
    }
    let size = std::fs::metadata(output.path())?.len();
    output.publish()?;

    result(format_args!(
        "{}: {} from {} files and folders",
        args.output.display(),
        Bytes(size),
        inventory.entries.len()
    ))
}

fn survey(path: &Path, exclude: &Exclude) -> Result<(Source, Inventory)> {
    let kind = std::fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))?;
    if kind.is_dir() {
        // A link to a folder is, for mksquashfs, a link to put into the image.
        let root = path.canonicalize().with_context(|| format!("cannot read {}", path.display()))?;
        let inventory = folder::survey(&root, exclude)?;
        Ok((Source::Folder(root), inventory))
    } else {
        let tar = Tarball::open(path)?;
        let inventory = tar.survey(exclude)?;
        Ok((Source::Tar(tar), inventory))
    }
}

/// Refuses an image that is written in its own source: it would hold the one that was built before it, and its folder's
/// time would be that of the build. In a folder that stays out it may be.
fn check_apart(args: &Args, written: &Path, exclude: &Exclude) -> Result<()> {
    let (source, output) = (args.source.display(), args.output.display());
    let root = args.source.canonicalize().with_context(|| format!("cannot read {source}"))?;
    let folder = written.parent().unwrap_or(written);
    let folder = folder.canonicalize().with_context(|| format!("cannot read {}", folder.display()))?;
    match folder.strip_prefix(root) {
        Ok(inside) if exclude.root_of(inside).is_none() => bail!(
            "{output} would be written in {source}, of which it is the image, and so hold the one that was built before: \
             name a place outside of it, or one in a folder that --exclude leaves out"
        ),
        _ => Ok(()),
    }
}

/// Chooses the writer, or refuses and names the files that would lose something.
fn choose(inventory: &Inventory, drop_xattrs: bool, mksquashfs: bool) -> Result<Writer> {
    let linked = inventory.hard_links();
    let attributed = if drop_xattrs { Vec::new() } else { inventory.with_xattrs() };
    let sparse = inventory.sparse();
    let lossless = linked.is_empty() && attributed.is_empty() && sparse.is_empty();
    if lossless {
        return Ok(Writer::Backhand);
    }
    if mksquashfs {
        return Ok(Writer::SquashfsTools);
    }
    if drop_xattrs && sparse.is_empty() {
        return Ok(Writer::Backhand);
    }
    let mut lost = Vec::new();
    for (what, names) in [("extended attributes", attributed), ("hard links", linked), ("sparse files", sparse)] {
        if !names.is_empty() {
            lost.push(format!("{what}: {}", list(&names)));
        }
    }
    let or = if inventory.sparse().is_empty() { ", or give --drop-xattrs to go without them" } else { "" };
    bail!(
        "mksquashfs is not installed and nothing else keeps what this source has ({}): install squashfs-tools{or}",
        lost.join("; ")
    )
}

fn say_dropped(inventory: &Inventory, writer: Writer, term: &Term) {
    let attributed = inventory.with_xattrs();
    if !attributed.is_empty() {
        term.warn(format_args!("extended attributes and capabilities are left out of {}", list(&attributed)));
    }
    let linked = inventory.hard_links();
    if writer == Writer::Backhand && !linked.is_empty() {
        term.warn(format_args!("hard links become copies: {}", list(&linked)));
    }
}

/// The first few of `names`, and how many more there are.
fn list(names: &[&Path]) -> String {
    const SHOWN: usize = 10;
    let mut text: Vec<_> = names.iter().take(SHOWN).map(|name| format!("/{}", name.display())).collect();
    if names.len() > SHOWN {
        text.push(format!("and {} more", names.len() - SHOWN));
    }
    text.join(", ")
}

/// Whether `name` may be a component of a path in an image.
fn is_plain(name: &OsStr) -> bool {
    !name.is_empty() && name != "." && name != ".."
}

#[cfg(test)]
mod tests {
    use super::inventory::{Content, Entry};
    use super::*;

    fn inventory(change: fn(&mut Entry)) -> Inventory {
        let mut entry = Entry::new(Content::File { size: 1, at: None });
        change(&mut entry);
        let mut inventory = Inventory::default();
        inventory.entries.insert("".into(), Entry::new(Content::Folder));
        inventory.entries.insert("usr".into(), Entry::new(Content::Folder));
        inventory.entries.insert("usr/ping".into(), entry);
        inventory
    }

    #[test]
    fn what_loses_nothing_is_written_by_backhand() {
        let plain = inventory(|_| ());
        assert_eq!(choose(&plain, false, true).unwrap(), Writer::Backhand);
    }

    #[test]
    fn refuses_and_names_the_files_that_would_lose_something() {
        let attributed = inventory(|entry| entry.xattrs = true);
        assert_eq!(choose(&attributed, false, true).unwrap(), Writer::SquashfsTools);
        assert_eq!(choose(&attributed, true, false).unwrap(), Writer::Backhand);
        assert_eq!(
            choose(&attributed, false, false).unwrap_err().to_string(),
            "mksquashfs is not installed and nothing else keeps what this source has (extended attributes: /usr/ping): \
             install squashfs-tools, or give --drop-xattrs to go without them"
        );
        let linked = inventory(|entry| entry.content = Content::Link("usr/pong".into()));
        assert_eq!(choose(&linked, false, true).unwrap(), Writer::SquashfsTools);
        assert!(choose(&linked, false, false).unwrap_err().to_string().contains("hard links: /usr/ping"));
        let sparse = inventory(|entry| entry.sparse = true);
        assert!(choose(&sparse, true, false).unwrap_err().to_string().ends_with("install squashfs-tools"));
    }

    #[test]
    fn levels_fit_their_compressor() {
        assert_eq!(Compression::new(Compress::Zstd, None).unwrap().level, Some(15));
        assert_eq!(Compression::new(Compress::Gzip, Some(3)).unwrap().level, Some(3));
        assert!(Compression::new(Compress::Gzip, Some(10)).is_err());
        assert!(Compression::new(Compress::Zstd, Some(0)).is_err());
        assert!(Compression::new(Compress::Xz, Some(6)).is_err());
    }

    #[test]
    fn long_lists_are_cut() {
        let names: Vec<PathBuf> = (0..12).map(|n| PathBuf::from(format!("{n}"))).collect();
        let names: Vec<&Path> = names.iter().map(PathBuf::as_path).collect();
        assert!(list(&names).ends_with("/9, and 2 more"));
    }
}
