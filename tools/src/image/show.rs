//! `rootbeam image show`: what an image or a manifest is, and what a machine needs to boot it in RAM.

use super::{beside, filesystem};
use crate::term::{Bytes, result};
use anyhow::{Context, Result};
use rootbeam_init::contract::RING_BYTES;
use rootbeam_init::digest::Sha256;
use rootbeam_init::manifest::{self, Manifest};
use rootbeam_init::messages::{Compressor, FilesystemKind};
use rootbeam_init::store::superblock;
use rootbeam_init::trust::{self, KeyId};
use serde::Serialize;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

const EXAMPLES: &str = "\
Examples:
  rootbeam image show web.squashfs
  rootbeam image show web.squashfs.manifest
  rootbeam image show web.squashfs --json | jq .memory.refused_below";

/// Arguments of `rootbeam image show`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// An image, or its manifest
    #[arg(value_name = "IMAGE|MANIFEST")]
    pub file: PathBuf,
    /// Print as JSON
    #[arg(long)]
    pub json: bool,
}

const MIB: u64 = 1 << 20;

/// Memory that a boot wants to find available before it fetches an image: the bounds of its admission.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// Below this a boot in RAM mode is refused: image + 16 MiB of overlay + 8 MiB of reserve. It may be less by what the
    /// initramfs gives back, but not less than the image + 16 MiB.
    pub refused_below: u64,
    /// The same in the other modes, where the ring stays beside the booted system.
    pub refused_below_streaming: u64,
    /// Below this a boot goes on with a warning: image + 64 MiB + the larger of 128 MiB and 5 %.
    pub warned_below: u64,
}

impl Memory {
    /// The bounds for an image of `size` bytes.
    pub fn for_image(size: u64) -> Self {
        // It is held in whole pages.
        let size = size.div_ceil(4096).saturating_mul(4096);
        let sum = size.saturating_add(64 * MIB);
        // Five percent of memory exceed 128 MiB only in machines of more than 2560 MiB: x = sum + x / 20.
        let twentieth = (u128::from(sum) * 20).div_ceil(19).try_into().unwrap_or(u64::MAX);
        Self {
            refused_below: size.saturating_add(24 * MIB),
            refused_below_streaming: size.saturating_add(24 * MIB + RING_BYTES as u64),
            warned_below: (sum.saturating_add(128 * MIB)).max(twentieth),
        }
    }
}

/// What the superblock says.
#[derive(Serialize)]
struct Superblock {
    filesystem: FilesystemKind,
    compressor: Compressor,
    bytes_used: u64,
}

#[derive(Serialize)]
struct Facts {
    file: String,
    size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    superblock: Option<Superblock>,
    #[serde(skip_serializing_if = "Option::is_none")]
    manifest: Option<Manifest>,
    #[serde(skip_serializing_if = "Option::is_none")]
    proof: Option<Proof>,
    memory: Memory,
}

/// What a boot can hold the manifest against.
#[derive(Serialize)]
struct Proof {
    /// SHA-256 of the manifest's bytes, as `rootbeam.manifest=` takes it.
    sha256: Sha256,
    /// Who signed it, by the signature file; nothing is checked here.
    signed_by: Vec<KeyId>,
}

impl Proof {
    /// Of the manifest `bytes` in the file `place`.
    fn of(bytes: &[u8], place: &Path) -> Self {
        let signatures = std::fs::read(beside(place, trust::SUFFIX)).unwrap_or_default();
        let signed_by = trust::signatures(&signatures).iter().map(|signed| signed.key).collect();
        Self { sha256: Sha256::of(bytes), signed_by }
    }
}

/// Runs `rootbeam image show`.
pub fn run(args: Args) -> Result<()> {
    let facts = look(&args.file)?;
    if args.json { result(serde_json::to_string_pretty(&facts)?) } else { result(tell(&facts).trim_end()) }
}

fn look(path: &Path) -> Result<Facts> {
    let name = path.display();
    let mut file = File::open(path).with_context(|| format!("cannot open {name}"))?;
    let size = file.metadata()?.len();
    let mut head = Vec::new();
    file.by_ref()
        .take(superblock::PROBE as u64)
        .read_to_end(&mut head)
        .with_context(|| format!("cannot read {name}"))?;
    if head.trim_ascii_start().starts_with(b"{") {
        file.take(manifest::MAX_BYTES + 1).read_to_end(&mut head).with_context(|| format!("cannot read {name}"))?;
        let manifest = Manifest::parse(&head).map_err(|refusal| anyhow::anyhow!("{name}: {refusal}"))?;
        let memory = Memory::for_image(manifest.size);
        return Ok(Facts {
            file: name.to_string(),
            size: manifest.size,
            superblock: None,
            manifest: Some(manifest),
            proof: Some(Proof::of(&head, path)),
            memory,
        });
    }
    let found = filesystem(path, &head, size)?;
    let superblock =
        Superblock { filesystem: found.filesystem, compressor: found.compressor, bytes_used: found.bytes_used };
    let place = beside(path, manifest::SUFFIX);
    let (manifest, proof) = match std::fs::read(&place) {
        Ok(bytes) => {
            let manifest =
                Manifest::parse(&bytes).map_err(|refusal| anyhow::anyhow!("{}: {refusal}", place.display()))?;
            (Some(manifest), Some(Proof::of(&bytes, &place)))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => (None, None),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", place.display())),
    };
    let memory = Memory::for_image(size);
    Ok(Facts { file: name.to_string(), size, superblock: Some(superblock), manifest, proof, memory })
}

fn tell(facts: &Facts) -> String {
    let mut rows = vec![("size", format!("{} bytes ({})", facts.size, Bytes(facts.size)))];
    if let Some(Superblock { filesystem, compressor, bytes_used }) = &facts.superblock {
        rows.push(("filesystem", format!("{}, compressed by {}", word(filesystem), word(compressor))));
        rows.push(("used", format!("{bytes_used} bytes, the rest is padding")));
    }
    match &facts.manifest {
        None => rows.push(("manifest", "none: make one with `rootbeam image manifest`".into())),
        Some(manifest) => {
            rows.push(("manifest", format!("version {} of {}", manifest.version, date(manifest.date))));
            rows.push(("name", manifest.name.clone()));
            rows.push(("sha256", manifest.sha256.to_string()));
            rows.push(("chunks", format!("{} of {}", manifest.chunks(), Bytes(manifest.chunk_size.into()))));
            if !manifest.boot_order.is_empty() {
                let bytes = (manifest.boot_order.len() as u64).saturating_mul(manifest.chunk_size.into());
                let text =
                    format!("{} chunks ({}) come first when it is streamed", manifest.boot_order.len(), Bytes(bytes));
                rows.push(("boot order", text));
            }
            if let Some(kernel) = &manifest.kernel {
                rows.push(("kernel", format!("{kernel}, required")));
            }
            rows.extend(manifest.sources.iter().map(|source| ("source", source.clone())));
            if facts.superblock.is_some() && manifest.size != facts.size {
                rows.push(("", format!("the manifest is of another image: it promises {} bytes", manifest.size)));
            }
        }
    }
    if let Some(Proof { sha256, signed_by }) = &facts.proof {
        rows.push((
            "signed by",
            match signed_by.as_slice() {
                [] => "nobody: sign with `rootbeam sign`".to_owned(),
                keys => format!("{}; `rootbeam image verify --key PUB` checks it", trust::listed(keys)),
            },
        ));
        rows.push(("pin", format!("rootbeam.manifest=sha256:{sha256}")));
    }
    let Memory { refused_below, refused_below_streaming, warned_below } = facts.memory;
    let (ram, streaming) = (Bytes(refused_below), Bytes(refused_below_streaming));
    rows.push(("memory", format!("a boot is refused below {ram} available, streaming below {streaming},")));
    rows.push(("", format!("and goes on with a warning below {}", Bytes(warned_below))));
    let table: String = rows.iter().map(|(label, text)| format!("  {label:<10}  {text}\n")).collect();
    format!("{}\n{table}", facts.file)
}

/// A name of the wire format, which is also the kernel's.
fn word(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        _ => "unknown".into(),
    }
}

fn date(seconds: u64) -> String {
    match SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds)) {
        // httpdate can print no year beyond 9999.
        Some(time) if seconds < 253_402_300_800 => httpdate::fmt_http_date(time),
        _ => format!("{seconds} s after 1970"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rootbeam_init::admission;
    use rootbeam_init::settings::values::Mode;

    /// Whether a boot of a machine with so much memory, all of it available, is admitted, and whether with a warning.
    fn boot(mode: Mode, size: u64, available: u64) -> Option<bool> {
        let memory = admission::Memory { total: available, available, given_back: 0, ring: 0 }.in_mode(mode, 0);
        admission::weigh(size, memory, None, None).ok().map(|admitted| admitted.warning.is_some())
    }

    #[test]
    fn memory_bounds_are_those_of_a_boot() {
        for size in [4096, 100 * MIB, 2300 * MIB, 3776 * MIB, 40_000 * MIB] {
            let Memory { refused_below, refused_below_streaming, warned_below } = Memory::for_image(size);
            for (mode, refused_below) in [(Mode::Ram, refused_below), (Mode::Stream, refused_below_streaming)] {
                assert_eq!(boot(mode, size, refused_below - 1), None, "{size}");
                assert_eq!(boot(mode, size, refused_below), Some(true), "{size}");
                assert_eq!(boot(mode, size, warned_below - 30), Some(true), "{size}");
                assert_eq!(boot(mode, size, warned_below), Some(false), "{size}");
            }
        }
        assert_eq!(Memory::for_image(u64::MAX).refused_below, u64::MAX);
    }
}
