//! `rootbeam image verify`: is every chunk the one that the manifest promises?

use super::beside;
use super::digest::{Digests, digest, list_hashes};
use super::remote::Remote;
use crate::cli::Mismatch;
use crate::term::{Rate, Term, result};
use anyhow::{Context, Result, anyhow, bail};
use reqwest::Url;
use rootbeam_init::causes;
use rootbeam_init::digest::Sha256;
use rootbeam_init::manifest::{self, Manifest};
use rootbeam_init::store::locate::Location;
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
  rootbeam image verify http://10.0.0.5/images/latest.manifest
  rootbeam image verify https://boot.example/web.squashfs --ca our-ca.pem
  rootbeam image verify http://10.0.0.5/images/web.squashfs --key ann.pub --key bob.pub --key-threshold 2

The manifest, its signature and the chunk list are read from beside the image, as a boot does; where a manifest is named,
it names the image. Every wrong chunk is listed with the bytes that it covers. A download that breaks off is taken up by
range.

Exit codes: 0 every byte is the promised one, 1 something could not be read, 2 wrong usage, 3 bytes are wrong, missing or
too many, or the manifest is not signed as the keys demand.";

/// Arguments of `rootbeam image verify`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The image or its manifest: a file, or an http or https URL
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
    let place = Place::of(&args.image, args.ca.as_deref())?;
    let (manifest, signers) = match promised(&anchors, &place)? {
        Ok(promised) => promised,
        Err(fault) => {
            if args.json {
                result(serde_json::to_string(&Refused { image: &args.image, good: false, fault: &fault })?)?;
            }
            return Err(Mismatch(format!("{place}: {fault}")).into());
        }
    };
    let list = place.list(&manifest)?;
    let (name, image) = place.open(&manifest)?;
    let began = Instant::now();
    let progress = term.progress("verifying", manifest.size);
    // A byte more than promised is enough to know that the image is another one.
    let digests = digest(image.take(manifest.size + 1), manifest.chunk_size, |bytes| progress.add(bytes))
        .with_context(|| format!("cannot read {name}"))?;
    progress.finish();

    let Verdict { wrong, fault } = judge(&manifest, &list, &digests);
    if args.json {
        result(serde_json::to_string(&Report::new(&name, &manifest, &signers, &wrong, fault.as_ref()))?)?;
    } else {
        for run in runs(&wrong) {
            result(Run { run, manifest: &manifest })?;
        }
    }
    match fault {
        None => {
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
        Some(fault) => Err(Mismatch(format!("{name}: {fault}")).into()),
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

/// The manifest and who signed it, or why that is not what the anchors demand.
fn promised(anchors: &Anchors, place: &Place) -> Result<Result<(Manifest, Vec<KeyId>), String>> {
    let bytes = place.manifest()?;
    // As in a boot, signed or not is decided over the bytes, before anything of them is parsed.
    let signers = match anchors.demand_signatures() {
        false => Vec::new(),
        true => match anchors.signers(&bytes, &place.signature()?) {
            Ok(signers) => signers,
            Err(fault) => {
                let (cause, remedy) = causes::signature(&fault);
                return Ok(Err(format!("{cause}: {remedy}")));
            }
        },
    };
    let manifest = Manifest::parse(&bytes).map_err(|refusal| anyhow!("{place}: {refusal}"))?;
    Ok(match anchors.floor_above(manifest.version) {
        Some(floor) => Err(format!("it has version {}, below {floor}", manifest.version)),
        None => Ok((manifest, signers)),
    })
}

/// Where the image is; `Display` is its manifest.
enum Place {
    /// The path of the image, which is open, or of the manifest.
    File(PathBuf, Option<File>),
    Remote(Remote, Location),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(..) => self.manifest_path().display().fmt(f),
            Self::Remote(_, location) => f.write_str(&location.manifest()),
        }
    }
}

impl Place {
    fn of(image: &str, ca: Option<&Path>) -> Result<Self> {
        match Url::parse(image) {
            Ok(url) if matches!(url.scheme(), "http" | "https") => {
                Ok(Self::Remote(Remote::new(&url, ca)?, Location::new(url.as_str())))
            }
            Ok(url) if image.contains("://") && !Path::new(image).exists() => bail!(
                "{image}: {} is not read, only http and https URLs are: fetch the image, its manifest and its chunks, and \
                 verify the file",
                url.scheme()
            ),
            // An image that is not there is told before a manifest that is not.
            _ if image.ends_with(manifest::SUFFIX) => Ok(Self::File(image.into(), None)),
            _ => Ok(Self::File(image.into(), Some(open(Path::new(image))?))),
        }
    }

    fn manifest_path(&self) -> PathBuf {
        match self {
            Self::File(path, Some(_)) => beside(path, manifest::SUFFIX),
            Self::File(path, None) => path.clone(),
            Self::Remote(..) => PathBuf::new(),
        }
    }

    /// The image's path, where it is a file.
    fn image_path(&self, manifest: &Manifest) -> PathBuf {
        match self {
            Self::File(path, Some(_)) => path.clone(),
            Self::File(path, None) => path.with_file_name(&manifest.name),
            Self::Remote(..) => PathBuf::new(),
        }
    }

    fn manifest(&self) -> Result<Vec<u8>> {
        match self {
            Self::File(path, _) => read(&self.manifest_path(), &format!("rootbeam image manifest {}", path.display())),
            Self::Remote(remote, location) => remote.get(&url(&location.manifest())?, manifest::MAX_BYTES),
        }
    }

    fn signature(&self) -> Result<Vec<u8>> {
        match self {
            Self::File(..) => {
                let manifest = self.manifest_path();
                read(&beside(&manifest, trust::SUFFIX), &format!("rootbeam sign {} -s KEY", manifest.display()))
            }
            Self::Remote(remote, location) => {
                remote.get(&url(&location.signature())?, trust::MAX_SIGNATURE_BYTES as u64)
            }
        }
    }

    fn list(&self, manifest: &Manifest) -> Result<Vec<u8>> {
        match self {
            Self::File(..) => {
                let image = self.image_path(manifest);
                let made_by = format!("rootbeam image manifest {}", image.display());
                read(&beside(&image, manifest::CHUNKS_SUFFIX), &made_by)
            }
            Self::Remote(remote, location) => {
                remote.get(&url(&location.chunks(Some(&manifest.name)))?, manifest.list_bytes())
            }
        }
    }

    /// The image's name and its bytes.
    fn open(&self, manifest: &Manifest) -> Result<(String, Box<dyn Read + '_>)> {
        match self {
            Self::File(path, Some(image)) => Ok((path.display().to_string(), Box::new(image))),
            Self::File(_, None) => {
                let path = self.image_path(manifest);
                Ok((path.display().to_string(), Box::new(open(&path)?)))
            }
            Self::Remote(remote, location) => {
                let image = url(&location.image(Some(&manifest.name)))?;
                Ok((image.to_string(), Box::new(remote.open(&image)?)))
            }
        }
    }
}

fn open(path: &Path) -> Result<File> {
    File::open(path).with_context(|| format!("cannot open the image {}", path.display()))
}

fn read(place: &Path, made_by: &str) -> Result<Vec<u8>> {
    std::fs::read(place).with_context(|| format!("cannot read {}: make it with `{made_by}`", place.display()))
}

fn url(text: &str) -> Result<Url> {
    Url::parse(text).with_context(|| format!("{text} is no URL"))
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

/// What an image was found to be.
struct Verdict {
    /// Numbers of the chunks that are not the promised ones, in order.
    wrong: Vec<u64>,
    /// What is to be said of it, where it is not as promised.
    fault: Option<Fault>,
}

fn judge(manifest: &Manifest, list: &[u8], digests: &Digests) -> Verdict {
    let only = |fault| Verdict { wrong: Vec::new(), fault: Some(fault) };
    if list_hashes(list) != manifest.chunk_list || list.len() as u64 != manifest.list_bytes() {
        return only(Fault::List);
    }
    let expected = manifest.size;
    // A chunk that was cut short, or goes on, says no more than the length.
    let whole = match digests.size == expected {
        true => manifest.chunks(),
        false => digests.size.min(expected) / u64::from(manifest.chunk_size),
    };
    let promised = list.as_chunks::<32>().0.iter().map(|bytes| Sha256(*bytes));
    let pairs = (0..whole).zip(promised.zip(&digests.chunks));
    let mut first = None;
    let mut wrong = Vec::new();
    for (chunk, (promised, found)) in pairs.filter(|(_, (promised, found))| promised != *found) {
        first = first.or(Some((promised, *found)));
        wrong.push(chunk);
    }
    let fault = match (digests.size, first) {
        (size, _) if size < expected => Some(Fault::Shorter { found: size, expected }),
        (size, _) if size > expected => Some(Fault::Longer { expected }),
        (_, Some((promised, found))) => {
            let first = wrong.first().copied().unwrap_or_default();
            let offset = first * u64::from(manifest.chunk_size);
            let count = wrong.len() as u64;
            Some(Fault::Chunk { first, offset, found, promised, wrong: count, chunks: manifest.chunks() })
        }
        _ if digests.sha256 != manifest.sha256 => {
            Some(Fault::Whole { found: digests.sha256, promised: manifest.sha256 })
        }
        _ => None,
    };
    Verdict { wrong, fault }
}

/// Neighbours in `chunks`, as the first and the last of each run.
fn runs(chunks: &[u64]) -> Vec<(u64, u64)> {
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for &chunk in chunks {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == chunk => *last = chunk,
            _ => runs.push((chunk, chunk)),
        }
    }
    runs
}

/// A run of wrong chunks, as a line.
struct Run<'a> {
    run: (u64, u64),
    manifest: &'a Manifest,
}

impl fmt::Display for Run<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ((first, last), size) = (self.run, u64::from(self.manifest.chunk_size));
        let end = ((last + 1) * size).min(self.manifest.size) - 1;
        let from = first * size;
        match first == last {
            true => write!(f, "wrong: chunk {first}, bytes {from} to {end}"),
            false => write!(f, "wrong: chunks {first} to {last}, bytes {from} to {end}"),
        }
    }
}

#[derive(Serialize)]
struct Report<'a> {
    image: &'a str,
    good: bool,
    version: u64,
    chunks: u64,
    chunk_size: u32,
    /// The keys that were asked for and signed the manifest.
    signers: &'a [KeyId],
    #[serde(skip_serializing_if = "Option::is_none")]
    fault: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    first_wrong_chunk: Option<u64>,
    wrong: Vec<WrongChunk>,
}

/// The report where the manifest is not the demanded one: of the image there is nothing to say.
#[derive(Serialize)]
struct Refused<'a> {
    image: &'a str,
    good: bool,
    fault: &'a str,
}

#[derive(Serialize)]
struct WrongChunk {
    chunk: u64,
    offset: u64,
}

impl<'a> Report<'a> {
    fn new(image: &'a str, manifest: &Manifest, signers: &'a [KeyId], wrong: &[u64], fault: Option<&Fault>) -> Self {
        let size = u64::from(manifest.chunk_size);
        Self {
            image,
            good: fault.is_none(),
            version: manifest.version,
            chunks: manifest.chunks(),
            chunk_size: manifest.chunk_size,
            signers,
            fault: fault.map(ToString::to_string),
            first_wrong_chunk: wrong.first().copied(),
            wrong: wrong.iter().map(|&chunk| WrongChunk { chunk, offset: chunk * size }).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_told_in_one_line() {
        assert_eq!(runs(&[]), []);
        assert_eq!(runs(&[0, 2, 3, 4, 9]), [(0, 0), (2, 4), (9, 9)]);
    }
}
