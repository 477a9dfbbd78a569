//! What the archive trusts, held against a manifest and its signatures.

use super::archive::Archive;
use rootbeam_init::trust::{self, Anchors, SignatureFault};
use rootbeam_init::{causes, contract};
use std::str::FromStr;

/// Reads the packed keys, with their threshold and the version floor; what cannot be read there fails the boot.
pub fn packed(archive: &Archive) -> Result<Anchors, String> {
    let keys: Vec<(&str, &[u8])> = archive.folder(contract::KEYS).collect();
    let (needed, floor) = (number(archive, contract::KEY_THRESHOLD)?, number(archive, contract::MIN_VERSION)?);
    Anchors::new(&keys, needed, floor).map_err(|fault| fault.to_string())
}

/// The keys that signed `manifest`, or what is wrong with the signature file and the remedy.
pub fn signers(anchors: &Anchors, manifest: &[u8], file: &[u8]) -> Result<String, String> {
    anchors.signers(manifest, file).map(|signers| trust::listed(&signers)).map_err(|fault| told(&fault))
}

/// What is wrong where there is no signature file.
pub fn unsigned() -> String {
    told(&SignatureFault::Missing)
}

fn told(fault: &SignatureFault) -> String {
    let (cause, remedy) = causes::signature(fault);
    format!("{cause}: {remedy}")
}

fn number<N: FromStr>(archive: &Archive, path: &str) -> Result<Option<N>, String> {
    match archive.file(path) {
        [] => Ok(None),
        text => {
            let number = std::str::from_utf8(text).ok().and_then(|text| text.trim().parse().ok());
            number.map(Some).ok_or(format!("the packed file {path} holds no number of its kind"))
        }
    }
}
