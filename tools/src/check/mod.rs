//! `rootbeam check`: would this boot? Asked of the code that boots, before a machine does.

mod archive;
mod ask;
mod images;
mod init;
mod keys;
mod list;
mod memory;
mod options;
mod said;
mod source;
mod streaming;
mod system;
pub mod verdict;

use crate::cli::Judged;
use crate::term::{Term, result};
use anyhow::{Context, Result, anyhow, bail};
use archive::{Archive, kernel_release};
use images::Images;
use list::Ranged;
use memory::Machine;
use options::Beside;
use rootbeam_init::causes;
use rootbeam_init::contract;
use rootbeam_init::fetch::client::{Client, Clients};
use rootbeam_init::messages::{FilesystemKind, Trust};
use rootbeam_init::settings::Settings;
use rootbeam_init::settings::values::bytes;
use rootbeam_init::store::superblock::{self, SuperblockFacts};
use serde::Serialize;
use source::Image;
use std::fs::{self, File};
use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;
use system::Tree;
use verdict::{About, Level, Verdict, line, worst};

/// Say whether a machine would boot, before it does
///
/// Reads the options by the code that boots, opens the initramfs, looks for the modules that image and layers need, asks
/// every source of theirs as a boot does (with the packed certificates, token and client certificate, and the headers and
/// the proxy of the options), verifies manifests and signatures with the packed keys, tells whether an image would be
/// streamed where that is asked for, weighs all of it against the RAM, and looks for what in the image would stand in its
/// own way, or in the stream's.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  rootbeam check --initramfs initramfs.zst --ram 1G rootbeam.image=http://10.0.0.1/web.squashfs quiet
  rootbeam check --initramfs initramfs.zst --kernel vmlinuz --cmdline /proc/cmdline
  rootbeam check --initramfs initramfs.zst --image web.squashfs --offline     the files alone

One finding a line: ok, warning or failure, what it is about, and a sentence. The sources are asked from this machine,
which may reach others than the one that will boot, and by its clock. A source whose URL has {words} that only a machine
knows is not asked. How much memory a machine of --ram will have for the images is estimated: its RAM without a 24th for
the kernel's tables, the kernel (four times its file, or 48 MiB), the unpacked initramfs, and 40 MiB.

Exit codes:
  0  it boots, as far as can be told
  1  the check itself failed: a file could not be read
  2  wrong usage
  3  it does not boot: there is a failure
  4  it boots, and there is a warning")]
pub struct Args {
    /// The initramfs
    #[arg(long, value_name = "FILE")]
    pub initramfs: PathBuf,
    /// The kernel command line in a file; - is standard input
    #[arg(long, value_name = "FILE", conflicts_with = "words")]
    pub cmdline: Option<PathBuf>,
    /// The kernel, whose release is compared with the initramfs's modules
    #[arg(long, value_name = "FILE")]
    pub kernel: Option<PathBuf>,
    /// RAM of the machine: 512M, 2G
    #[arg(long, value_name = "SIZE", value_parser = ram)]
    pub ram: Option<u64>,
    /// The image as a file here: what is in it is read from there and not from the source
    #[arg(long, value_name = "FILE")]
    pub image: Option<PathBuf>,
    /// Ask no server
    #[arg(long)]
    pub offline: bool,
    /// Print the findings as JSON
    #[arg(long)]
    pub json: bool,
    /// Words of the kernel command line
    #[arg(value_name = "WORD")]
    pub words: Vec<String>,
}

fn ram(text: &str) -> Result<u64, String> {
    bytes(text).map_err(|expected| expected.to_string())
}

/// Runs `rootbeam check`.
pub fn run(args: &Args, term: &Term) -> Result<()> {
    let verdicts = check(args)?;
    let worst = worst(&verdicts);
    if args.json {
        result(serde_json::to_string_pretty(&Told { verdict: worst, findings: &verdicts })?)?;
    } else {
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let colour = std::io::stdout().is_terminal() && !no_color;
        let shown = verdicts.iter().filter(|verdict| verdict.level > Level::Ok || !term.is_quiet());
        shown.map(|verdict| line(verdict, colour)).try_for_each(result)?;
    }
    match worst.exit_code() {
        0 => Ok(()),
        code => Err(Judged(code).into()),
    }
}

#[derive(Serialize)]
struct Told<'a> {
    verdict: Level,
    findings: &'a [Verdict],
}

fn check(args: &Args) -> Result<Vec<Verdict>> {
    let file = read(&args.initramfs)?;
    let archive = match Archive::read(&file) {
        Ok(archive) => archive,
        Err(error) => return Ok(vec![About::Archive.failure(format!("{}: {error}.", args.initramfs.display()))]),
    };
    let (kernel, kernel_size) = match &args.kernel {
        Some(path) => {
            let kernel = read(path)?;
            (kernel_release(&kernel), Some(kernel.len() as u64))
        }
        None => (None, None),
    };
    let (settings, notices) = Settings::parse(archive.file(contract::CONFIG), &command_line(args)?);
    let beside = Beside { shell: archive.report.shell, files_alone: args.offline && args.image.is_some() };
    let mut verdicts = options::judge(&settings, &notices, beside);
    let (about_archive, release) = archive::judge(&archive, kernel.as_deref());
    verdicts.extend(about_archive);
    if args.kernel.is_some() && kernel.is_none() {
        verdicts.push(About::Archive.warning("The kernel's file does not tell its release, so that is not compared."));
    }

    let mut kept = |verdict| verdicts.push(verdict);
    let anchors = keys::packed(&archive)
        .map_err(|fault| kept(About::Archive.failure(format!("No image boots: {fault}; pack it again."))))
        .ok();
    let client = match args.offline {
        true => None,
        false => client(&archive, &settings).map_err(kept).ok(),
    };
    let mut images = Images::default();
    if let (Some(client), Some(anchors)) = (&client, anchors) {
        let (about_sources, found) = images::ask(client, anchors, &settings, release.as_deref());
        verdicts.extend(about_sources);
        images = found;
    }
    // By what their sources told: a file here has no manifest.
    let fuse = release.as_deref().and_then(|release| archive::fuse(&archive, release, &settings));
    let about_streams = streaming::judge(&settings, fuse.as_ref(), &images.all());
    if let Some(path) = &args.image {
        let (verdict, found) = local(path)?;
        verdicts.extend(verdict);
        images.image = found;
    }

    if let Some(release) = &release {
        verdicts.extend(archive::drivers(&archive, release, &settings, &images.all()));
    }
    verdicts.extend(about_streams);
    if let Some(image) = &images.image {
        let machine = args.ram.map(|ram| Machine { ram, kernel: kernel_size, initramfs: archive.unpacked() });
        let layers: Vec<u64> = images.layers.iter().map(|layer| layer.size).collect();
        verdicts.push(memory::judge(image.size, &layers, machine, &settings));
    }
    let (about_content, tree) = content(args, &settings, &images, client.as_ref());
    verdicts.extend(about_content);
    let machine = init::machine(&archive);
    let judged = |tree| system::judge(tree, &settings, release.as_deref(), machine.as_deref());
    verdicts.extend(tree.iter().flat_map(judged));
    // Listing asks the servers too.
    let at = verdicts.iter().rposition(|verdict| verdict.about == About::Source).map_or(verdicts.len(), |at| at + 1);
    let sources: Vec<_> = settings.sources_named().cloned().collect();
    let warnings =
        client.iter().flat_map(Client::warnings).map(|warning| said::finding(&causes::warning(&warning, &sources)));
    verdicts.splice(at..at, warnings.chain(said::findings()).collect::<Vec<_>>());
    Ok(verdicts)
}

/// The client of a boot from this archive.
fn client(archive: &Archive, settings: &Settings) -> Result<Client, Verdict> {
    said::listen();
    let stall = Duration::from_secs(u64::from(settings.stall));
    Clients::new(archive.access(settings)).client(stall).map_err(|cause| {
        let text = causes::fetch_text(&cause);
        About::Source.failure(format!("No server was asked: {text} with what is packed; pack the initramfs anew."))
    })
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

fn command_line(args: &Args) -> Result<Vec<u8>> {
    match &args.cmdline {
        Some(path) if path == Path::new("-") => {
            let mut line = Vec::new();
            std::io::stdin().read_to_end(&mut line).context("cannot read the command line from standard input")?;
            Ok(line)
        }
        Some(path) => read(path),
        None => Ok(args.words.join(" ").into_bytes()),
    }
}

/// The image in a file.
fn local(path: &Path) -> Result<(Vec<Verdict>, Option<Image>)> {
    let mut file = File::open(path).with_context(|| format!("cannot open the image {}", path.display()))?;
    let size = file.metadata()?.len();
    let mut first = Vec::new();
    file.by_ref().take(superblock::PROBE as u64).read_to_end(&mut first)?;
    let url = path.display().to_string();
    match superblock::inspect(&first, size) {
        Ok(superblock) => {
            let (what, trust, layers, named) = ("image".to_owned(), Trust::Unverified, Vec::new(), Vec::new());
            let (sha256, has_manifest) = (None, false);
            let image = Image { what, url, size, sha256, superblock, ranges: true, trust, has_manifest, layers, named };
            Ok((Vec::new(), Some(image)))
        }
        Err(fault) => Ok((vec![About::Image.failure(format!("{url}: {fault}."))], None)),
    }
}

/// What is in the image and in the layers on it, as far as it can be seen.
fn content(args: &Args, settings: &Settings, images: &Images, client: Option<&Client>) -> (Vec<Verdict>, Option<Tree>) {
    let system = About::System;
    let remote = |image: &Image| match client.filter(|_| image.ranges) {
        Some(client) => {
            let ranged = || Ranged::new(client.clone(), image.url.clone(), image.size);
            squashfs(&image.superblock, || list::list(ranged(), settings))
        }
        None => Err(anyhow!("its server gives no ranges")),
    };
    let tree = match (&args.image, &images.image) {
        (Some(path), Some(image)) => squashfs(&image.superblock, || list::list(File::open(path)?, settings)),
        (None, Some(image)) if image.ranges => remote(image),
        _ => {
            let text =
                "What is in the image was not looked at: that needs a squashfs in a file (--image), or by ranges.";
            return (vec![system.warning(text)], None);
        }
    };
    let mut tree = match tree {
        Ok(tree) => tree,
        Err(error) => return (vec![system.warning(format!("What is in the image is unknown: {error:#}."))], None),
    };
    let mut verdicts = Vec::new();
    for layer in &images.layers {
        match remote(layer) {
            Ok(above) => tree = tree.under(above),
            Err(error) => {
                verdicts.push(system.warning(format!("What is in the {} is unknown: {error:#}.", layer.what)));
            }
        }
    }
    (verdicts, Some(tree))
}

/// The listing of a squashfs; of nothing else there is one.
fn squashfs(superblock: &SuperblockFacts, list: impl FnOnce() -> Result<Tree>) -> Result<Tree> {
    match superblock.filesystem {
        FilesystemKind::Squashfs => list(),
        FilesystemKind::Erofs => bail!("it is an erofs, and only a squashfs is listed"),
    }
}
