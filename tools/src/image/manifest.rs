//! `rootbeam image manifest`: what a boot verifies an image by.

use super::digest::{Digests, digest, list_hashes};
use super::stream_hash::{self, StreamHash};
use super::{beside, filesystem, now, source_date_epoch};
use crate::cli::Mismatch;
use crate::output;
use crate::term::{Rate, Term, result};
use crate::trace;
use anyhow::{Context, Result, bail};
use rootbeam_init::boot_order::{BootOrder, Subject};
use rootbeam_init::manifest::{self, MAX_LAYERS, Manifest, Refusal, is_file_name, layer_name};
use rustix::fs::{Advice, fadvise};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Instant;

const EXAMPLES: &str = "\
Examples:
  rootbeam image manifest web.squashfs
  rootbeam image manifest web.squashfs --kernel 6.1.0-49-amd64
  rootbeam image manifest web.squashfs --sources http://10.0.0.5/images/ --sources http://10.0.0.6/images/
  rootbeam image manifest web.squashfs --layer site.squashfs --layer latest-php.manifest
  rootbeam image manifest web.squashfs --boot-order web.order
  rootbeam image manifest rootfs.img --from-stream-hash rootfs.stream-hash

IMAGE.manifest holds size, digests and version; IMAGE.chunks the SHA-256 of each 64 KiB. Both belong beside the image
on the server. Each is written beside its place and renamed, the manifest last.

Layers are files beside the image on the server, images or manifests, that every boot of it stacks on it, the last on
top; each is verified by a manifest of its own. A layer of some nodes only is asked for by their rootbeam.layer=.

A boot order, made by `rootbeam trace`, names the chunks that a machine which streams the image fetches first: what its
boots have read. It must be of this very image. `image publish` takes it over with the manifest.

Of a manifest that is there only the version counts on: kernel, layers, sources and boot order are those of this command.

The date is that of SOURCE_DATE_EPOCH where it is set.

Exit codes: 0 written, 1 failed, 2 wrong usage, 3 the image is not the one of the stream-hash list or of the boot order
(nothing is written).";

/// Arguments of `rootbeam image manifest`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The image, a squashfs or erofs file
    pub image: PathBuf,
    /// Kernel release that the image must be booted with, as `uname -r` prints it
    #[arg(long, value_name = "RELEASE")]
    pub kernel: Option<String>,
    /// Version of this publication; default: one more than the manifest that is there has, else 1
    #[arg(long, value_name = "N")]
    pub version: Option<u64>,
    /// URL of a folder that holds the image too; may be given several times
    #[arg(long, value_name = "URL")]
    pub sources: Vec<String>,
    /// A file beside the image to stack on it, an image or a manifest; may be given several times, the last is on top
    #[arg(long, value_name = "NAME")]
    pub layer: Vec<String>,
    /// Chunks to fetch first while the image is streamed: a file of `rootbeam trace`, or a trace itself
    #[arg(long, value_name = "FILE")]
    pub boot_order: Option<PathBuf>,
    /// Hold the image against this stream-hash list (Fedora CoreOS publishes them) while the manifest is made
    #[arg(long, value_name = "FILE")]
    pub from_stream_hash: Option<PathBuf>,
    /// Print the manifest as JSON
    #[arg(long)]
    pub json: bool,
}

/// Runs `rootbeam image manifest`.
pub fn run(args: Args, term: &Term) -> Result<()> {
    let image = &args.image;
    let Some(name) = image.file_name().and_then(|name| name.to_str()).filter(|name| is_file_name(name)) else {
        bail!(
            "{} cannot be published by that name: use letters, digits and . _ + ~ - only, not beginning with a dot",
            image.display()
        );
    };
    for source in &args.sources {
        check_source(source)?;
    }
    check_layers(&args.layer, name)?;
    let place = beside(image, manifest::SUFFIX);
    let version = match args.version {
        Some(version) => version,
        None => next_version(&place)?,
    };
    let order =
        args.boot_order.as_deref().map(|file| Ok::<_, anyhow::Error>((file, trace::read(file)?))).transpose()?;
    let date = source_date_epoch()?.unwrap_or_else(now);

    let file = File::open(image).with_context(|| format!("cannot open the image {}", image.display()))?;
    let size = file.metadata()?.len();
    // More read-ahead; a filesystem that cannot is as well.
    let _ = fadvise(&file, 0, None, Advice::Sequential);
    let began = Instant::now();
    let source: Box<dyn Read> = match &args.from_stream_hash {
        Some(list) => Box::new(read_stream_hash(list)?.check(file)),
        None => Box::new(file),
    };
    let progress = term.progress("hashing", size);
    let digests = digest(source, manifest::CHUNK_SIZE, |bytes| progress.add(bytes));
    progress.finish();
    let digests = digests.map_err(|error| of_reading(error, image))?;
    if digests.size != size {
        bail!("{} changed while it was read: leave it alone and run this again", image.display());
    }
    filesystem(image, &digests.first, size)?;

    let mut described =
        Manifest { layers: args.layer, ..describe(name, &digests, args.kernel, version, date, args.sources) };
    if let Some((file, order)) = order {
        described.boot_order = of_this_image(file, order, &described)?;
    }
    let text = described.render();
    // What the store would refuse must never be published.
    Manifest::parse(text.as_bytes()).map_err(|refusal| unacceptable(&refusal, &described))?;
    let chunks = beside(image, manifest::CHUNKS_SUFFIX);
    output::write(&chunks, &digests.chunk_list())?;
    output::write(&place, text.as_bytes())?;

    if args.json {
        result(text.trim_end())?;
    } else {
        let rate = Rate { bytes: size, time: began.elapsed() };
        term.note(format_args!("hashed {} chunks at {rate}", described.chunks()));
        result(format_args!("{}: version {version}, sha256 {}", place.display(), described.sha256))?;
    }
    Ok(())
}

/// The chunks of a boot order that is of this image.
fn of_this_image(file: &Path, order: BootOrder, image: &Manifest) -> Result<Vec<u32>> {
    let &Manifest { size, chunk_size, sha256, .. } = image;
    match trace::difference(&order.subject, &Subject { size, chunk_size, sha256 }) {
        Some(difference) => {
            let text = format!("{} is of another image: {difference}: record a trace of this one", file.display());
            Err(Mismatch(text).into())
        }
        None => Ok(order.chunks),
    }
}

/// A manifest that the store would refuse.
fn unacceptable(refusal: &Refusal, described: &Manifest) -> anyhow::Error {
    let remedy = match refusal {
        Refusal::TooLarge(_) if !described.boot_order.is_empty() => {
            ": take lines from the end of the boot order, which counts for little there"
        }
        _ => "",
    };
    anyhow::anyhow!("no boot would accept this manifest: {refusal}{remedy}")
}

fn read_stream_hash(path: &Path) -> Result<StreamHash> {
    let mut text = Vec::new();
    // A byte more than allowed is enough to know that there are too many.
    File::open(path)
        .and_then(|file| file.take(stream_hash::MAX_BYTES + 1).read_to_end(&mut text))
        .with_context(|| format!("cannot read the stream-hash list {}", path.display()))?;
    StreamHash::parse(&text).map_err(|refusal| anyhow::anyhow!("{} is no stream-hash list: {refusal}", path.display()))
}

/// An image that could not be read, or is not the listed one.
fn of_reading(error: io::Error, image: &Path) -> anyhow::Error {
    match error.downcast::<stream_hash::Fault>() {
        Ok(fault) => Mismatch(format!("{}: {fault}: fetch it again", image.display())).into(),
        Err(error) => anyhow::Error::from(error).context(format!("cannot read the image {}", image.display())),
    }
}

/// The manifest of an image with these digests.
pub(crate) fn describe(
    name: &str,
    digests: &Digests,
    kernel: Option<String>,
    version: u64,
    date: u64,
    sources: Vec<String>,
) -> Manifest {
    Manifest {
        format: manifest::FORMAT.into(),
        name: name.into(),
        size: digests.size,
        sha256: digests.sha256,
        chunk_size: manifest::CHUNK_SIZE,
        version,
        date,
        kernel,
        chunk_list: list_hashes(&digests.chunk_list()),
        layers: vec![],
        sources,
        boot_order: vec![],
    }
}

fn check_source(source: &str) -> Result<()> {
    match reqwest::Url::parse(source) {
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.path().ends_with('/') => Ok(()),
        Ok(url) if matches!(url.scheme(), "http" | "https") => {
            bail!("--sources names folders: write {source}/ with a slash at its end")
        }
        _ => bail!("--sources takes http and https URLs of folders, which {source:?} is not"),
    }
}

/// The layers of the image `image`, by the rule that boots.
fn check_layers(layers: &[String], image: &str) -> Result<()> {
    if layers.len() > MAX_LAYERS {
        bail!(
            "--layer is given {} times, and at most {MAX_LAYERS} stand on an image: put several into one",
            layers.len()
        );
    }
    for layer in layers {
        if layer_name(layer).is_none() {
            bail!(
                "--layer takes the name of a file beside the image, which {layer:?} is not: at most 64 letters, digits \
                 and . _ + ~ -, beginning with none of . -"
            );
        }
        if layer == image || *layer == format!("{image}{}", manifest::SUFFIX) {
            bail!("--layer {layer} would stack the image on itself: name another file");
        }
    }
    Ok(())
}

fn next_version(place: &Path) -> Result<u64> {
    let bytes = match std::fs::read(place) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(1),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", place.display())),
    };
    match Manifest::parse(&bytes) {
        Ok(manifest) => {
            manifest.version.checked_add(1).context("the manifest that is there has the last version there is")
        }
        Err(refusal) => {
            bail!("the version cannot be counted on from {}: {refusal}. Remove it, or say --version N", place.display())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rootbeam_init::digest::Sha256;

    #[test]
    fn counts_the_version_on_and_never_guesses_one() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("a.manifest");
        assert_eq!(next_version(&place).unwrap(), 1);
        let digests = digest(&b"image"[..], manifest::CHUNK_SIZE, |_| ()).unwrap();
        let manifest = describe("a", &digests, None, 41, 0, vec![]);
        std::fs::write(&place, manifest.render()).unwrap();
        assert_eq!(next_version(&place).unwrap(), 42);
        std::fs::write(&place, "{").unwrap();
        assert!(next_version(&place).unwrap_err().to_string().ends_with("Remove it, or say --version N"));
    }

    #[test]
    fn layers_are_names_of_other_files_and_not_too_many() {
        let check =
            |layers: &[&str]| check_layers(&layers.iter().map(|l| (*l).to_owned()).collect::<Vec<_>>(), "a.img");
        assert!(check(&[]).is_ok() && check(&["site.squashfs", "latest.manifest"]).is_ok());
        let long = "x".repeat(65);
        for bad in ["", "../x", "a/b", "http://h/x", ".x", "-x", "a b", "site.squashfs?optional", &long] {
            assert!(check(&[bad]).unwrap_err().to_string().contains("the name of a file beside the image"), "{bad}");
        }
        for own in ["a.img", "a.img.manifest"] {
            assert!(check(&["site.squashfs", own]).unwrap_err().to_string().contains("on itself"));
        }
        assert!(check(&["x"; 8]).is_ok());
        assert!(check(&["x"; 9]).unwrap_err().to_string().contains("at most 8 stand on an image"));
    }

    #[test]
    fn a_boot_order_is_of_this_very_image_and_fits_a_manifest() {
        let bytes = vec![1; 200_000];
        let digests = digest(bytes.as_slice(), manifest::CHUNK_SIZE, |_| ()).unwrap();
        let image = describe("a", &digests, None, 1, 0, vec![]);
        let subject = Subject { size: 200_000, chunk_size: manifest::CHUNK_SIZE, sha256: digests.sha256 };
        let take = |subject| of_this_image(Path::new("x"), BootOrder { subject, chunks: vec![3, 0] }, &image);
        assert_eq!(take(subject).unwrap(), [3, 0]);
        for other in [
            Subject { size: 200_001, ..subject },
            Subject { chunk_size: 4096, ..subject },
            Subject { sha256: Sha256([1; 32]), ..subject },
        ] {
            let error = take(other).unwrap_err();
            assert!(error.downcast_ref::<Mismatch>().is_some() && error.to_string().contains("of another image"));
        }
        // All chunks of an image of 4 GiB may be in the order, and of no matter what image the first 80 000.
        let of_chunks = |chunks: u32| {
            let size = u64::from(chunks) << 16;
            let chunk_list = vec![Sha256([1; 32]); chunks.div_ceil(2048) as usize];
            let manifest = Manifest { size, chunk_list, boot_order: (0..chunks).rev().collect(), ..image.clone() };
            Manifest::parse(manifest.render().as_bytes()).map_err(|refusal| unacceptable(&refusal, &manifest))
        };
        assert!(of_chunks(65_536).is_ok() && of_chunks(80_000).is_ok());
        let error = of_chunks(120_000).unwrap_err().to_string();
        assert!(error.ends_with(": take lines from the end of the boot order, which counts for little there"));
    }

    #[test]
    fn sources_are_folders() {
        assert!(check_source("http://a/b/").is_ok());
        assert!(check_source("https://a/b").unwrap_err().to_string().contains("a slash at its end"));
        assert!(check_source("ftp://a/").is_err());
        assert!(check_source("a").is_err());
    }
}
