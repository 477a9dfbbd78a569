//! `rootbeam check`: would this boot? Asked of the code that boots, before a machine does.

mod archive;
mod ask;
mod keys;
mod list;
mod memory;
mod options;
mod source;
mod system;
pub mod verdict;

use crate::cli::Judged;
use crate::image::remote::Remote;
use crate::term::{Term, result};
use anyhow::{Context, Result, bail};
use archive::{Archive, kernel_release};
use keys::Trusted;
use list::Ranged;
use memory::Machine;
use rootbeam_init::contract;
use rootbeam_init::messages::FilesystemKind;
use rootbeam_init::settings::Settings;
use rootbeam_init::settings::source::Source;
use rootbeam_init::settings::values::bytes;
use rootbeam_init::store::superblock::{self, SuperblockFacts};
use serde::Serialize;
use source::{Demands, Image};
use std::fs::{self, File};
use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};
use system::Tree;
use verdict::{About, Level, Verdict, line, worst};

/// Say whether a machine would boot, before it does
///
/// Reads the options by the code that boots, opens the initramfs, looks for the modules that the image needs, asks every
/// source of the image with the packed certificates, verifies manifest and signature with the packed keys, weighs the
/// image against the RAM, and looks for what in the image would stand in its own way.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  rootbeam check --initramfs initramfs.zst --ram 1G rootbeam.image=http://10.0.0.1/web.squashfs quiet
  rootbeam check --initramfs initramfs.zst --kernel vmlinuz --cmdline /proc/cmdline
  rootbeam check --initramfs initramfs.zst --image web.squashfs --offline     the files alone

One finding a line: ok, warning or failure, what it is about, and a sentence. The sources are asked from this machine,
which may reach others than the one that will boot. How much memory a machine of --ram will have for the image is
estimated: its RAM without a 24th for the kernel's tables, the kernel (four times its file, or 48 MiB), the unpacked
initramfs, and 40 MiB.

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
    let mut verdicts = options::judge(&settings, &notices, archive.report.shell);
    let (about_archive, release) = archive::judge(&archive, kernel.as_deref());
    verdicts.extend(about_archive);
    if args.kernel.is_some() && kernel.is_none() {
        verdicts.push(About::Archive.warning("The kernel's file does not tell its release, so that is not compared."));
    }

    let (about_sources, mut image) = ask_all(args, &settings, &archive, release.as_deref());
    verdicts.extend(about_sources);
    let mut tree = None;
    if let Some(path) = &args.image {
        let (verdict, found) = local(path)?;
        verdicts.extend(verdict);
        tree = found.as_ref().map(|image| squashfs(&image.superblock, || list::list(File::open(path)?)));
        image = found;
    } else if let Some(image) = image.as_ref().filter(|image| image.ranges) {
        let open = || Ranged::new(Remote::packed(archive.file(contract::CA))?, &image.url, image.size);
        tree = Some(squashfs(&image.superblock, || list::list(open()?)));
    }

    if let Some(release) = &release {
        verdicts.extend(archive::drivers(&archive, release, &settings, image.as_ref().map(|image| &image.superblock)));
    }
    if let Some(image) = &image {
        let machine = args.ram.map(|ram| Machine { ram, kernel: kernel_size, initramfs: archive.unpacked() });
        verdicts.push(memory::judge(image.size, machine, &settings));
    }
    match tree {
        Some(Ok(Some(tree))) => verdicts.extend(system::judge(&tree, &settings, release.as_deref())),
        Some(Err(error)) => {
            verdicts.push(About::System.warning(format!("What is in the image is unknown: {error:#}.")))
        }
        _ => {
            let text =
                "What is in the image was not looked at: that needs a squashfs in a file (--image), or by ranges.";
            verdicts.push(About::System.warning(text));
        }
    }
    Ok(verdicts)
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

fn ask_all(
    args: &Args,
    settings: &Settings,
    archive: &Archive,
    release: Option<&str>,
) -> (Vec<Verdict>, Option<Image>) {
    let trusted = match Trusted::of(archive) {
        Ok(trusted) => trusted,
        Err(fault) => return (vec![About::Archive.failure(format!("No image boots: {fault}; pack it again."))], None),
    };
    if args.offline || settings.image.is_empty() {
        return (Vec::new(), None);
    }
    let pem = archive.file(contract::CA);
    let remote = match Remote::packed(pem) {
        Ok(remote) => remote,
        Err(error) => return (vec![About::Archive.failure(format!("{error:#}; pack it again with --ca PEM."))], None),
    };
    // `Display` shows the words that become a machine's own, and no secret.
    let (of_machine, plain): (Vec<_>, Vec<_>) = settings.image.iter().partition(|url| url.to_string().contains('{'));
    let ask = |url: &Source| (url.to_string(), ask::ask(&remote, url.as_str(), trusted.demands_signatures()));
    let answers: Vec<_> = plain.into_iter().map(ask).collect();
    let certificates = archive.report.certificates > 0;
    let (mut verdicts, image) =
        source::judge(&answers, &Demands { settings, trusted: &trusted, release, certificates });
    let unasked =
        |url| About::Source.warning(format!("{url}: It was not asked: its {{words}} are known to a machine."));
    verdicts.extend(of_machine.into_iter().map(unasked));
    verdicts.extend(shown(archive, settings));
    (verdicts, image)
}

/// What a boot shows to the servers or goes through, and this command does not.
fn shown(archive: &Archive, settings: &Settings) -> Option<Verdict> {
    let packed = |path: &str| !archive.file(path).is_empty();
    let differences = [
        (packed(contract::TOKEN) || !settings.headers.is_empty(), "without the machine's token and headers"),
        (packed(contract::CLIENT_CERTIFICATE), "without its client certificate"),
        (settings.proxy.is_some(), "past its proxy"),
    ];
    let said: Vec<&str> = differences.into_iter().filter(|(differs, _)| *differs).map(|(_, text)| text).collect();
    (!said.is_empty()).then(|| About::Source.warning(format!("The servers were asked {}.", said.join(", "))))
}

/// The image in a file.
fn local(path: &Path) -> Result<(Vec<Verdict>, Option<Image>)> {
    let mut file = File::open(path).with_context(|| format!("cannot open the image {}", path.display()))?;
    let size = file.metadata()?.len();
    let mut first = Vec::new();
    file.by_ref().take(superblock::PROBE as u64).read_to_end(&mut first)?;
    let url = path.display().to_string();
    match superblock::inspect(&first, size) {
        Ok(superblock) => Ok((Vec::new(), Some(Image { url, size, sha256: None, superblock, ranges: true }))),
        Err(fault) => Ok((vec![About::Image.failure(format!("{url}: {fault}."))], None)),
    }
}

/// The listing of a squashfs; of nothing else there is one.
fn squashfs(superblock: &SuperblockFacts, list: impl FnOnce() -> Result<Tree>) -> Result<Option<Tree>> {
    match superblock.filesystem {
        FilesystemKind::Squashfs => list().map(Some),
        FilesystemKind::Erofs => bail!("it is an erofs, and only a squashfs is listed"),
    }
}
