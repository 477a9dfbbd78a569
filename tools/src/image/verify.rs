//! `rootbeam image verify`: is every chunk the one that the manifest promises?

use super::beside;
use super::digest::{Digests, digest, list_hashes};
use super::remote::{self, Remote};
use crate::cli::Mismatch;
use crate::term::{Rate, Term, result};
use anyhow::{Context, Result};
use reqwest::Url;
use rootbeam_init::digest::Sha256;
use rootbeam_init::manifest::{self, Manifest};
use serde::Serialize;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Instant;

const EXAMPLES: &str = "\
Examples:
  rootbeam image verify web.squashfs
  rootbeam image verify http://10.0.0.5/images/web.squashfs
  rootbeam image verify https://boot.example/web.squashfs --ca our-ca.pem

The manifest and the chunk list are read from beside the image, as a boot does. The exit code is 3 where a byte is
not the promised one; the message names the first wrong chunk and where it begins.";

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
    /// Print the verdict as JSON
    #[arg(long)]
    pub json: bool,
}

/// Runs `rootbeam image verify`.
pub fn run(args: Args, term: &Term) -> Result<()> {
    let source = match Url::parse(&args.image) {
        Ok(url) if matches!(url.scheme(), "http" | "https") => Source::remote(url, args.ca.as_deref())?,
        _ => Source::file(Path::new(&args.image))?,
    };
    let Source { name, manifest, list, image } = source;
    let manifest = Manifest::parse(&manifest).map_err(|refusal| anyhow::anyhow!("{name}.manifest: {refusal}"))?;
    let began = Instant::now();
    let progress = term.progress("verifying", manifest.size);
    // A byte more than promised is enough to know that the image is another one.
    let digests = digest(image.take(manifest.size + 1), manifest.chunk_size, |bytes| progress.add(bytes))
        .with_context(|| format!("cannot read {name}"))?;
    progress.finish();

    let verdict = judge(&manifest, &list, &digests);
    if args.json {
        result(serde_json::to_string(&Report::new(&name, &manifest, verdict.as_ref().err()))?)?;
    }
    match verdict {
        Ok(()) => {
            if !args.json {
                let rate = Rate { bytes: digests.size, time: began.elapsed() };
                result(format_args!(
                    "{name}: all {} chunks are as version {} promises",
                    manifest.chunks(),
                    manifest.version
                ))?;
                term.note(format_args!("verified at {rate}"));
            }
            Ok(())
        }
        Err(fault) => Err(Mismatch(format!("{name}: {fault}")).into()),
    }
}

/// The image and what stands beside it.
struct Source {
    name: String,
    manifest: Vec<u8>,
    list: Vec<u8>,
    image: Box<dyn Read>,
}

impl Source {
    fn file(path: &Path) -> Result<Self> {
        let image = File::open(path).with_context(|| format!("cannot open the image {}", path.display()))?;
        let read = |suffix| {
            let place = beside(path, suffix);
            std::fs::read(&place).with_context(|| {
                format!("cannot read {}: make it with `rootbeam image manifest {}`", place.display(), path.display())
            })
        };
        Ok(Self {
            name: path.display().to_string(),
            manifest: read(manifest::SUFFIX)?,
            list: read(manifest::CHUNKS_SUFFIX)?,
            image: Box::new(image),
        })
    }

    fn remote(url: Url, ca: Option<&Path>) -> Result<Self> {
        let remote = Remote::new(&url, ca)?;
        let bytes = remote.get(&remote::beside(&url, manifest::SUFFIX), manifest::MAX_BYTES)?;
        // The list's length follows from the manifest; an unreadable manifest is reported by the caller.
        let length = Manifest::parse(&bytes).map_or(0, |manifest| manifest.list_bytes());
        let list = match length {
            0 => Vec::new(),
            length => remote.get(&remote::beside(&url, manifest::CHUNKS_SUFFIX), length)?,
        };
        Ok(Self { name: url.to_string(), manifest: bytes, list, image: Box::new(remote.open(&url)?) })
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
    #[serde(skip_serializing_if = "Option::is_none")]
    fault: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    first_wrong_chunk: Option<u64>,
}

impl<'a> Report<'a> {
    fn new(image: &'a str, manifest: &Manifest, fault: Option<&Fault>) -> Self {
        let first_wrong_chunk = match fault {
            Some(Fault::Chunk { first, .. }) => Some(*first),
            _ => None,
        };
        Self {
            image,
            good: fault.is_none(),
            version: manifest.version,
            chunks: manifest.chunks(),
            fault: fault.map(ToString::to_string),
            first_wrong_chunk,
        }
    }
}
