//! `rootbeam image verify`: is every chunk the one that the manifest promises?

use super::beside;
use super::digest::{Digests, digest, list_hashes};
use super::remote::{self, Remote};
use crate::cli::Mismatch;
use crate::term::{Rate, Term, result};
use anyhow::{Context, Result, anyhow};
use reqwest::Url;
use rootbeam_init::causes;
use rootbeam_init::digest::Sha256;
use rootbeam_init::manifest::{self, Manifest};
use rootbeam_init::trust::{self, Anchors, KeyId};
use serde::Serialize;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Instant;

const EXAMPLES: &str = "\
Examples:
  rootbeam image verify web.squashfs
  rootbeam image verify http://10.0.0.5/images/web.squashfs
  rootbeam image verify https://boot.example/web.squashfs --ca our-ca.pem
  rootbeam image verify http://10.0.0.5/images/web.squashfs --key ann.pub --key bob.pub --key-threshold 2

The manifest, its signature and the chunk list are read from beside the image, as a boot does. The exit code is 3 where
a byte is not the promised one, or the manifest is not signed as the keys demand; the message names the first wrong
chunk and where it begins.";

/// Arguments of `rootbeam image verify`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The image: a file, or an http or https URL
    #[arg(value_name = "IMAGE|URL")]
    pub image: String,
    /// Trust the certificates in this PEM file instead of the system's
    #[arg(long, value_name = "PEM")]
    pub ca: Option<PathBuf>,
    /// Demand a manifest signed by this public key, or by one of several; as `rootbeam pack --key`
    #[arg(long, value_name = "PUB")]
    pub key: Vec<PathBuf>,
    /// How many of the keys must have signed it (default: any one of them)
    #[arg(long, value_name = "N", requires = "key")]
    pub key_threshold: Option<u8>,
    /// The least version that it may have
    #[arg(long, value_name = "N", requires = "key")]
    pub min_version: Option<u64>,
    /// Print the verdict as JSON
    #[arg(long)]
    pub json: bool,
}

/// Runs `rootbeam image verify`.
pub fn run(args: Args, term: &Term) -> Result<()> {
    let anchors = anchors(&args)?;
    let place = match Url::parse(&args.image) {
        Ok(url) if matches!(url.scheme(), "http" | "https") => {
            Place::Remote(Remote::new(&url, args.ca.as_deref())?, Box::new(url))
        }
        _ => Place::file(Path::new(&args.image))?,
    };
    let name = place.to_string();
    let bytes = place.read(manifest::SUFFIX, manifest::MAX_BYTES)?;
    // As in a boot, signed or not is decided over the bytes, before anything of them is parsed.
    let signers = signers(&anchors, &place, &bytes)?;
    let manifest = Manifest::parse(&bytes).map_err(|refusal| anyhow!("{name}.manifest: {refusal}"))?;
    if let Some(floor) = anchors.floor_above(manifest.version) {
        return Err(Mismatch(format!("{name}.manifest: it has version {}, below {floor}", manifest.version)).into());
    }
    let list = place.read(manifest::CHUNKS_SUFFIX, manifest.list_bytes())?;
    let image = place.open()?;
    let began = Instant::now();
    let progress = term.progress("verifying", manifest.size);
    // A byte more than promised is enough to know that the image is another one.
    let digests = digest(image.take(manifest.size + 1), manifest.chunk_size, |bytes| progress.add(bytes))
        .with_context(|| format!("cannot read {name}"))?;
    progress.finish();

    let verdict = judge(&manifest, &list, &digests);
    if args.json {
        result(serde_json::to_string(&Report::new(&name, &manifest, &signers, verdict.as_ref().err()))?)?;
    }
    match verdict {
        Ok(()) => {
            if !args.json {
                let rate = Rate { bytes: digests.size, time: began.elapsed() };
                let by = match signers.as_slice() {
                    [] => String::new(),
                    keys => format!(", signed by {}", trust::listed(keys)),
                };
                let (chunks, version) = (manifest.chunks(), manifest.version);
                result(format_args!("{name}: all {chunks} chunks are as version {version} promises{by}"))?;
                term.note(format_args!("verified at {rate}"));
            }
            Ok(())
        }
        Err(fault) => Err(Mismatch(format!("{name}: {fault}")).into()),
    }
}

/// What the manifest's signatures must satisfy.
fn anchors(args: &Args) -> Result<Anchors> {
    let read = |path: &PathBuf| {
        let name = path.display().to_string();
        std::fs::read(path).with_context(|| format!("cannot read the key {name}")).map(|key| (name, key))
    };
    let keys = args.key.iter().map(read).collect::<Result<Vec<_>>>()?;
    let named: Vec<_> = keys.iter().map(|(name, key)| (name.as_str(), key.as_slice())).collect();
    Ok(Anchors::new(&named, args.key_threshold, args.min_version)?)
}

/// Who signed the manifest `bytes`, where a key demands a signature.
fn signers(anchors: &Anchors, place: &Place, bytes: &[u8]) -> Result<Vec<KeyId>> {
    if !anchors.demand_signatures() {
        return Ok(Vec::new());
    }
    let file = place.read(&format!("{}{}", manifest::SUFFIX, trust::SUFFIX), trust::MAX_SIGNATURE_BYTES as u64)?;
    anchors.signers(bytes, &file).map_err(|fault| {
        let (cause, remedy) = causes::signature(&fault);
        Mismatch(format!("{place}.manifest: {cause}: {remedy}")).into()
    })
}

/// Where the image is, and what stands beside it.
enum Place {
    File(PathBuf, File),
    Remote(Remote, Box<Url>),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path, _) => path.display().fmt(f),
            Self::Remote(_, url) => url.fmt(f),
        }
    }
}

impl Place {
    fn file(path: &Path) -> Result<Self> {
        let image = File::open(path).with_context(|| format!("cannot open the image {}", path.display()))?;
        Ok(Self::File(path.to_owned(), image))
    }

    /// The file beside the image with this suffix; one on a server may have at most `limit` bytes.
    fn read(&self, suffix: &str, limit: u64) -> Result<Vec<u8>> {
        match self {
            Self::File(path, _) => {
                let place = beside(path, suffix);
                std::fs::read(&place).with_context(|| {
                    let made_by = match suffix.ends_with(trust::SUFFIX) {
                        true => format!("rootbeam sign {}{} -s KEY", path.display(), manifest::SUFFIX),
                        false => format!("rootbeam image manifest {}", path.display()),
                    };
                    format!("cannot read {}: make it with `{made_by}`", place.display())
                })
            }
            Self::Remote(remote, url) => remote.get(&remote::beside(url, suffix), limit),
        }
    }

    fn open(&self) -> Result<Box<dyn Read + '_>> {
        match self {
            Self::File(_, image) => Ok(Box::new(image)),
            Self::Remote(remote, url) => Ok(Box::new(remote.open(url)?)),
        }
    }
}

/// How an image differs from its manifest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
enum Fault {
    #[error(
        "the chunk list does not belong to the manifest: run `rootbeam image manifest` again and publish both files"
    )]
    List,
    #[error("it has {found} bytes, not {expected}: it is truncated or of another version")]
    Shorter { found: u64, expected: u64 },
    #[error("it has more than the {expected} bytes of the manifest: it is of another version")]
    Longer { expected: u64 },
    #[error(
        "chunk {first} is not the promised one (offset {offset}, SHA-256 {found}, promised {promised}); \
         {wrong} of {chunks} chunks are wrong: publish the image again"
    )]
    Chunk { first: u64, offset: u64, found: Sha256, promised: Sha256, wrong: u64, chunks: u64 },
    #[error(
        "every chunk is right but the SHA-256 of the whole is {found}, not {promised}: the manifest contradicts itself"
    )]
    Whole { found: Sha256, promised: Sha256 },
}

fn judge(manifest: &Manifest, list: &[u8], digests: &Digests) -> Result<(), Fault> {
    if list_hashes(list) != manifest.chunk_list || list.len() as u64 != manifest.list_bytes() {
        return Err(Fault::List);
    }
    let promised = list.as_chunks::<32>().0.iter().map(|bytes| Sha256(*bytes));
    let mut wrong =
        (0..).zip(promised.zip(&digests.chunks)).filter(|(_, (promised, found))| promised != *found).peekable();
    let expected = manifest.size;
    // A chunk cut short differs as well, so the length goes first: it tells more.
    if digests.size < expected {
        return Err(Fault::Shorter { found: digests.size, expected });
    }
    if digests.size > expected {
        return Err(Fault::Longer { expected });
    }
    if let Some(&(first, (promised, found))) = wrong.peek() {
        let offset = first * u64::from(manifest.chunk_size);
        let wrong = wrong.count() as u64;
        return Err(Fault::Chunk { first, offset, found: *found, promised, wrong, chunks: manifest.chunks() });
    }
    if digests.sha256 != manifest.sha256 {
        return Err(Fault::Whole { found: digests.sha256, promised: manifest.sha256 });
    }
    Ok(())
}

#[derive(Serialize)]
struct Report<'a> {
    image: &'a str,
    good: bool,
    version: u64,
    chunks: u64,
    /// The keys that were asked for and signed the manifest.
    signers: &'a [KeyId],
    #[serde(skip_serializing_if = "Option::is_none")]
    fault: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    first_wrong_chunk: Option<u64>,
}

impl<'a> Report<'a> {
    fn new(image: &'a str, manifest: &Manifest, signers: &'a [KeyId], fault: Option<&Fault>) -> Self {
        let first_wrong_chunk = match fault {
            Some(Fault::Chunk { first, .. }) => Some(*first),
            _ => None,
        };
        Self {
            image,
            good: fault.is_none(),
            version: manifest.version,
            chunks: manifest.chunks(),
            signers,
            fault: fault.map(ToString::to_string),
            first_wrong_chunk,
        }
    }
}
