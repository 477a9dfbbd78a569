//! What the archive trusts, held against a manifest and its signatures.

use super::archive::Archive;
use rootbeam_init::trust::{self, Anchors, SignatureFault};
use rootbeam_init::{causes, contract};
use std::str::FromStr;

/// The packed keys, with their threshold and the version floor.
#[derive(Default)]
pub struct Trusted(Anchors);

impl Trusted {
    /// Reads what the archive trusts; what cannot be read there fails the boot.
    pub fn of(archive: &Archive) -> Result<Self, String> {
        let keys: Vec<(&str, &[u8])> = archive.folder(contract::KEYS).collect();
        let (needed, floor) = (number(archive, contract::KEY_THRESHOLD)?, number(archive, contract::MIN_VERSION)?);
        Anchors::new(&keys, needed, floor).map(Self).map_err(|fault| fault.to_string())
    }

    /// Whether only signed manifests boot.
    pub fn demands_signatures(&self) -> bool {
        self.0.demand_signatures()
    }

    /// The keys that signed `manifest`, or what is wrong with the signature file and the remedy.
    pub fn signers(&self, manifest: &[u8], file: &[u8]) -> Result<String, String> {
        self.0.signers(manifest, file).map(|signers| trust::listed(&signers)).map_err(|fault| told(&fault))
    }

    /// What is wrong where there is no signature file.
    pub fn unsigned() -> String {
        told(&SignatureFault::Missing)
    }

    /// The least version that boots, where `version` is below it.
    pub fn floor_above(&self, version: u64) -> Option<u64> {
        self.0.floor_above(version)
    }
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
