//! `IMAGE.manifest`: what an image is, in JSON. Read by the store, written by `rootbeam image manifest`.

use crate::digest::Sha256;
use crate::label::Label;
use serde::{Deserialize, Serialize};

/// The value of [`Manifest::format`].
pub const FORMAT: &str = "rootbeam-manifest-1";
/// The chunk size written by the tools, in bytes.
pub const CHUNK_SIZE: u32 = 64 << 10;
/// Bytes of the chunk list covered by one hash of the manifest: 2048 chunk hashes.
pub const LIST_BLOCK: u32 = 64 << 10;
/// The largest manifest that is read, in bytes. That of a 1 TiB image has 0.6 MB; a chunk in the boot order takes 13
/// bytes at most in an image of 64 GiB.
pub const MAX_BYTES: u64 = 1 << 20;
/// The most layers that stand on one image. Their paths must fit the 256 bytes that fsconfig(2) takes as one option.
pub const MAX_LAYERS: usize = 8;
/// What is appended to an image's name for its manifest.
pub const SUFFIX: &str = ".manifest";
/// What is appended to an image's name for its chunk list.
pub const CHUNKS_SUFFIX: &str = ".chunks";

/// An image's manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`FORMAT`].
    pub format: String,
    /// File name of the image, beside the manifest; a single path component.
    pub name: String,
    /// Size of the image in bytes.
    pub size: u64,
    /// SHA-256 of the whole image.
    pub sha256: Sha256,
    /// Bytes a chunk; the last may be shorter. A power of two from 4 KiB to 16 MiB.
    pub chunk_size: u32,
    /// Rises with every publication of an image of this name.
    pub version: u64,
    /// When the manifest was made, seconds since 1970.
    pub date: u64,
    /// The kernel release that the image must be booted with, where it must.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<String>,
    /// SHA-256 of each [`LIST_BLOCK`] bytes of the chunk list `NAME.chunks`, which holds each chunk's SHA-256,
    /// 32 bytes each, in order.
    pub chunk_list: Vec<Sha256>,
    /// Further images to stack on this one, the topmost last: files beside it, each an image or a manifest. Those of a
    /// layer's own manifest are not followed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<String>,
    /// URLs of folders that hold the image too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<String>,
    /// Chunk numbers in the order a boot reads them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub boot_order: Vec<u32>,
}

/// Why a manifest is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// More than [`MAX_BYTES`].
    #[error("it has {0} bytes, more than the {MAX_BYTES} that are read")]
    TooLarge(u64),
    /// Not JSON, or not these fields.
    #[error("it is not a manifest in JSON (line {line}, column {column})")]
    NotJson {
        /// Line of the first fault, from 1.
        line: usize,
        /// Column of the first fault, from 1.
        column: usize,
    },
    /// A `format` that this build does not know.
    #[error("its format is not {FORMAT}")]
    Format,
    /// A `name` that is not a plain file name.
    #[error("its name is not a plain file name")]
    Name,
    /// A `chunk_size` out of bounds.
    #[error("its chunk size {0} is no power of two from 4096 to 16777216")]
    ChunkSize(u32),
    /// The image has no bytes.
    #[error("it describes an empty image")]
    Empty,
    /// The chunk list's hashes do not fit size and chunk size.
    #[error("it has {found} hashes of the chunk list, {expected} belong to that size")]
    ListLength {
        /// Hashes that stand in the manifest.
        found: usize,
        /// Hashes that belong there.
        expected: u64,
    },
    /// Chunk numbers beyond the image, or more of them than chunks.
    #[error("its boot order names chunks that the image does not have")]
    BootOrder,
    /// More than [`MAX_LAYERS`], or one that is not a plain file name of at most 64 bytes.
    #[error("its layers are not at most {MAX_LAYERS} plain file names")]
    Layers,
}

impl Manifest {
    /// Reads and checks a manifest; every field that is used to compute with is bounded afterwards.
    pub fn parse(bytes: &[u8]) -> Result<Self, Refusal> {
        let length = bytes.len() as u64;
        if length > MAX_BYTES {
            return Err(Refusal::TooLarge(length));
        }
        let manifest: Self =
            serde_json::from_slice(bytes).map_err(|e| Refusal::NotJson { line: e.line(), column: e.column() })?;
        manifest.check()?;
        Ok(manifest)
    }

    fn check(&self) -> Result<(), Refusal> {
        if self.format != FORMAT {
            return Err(Refusal::Format);
        }
        if !is_file_name(&self.name) {
            return Err(Refusal::Name);
        }
        if !self.chunk_size.is_power_of_two() || !(4096..=16 << 20).contains(&self.chunk_size) {
            return Err(Refusal::ChunkSize(self.chunk_size));
        }
        if self.size == 0 {
            return Err(Refusal::Empty);
        }
        let expected = self.list_bytes().div_ceil(u64::from(LIST_BLOCK));
        if self.chunk_list.len() as u64 != expected {
            return Err(Refusal::ListLength { found: self.chunk_list.len(), expected });
        }
        let chunks = self.chunks();
        if self.boot_order.len() as u64 > chunks || self.boot_order.iter().any(|c| u64::from(*c) >= chunks) {
            return Err(Refusal::BootOrder);
        }
        if self.layer_names().is_none() {
            return Err(Refusal::Layers);
        }
        Ok(())
    }

    /// The layers as names that PID 1 may be told; none where one of them is not fit.
    pub fn layer_names(&self) -> Option<Vec<Label>> {
        if self.layers.len() > MAX_LAYERS { None } else { self.layers.iter().map(|layer| layer_name(layer)).collect() }
    }

    /// The manifest as it is written: JSON, indented, with a final newline.
    pub fn render(&self) -> String {
        // Serialising plain fields into memory has no way to fail; an empty text would be refused by `parse`.
        serde_json::to_string_pretty(self).unwrap_or_default() + "\n"
    }

    /// How many chunks the image has.
    pub fn chunks(&self) -> u64 {
        self.size.div_ceil(u64::from(self.chunk_size))
    }

    /// Length of the chunk list in bytes.
    pub fn list_bytes(&self) -> u64 {
        self.chunks().saturating_mul(32)
    }
}

/// The name of a layer as PID 1 may be told it; none where it is not fit.
pub fn layer_name(name: &str) -> Option<Label> {
    Label::new(name).ok().filter(|name| is_file_name(name.as_str()))
}

/// Whether `name` is a single path component that is fit for a URL and a file: letters, digits and `. _ + ~ -`,
/// not beginning with a dot, at most 200 bytes.
pub fn is_file_name(name: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'+' | b'~' | b'-');
    (1..=200).contains(&name.len()) && !name.starts_with('.') && name.bytes().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Manifest {
        Manifest {
            format: FORMAT.into(),
            name: "web.squashfs".into(),
            size: 200_000,
            sha256: Sha256([7; 32]),
            chunk_size: CHUNK_SIZE,
            version: 3,
            date: 1_700_000_000,
            kernel: None,
            chunk_list: vec![Sha256([9; 32])],
            layers: vec![],
            sources: vec![],
            boot_order: vec![],
        }
    }

    #[test]
    fn reads_what_it_wrote() {
        assert_eq!(Manifest::parse(good().render().as_bytes()), Ok(good()));
    }

    #[test]
    fn refuses_what_it_cannot_compute_with() {
        let refusal = |change: fn(&mut Manifest)| {
            let mut manifest = good();
            change(&mut manifest);
            Manifest::parse(manifest.render().as_bytes()).unwrap_err()
        };
        assert_eq!(refusal(|m| m.format = "x".into()), Refusal::Format);
        assert_eq!(refusal(|m| m.name = "../etc/passwd".into()), Refusal::Name);
        assert_eq!(refusal(|m| m.chunk_size = 0), Refusal::ChunkSize(0));
        assert_eq!(refusal(|m| m.chunk_size = 65_535), Refusal::ChunkSize(65_535));
        assert_eq!(refusal(|m| m.size = 0), Refusal::Empty);
        assert_eq!(refusal(|m| m.boot_order = vec![4]), Refusal::BootOrder);
        assert_eq!(refusal(|m| m.layers = vec!["site.squashfs".into(); 9]), Refusal::Layers);
        let expected = u64::MAX.div_ceil(u64::from(CHUNK_SIZE)) * 32 / u64::from(LIST_BLOCK);
        assert_eq!(refusal(|m| m.size = u64::MAX), Refusal::ListLength { found: 1, expected });
    }

    #[test]
    fn a_layer_is_a_plain_file_name() {
        let layers = |names: &[&str]| {
            let manifest = Manifest { layers: names.iter().map(|name| (*name).to_owned()).collect(), ..good() };
            Manifest::parse(manifest.render().as_bytes()).map(|manifest| manifest.layer_names())
        };
        let good = ["site-0a1b.squashfs", "latest.manifest"];
        let labels = good.iter().map(|name| Label::new(name).unwrap()).collect();
        assert_eq!(layers(&good), Ok(Some(labels)));
        for bad in ["", "../x", "a/b", ".x", "-x", "http:x", "a b", "x?optional", &"x".repeat(65)] {
            assert_eq!(layers(&["site.squashfs", bad]), Err(Refusal::Layers), "{bad:?}");
        }
    }

    #[test]
    fn refuses_too_large_and_not_json_and_unknown_fields() {
        let large = vec![b' '; MAX_BYTES as usize + 1];
        assert_eq!(Manifest::parse(&large), Err(Refusal::TooLarge(MAX_BYTES + 1)));
        assert!(matches!(Manifest::parse(b"<html>"), Err(Refusal::NotJson { line: 1, column: 1 })));
        let more = good().render().replacen('{', "{\"surprise\":1,", 1);
        assert!(matches!(Manifest::parse(more.as_bytes()), Err(Refusal::NotJson { .. })));
    }
}
