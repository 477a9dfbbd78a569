//! `rootbeam image publish`: puts an image where machines fetch it, so that those which are fetching go on with what
//! they began.

mod plan;

use super::digest::{Digests, digest};
use super::{beside, filesystem, now, source_date_epoch};
use crate::cli::Mismatch;
use crate::output::{self, Output};
use crate::password;
use crate::sign::Signer;
use crate::term::{Term, result};
use anyhow::{Context, Result, bail};
use plan::{Chosen, Folder, LATEST, New, Plan, Source, Step, Wishes, choose, immutable_name, looks_immutable, plan};
use rootbeam_init::digest::Sha256;
use rootbeam_init::manifest::{self, Manifest};
use rootbeam_init::trust::SUFFIX as SIGNATURE;
use rustix::fs::{Advice, FlockOperation, fadvise, flock};
use serde::Serialize;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

const EXAMPLES: &str = "\
Examples:
  rootbeam image publish web.squashfs /srv/http/images
  rootbeam image publish web.squashfs /srv/http/images --keep 1 --dry-run

In DIR the image is called by its SHA-256, web-0123456789abcdef.squashfs, with its .chunks and .manifest beside it.
latest.manifest is a copy of the newest one's manifest, and nodes that boot by

  rootbeam.image=http://SERVER/images/latest.manifest

fetch what it names. It is replaced by rename, at the very end: a node that read it before fetches the version it began
with, which stays, and the next node boots the new one. Publishing what is the latest already changes nothing.

Under the image's own name image and chunks never change. Its manifest does: the same image with another kernel, layer,
source or boot order, or after another image was the latest, is a new version, whose manifest takes the place of the old
one as a whole, with --stage already. A node that read the old one goes on with it. A node that pins the old one, by
rootbeam.manifest=sha256:…, does not boot by the new one: give it the new word, which `rootbeam image show` prints, or pin
the image itself by rootbeam.sha256=, which allows no layers in an unsigned manifest.

The version is one more than the last, for an image that was published before too: to go back to DIR/web-….squashfs,
publish it again. Kernel, layers, sources and boot order are those of IMAGE.manifest, where there is
one. Layers must be in DIR by the names that it has for them: publish them first, with --stage, which leaves
latest.manifest to the image.

Older versions are images of the same name before the hash, web-…. All but --keep of them are removed, and never one that
a manifest which stays in DIR names, as its image or as a layer. --stage removes none.

With a key packed in the initramfs the manifest must be signed, and the signature covers the published name. Here and now:
  rootbeam image publish web.squashfs DIR --sign-key web.key
or where the key is:
  rootbeam image publish --stage web.squashfs DIR     prints DIR/web-0123456789abcdef.squashfs.manifest
  rootbeam sign DIR/web-0123456789abcdef.squashfs.manifest -s web.key
  rootbeam image publish DIR/web-0123456789abcdef.squashfs DIR    swaps latest.manifest and its signature
A signature is never removed unasked: where the same image is signed and its new manifest would not be, that is refused.
Where the key is elsewhere --stage --unsigned removes it, and until the new manifest is signed no node with a key boots
the image by its own name, as a layer is. The new signature file, which is swapped first, holds the signatures of the
version before as well: whatever a node read of the two, they belong together. A publication that was cut short is
finished by running it again.

Exit codes: 0 published (or nothing to do), 1 failed, 2 wrong usage, 3 the image is not the one of its manifest or name.";

/// What a copy is called until it is complete. Web servers hide such names, and nothing else makes them.
const COPY: &str = ".rootbeam-publish-";

/// Arguments of `rootbeam image publish`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The image, a squashfs or erofs file
    pub image: PathBuf,
    /// The folder that the web server serves; made if it is not there
    pub dir: PathBuf,
    /// Version of this publication; default: one more than the last
    #[arg(long, value_name = "N")]
    pub version: Option<u64>,
    /// How many older versions stay, for the nodes that are fetching them; what a manifest that stays names stays too
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub keep: usize,
    /// Put the image, its chunks and its manifest there, and leave latest.manifest as it is: to be signed first
    #[arg(long)]
    pub stage: bool,
    /// Sign the manifest with this secret key, made by `rootbeam keygen` or `minisign -G`
    #[arg(long, value_name = "KEY")]
    pub sign_key: Option<PathBuf>,
    #[command(flatten)]
    password: password::Choice,
    /// Let an unsigned image follow a signed one; with --stage: let the signature of its former manifest go
    #[arg(long)]
    pub unsigned: bool,
    /// Link the image instead of copying it: no space is needed, but nobody may write into IMAGE afterwards
    #[arg(long)]
    pub hard_link: bool,
    /// Print what would be done, and do nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Print what was done as JSON
    #[arg(long)]
    pub json: bool,
}

/// Runs `rootbeam image publish`.
pub fn run(args: Args, term: &Term) -> Result<()> {
    let (image, dir) = (&args.image, &args.dir);
    let Some(name) = image.file_name().and_then(|name| name.to_str()) else {
        bail!("{} has no name to be published under", image.display());
    };
    let locked = if args.dry_run { None } else { Some(lock(dir)?) };
    let in_place = is_in(image, dir) && looks_immutable(name);
    let mut copy = if args.dry_run || in_place { None } else { Some(Output::called(&dir.join(name), COPY)?) };
    let digests = take(image, copy.as_mut().filter(|_| !args.hard_link), term)?;
    if in_place && immutable_name(name, &digests.sha256) != name {
        let found = digests.sha256;
        return Err(Mismatch(format!("{}: its SHA-256 is {found}: publish the image again", image.display())).into());
    }

    let new = new(image, name, &digests)?;
    let folder = look(dir, &immutable_name(name, &digests.sha256), in_place, &digests)?;
    let wishes = Wishes {
        version: args.version,
        keep: args.keep,
        date: source_date_epoch()?.unwrap_or_else(now),
        stage: args.stage,
        unsigned: args.unsigned,
    };
    let refused = |refusal| of_refusal(refusal, image);
    let chosen = choose(&new, wishes, &folder).map_err(refused)?;
    filesystem(image, &digests.first, digests.size)?;
    let made = match &args.sign_key {
        Some(key) => Some(signature(&chosen, key, &args.password, &folder)?),
        None => None,
    };
    let plan = plan(&new, chosen, made, wishes, &folder).map_err(refused)?;
    if let Some(folder) = &locked {
        if let (true, Some(copy)) = (args.hard_link, &copy) {
            link(image, copy)?;
        }
        carry_out(&plan, dir, folder, copy, term)?;
    }
    tell(&args, &plan)
}

/// A signature of the chosen manifest: the one in the folder where the same key made it, lest the same image be another
/// publication, else a new one.
fn signature(chosen: &Chosen, key: &Path, password: &password::Choice, folder: &Folder) -> Result<Vec<u8>> {
    let signer = Signer::unlock(key, password)?;
    let own = format!("{}{}", chosen.manifest.name, manifest::SUFFIX);
    match folder.small.get(&format!("{own}{SIGNATURE}")) {
        Some(there) if signer.signed(&chosen.bytes, there) => Ok(there.clone()),
        _ => Ok(signer.sign(Path::new(&own), &chosen.bytes)?.into_bytes()),
    }
}

/// Makes the folder where it is not there, and keeps other publishers out of it until the file is closed.
fn lock(dir: &Path) -> Result<File> {
    match fs::create_dir(dir) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => {
            return Err(error).with_context(|| format!("cannot make the folder {}", dir.display()));
        }
        _ => {}
    }
    let folder = File::open(dir).with_context(|| format!("cannot open the folder {}", dir.display()))?;
    match flock(&folder, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {
            remove_copies(dir)?;
            Ok(folder)
        }
        Err(rustix::io::Errno::WOULDBLOCK) => {
            bail!("another publication into {} is under way: run this again when it is done", dir.display())
        }
        Err(error) => Err(io::Error::from(error)).with_context(|| format!("cannot lock {}", dir.display())),
    }
}

/// Copies that nobody is making any more: with the lock held, those of publications that were killed.
fn remove_copies(dir: &Path) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("cannot read the folder {}", dir.display()))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().as_encoded_bytes();
        if name.starts_with(COPY.as_bytes()) {
            fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
    }
    Ok(())
}

fn is_in(image: &Path, dir: &Path) -> bool {
    let parent = image.canonicalize().ok().and_then(|image| Some(image.parent()?.to_owned()));
    parent.is_some() && parent == dir.canonicalize().ok()
}

/// Reads the image once: for its digests and, where there is one, for the copy. So the published bytes are those
/// that were hashed, whatever happens to the source.
fn take(image: &Path, copy: Option<&mut Output>, term: &Term) -> Result<Digests> {
    let file = File::open(image).with_context(|| format!("cannot open the image {}", image.display()))?;
    let size = file.metadata()?.len();
    // More read-ahead; a filesystem that cannot is as well.
    let _ = fadvise(&file, 0, None, Advice::Sequential);
    let progress = term.progress(if copy.is_some() { "copying" } else { "hashing" }, size);
    let source = Tee { source: file, copy: copy.map(Output::file) };
    let digests = digest(source, manifest::CHUNK_SIZE, |bytes| progress.add(bytes));
    progress.finish();
    let digests = digests.with_context(|| format!("cannot copy the image {}", image.display()))?;
    if digests.size != size {
        bail!("{} changed while it was read: leave it alone and run this again", image.display());
    }
    Ok(digests)
}

struct Tee<'a> {
    source: File,
    copy: Option<&'a mut File>,
}

impl Read for Tee<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.source.read(buffer)?;
        if let (Some(copy), Some(bytes)) = (&mut self.copy, buffer.get(..read)) {
            copy.write_all(bytes)?;
        }
        Ok(read)
    }
}

/// The image and what lies beside it.
fn new<'a>(image: &Path, name: &'a str, digests: &'a Digests) -> Result<New<'a>> {
    let place = beside(image, manifest::SUFFIX);
    let source = match read_if_there(&place)? {
        None => None,
        Some(bytes) => {
            let manifest = Manifest::parse(&bytes)
                .map_err(|refusal| anyhow::anyhow!("{}: {refusal}: repair or remove it", place.display()))?;
            Some(Source { bytes, manifest })
        }
    };
    let signature = if source.is_some() { read_if_there(&beside(&place, SIGNATURE))? } else { None };
    Ok(New { name, digests, manifest: source, signature })
}

fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// What lies in the folder. An image under the name that is to be published, but with other bytes, counts as absent:
/// it is damaged and will be replaced. `known` says that its bytes were read already.
fn look(dir: &Path, name: &str, known: bool, digests: &Digests) -> Result<Folder> {
    let at = || format!("cannot read the folder {}", dir.display());
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Folder::default()),
        other => other.with_context(at)?,
    };
    let mut folder = Folder::default();
    for entry in entries {
        let entry = entry.with_context(at)?;
        let Ok(found) = entry.file_name().into_string() else { continue };
        let own = found.starts_with(name) || found.starts_with(LATEST);
        let small = found.ends_with(manifest::SUFFIX) || found.ends_with(SIGNATURE);
        let bounded = || entry.metadata().is_ok_and(|meta| meta.is_file() && meta.len() <= manifest::MAX_BYTES);
        if found == name {
            if !known && !is_that(&entry.path(), digests)? {
                continue;
            }
        } else if (own && found.ends_with(manifest::CHUNKS_SUFFIX)) || (small && bounded()) {
            folder.small.extend(read_if_there(&entry.path())?.map(|bytes| (found.clone(), bytes)));
        }
        folder.names.push(found);
    }
    Ok(folder)
}

fn is_that(path: &Path, digests: &Digests) -> Result<bool> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    if file.metadata()?.len() != digests.size {
        return Ok(false);
    }
    let found =
        digest(file, manifest::CHUNK_SIZE, |_| ()).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(found.sha256 == digests.sha256)
}

fn of_refusal(refusal: plan::Refusal, image: &Path) -> anyhow::Error {
    let text = format!("{}: {refusal}", image.display());
    match refusal {
        plan::Refusal::Stale => Mismatch(text).into(),
        _ => anyhow::anyhow!(text),
    }
}

/// The unfinished copy becomes another name of the image.
fn link(image: &Path, copy: &Output) -> Result<()> {
    fs::remove_file(copy.path())?;
    let image = image.canonicalize()?;
    fs::hard_link(&image, copy.path())
        .with_context(|| format!("cannot link {}: leave --hard-link away and it is copied", image.display()))
}

/// Each file appears whole under its name, and is on the disk before the next step refers to it.
fn carry_out(plan: &Plan, dir: &Path, folder: &File, mut copy: Option<Output>, term: &Term) -> Result<()> {
    let durable = || folder.sync_all().with_context(|| format!("cannot finish {}", dir.display()));
    let mut swapped = false;
    for step in &plan.steps {
        match step {
            Step::Image(name) => match copy.take() {
                Some(copy) => copy.publish_as(&dir.join(name))?,
                None => bail!("{} was removed meanwhile: run this again", dir.join(name).display()),
            },
            Step::File(name, bytes) => output::write(&dir.join(name), bytes)?,
            Step::Swap(name, bytes) => {
                if !swapped {
                    durable()?;
                }
                swapped = true;
                output::write(&dir.join(name), bytes)?;
            }
            Step::Remove(name) => {
                if swapped {
                    durable()?;
                    swapped = false;
                }
                let path = dir.join(name);
                fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
            }
        }
        term.note(step);
    }
    durable()
}

#[derive(Serialize)]
struct Told<'a> {
    image: &'a str,
    manifest: String,
    version: u64,
    size: u64,
    sha256: Sha256,
    signed: bool,
    steps: Vec<String>,
    done: bool,
}

fn tell(args: &Args, plan: &Plan) -> Result<()> {
    let Plan { manifest, signed, steps } = plan;
    let file = if args.stage { format!("{}{}", manifest.name, manifest::SUFFIX) } else { LATEST.to_owned() };
    let place = args.dir.join(file).display().to_string();
    if args.json {
        let told = Told {
            image: &manifest.name,
            manifest: place,
            version: manifest.version,
            size: manifest.size,
            sha256: manifest.sha256,
            signed: *signed,
            steps: steps.iter().map(ToString::to_string).collect(),
            done: !args.dry_run,
        };
        return result(serde_json::to_string(&told)?);
    }
    if args.dry_run {
        steps.iter().try_for_each(result)?;
    }
    let what = match (args.dry_run, args.stage, steps.is_empty()) {
        (_, _, true) => "nothing to do",
        (true, ..) => "nothing was done",
        (false, true, _) => "staged, to be signed",
        (false, false, _) => "published",
    };
    let signed = if *signed { ", signed" } else { "" };
    result(format_args!("{place}: version {} of {}{signed}; {what}", manifest.version, manifest.name))
}
