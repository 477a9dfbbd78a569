//! What the image is held against: the ladder from the manifest down to nothing.

use super::super::locate;
use super::super::sources::{Stage, is_absence};
use super::super::transfer::{Hashes, Transfer};
use super::{Engine, Phase, Plan, Rung};
use crate::manifest::{LIST_BLOCK, MAX_BYTES, Manifest, Refusal};
use crate::messages::{FetchCause, SourceIndex, StoreCause, Trust};
use minisign_verify::{PublicKey, Signature};

impl Engine {
    /// Takes up a complete document of the running phase.
    pub(super) fn document(&mut self, source: SourceIndex, bytes: Vec<u8>, length: Option<u64>) {
        match &self.phase {
            Phase::Discovery(Rung::Manifest) => {
                let size = bytes.len() as u64;
                if size > MAX_BYTES {
                    let bytes = length.unwrap_or(size).max(size);
                    self.sources.give_up(source, Stage::Discovery, StoreCause::ManifestTooLarge { source, bytes });
                } else if self.wanted.keys.is_empty() {
                    self.adopt(source, &bytes, Trust::Checksummed);
                } else {
                    // Signed or not is decided over the bytes, before anything of them is parsed.
                    self.sources.next_round();
                    self.phase = Phase::Signature { source, manifest: bytes };
                }
            }
            Phase::Signature { source, manifest } => {
                let (source, manifest) = (*source, manifest.clone());
                self.phase = Phase::Discovery(Rung::Manifest);
                if is_signed(&manifest, &bytes, &self.wanted.keys) {
                    self.adopt(source, &manifest, Trust::Signed);
                } else {
                    let cause = StoreCause::Signature { source, present: true };
                    self.sources.give_up(source, Stage::Discovery, cause);
                }
            }
            Phase::Discovery(rung) => self.checksum_file(source, &bytes, *rung == Rung::Sidecar),
            _ => {}
        }
    }

    /// A definite failure of a document's request.
    pub(super) fn no_document(&mut self, source: SourceIndex, cause: FetchCause) {
        let absent = is_absence(&cause);
        if let Phase::Signature { .. } = self.phase {
            self.phase = Phase::Discovery(Rung::Manifest);
            let cause = if absent {
                StoreCause::Signature { source, present: false }
            } else {
                StoreCause::Fetch { source, cause }
            };
            self.sources.give_up(source, Stage::Discovery, cause);
            return;
        }
        let alone = self.sources.get(source).is_some_and(|source| source.location.names_manifest());
        if absent && !alone {
            self.sources.set_absent(source);
        } else {
            self.sources.give_up(source, Stage::Discovery, StoreCause::Fetch { source, cause });
        }
    }

    fn checksum_file(&mut self, source: SourceIndex, text: &[u8], alone: bool) {
        let file = self.sources.get(source).map(|source| source.location.file().to_owned()).unwrap_or_default();
        match locate::checksum(text, &file, alone) {
            Some(hash) => {
                let whole = Some(hash);
                self.open(Plan { origin: Some(source), manifest: None, whole, trust: Trust::Checksummed });
            }
            None => self.sources.set_absent(source),
        }
    }

    /// A manifest that may be parsed.
    fn adopt(&mut self, source: SourceIndex, bytes: &[u8], trust: Trust) {
        match self.plan(source, bytes, trust) {
            Ok((plan, manifest)) => self.follow(plan, manifest),
            Err(cause) => self.sources.give_up(source, Stage::Discovery, cause),
        }
    }

    fn plan(&self, source: SourceIndex, bytes: &[u8], trust: Trust) -> Result<(Plan, Manifest), StoreCause> {
        let manifest = Manifest::parse(bytes).map_err(|refusal| match refusal {
            Refusal::TooLarge(bytes) => StoreCause::ManifestTooLarge { source, bytes },
            _ => StoreCause::ManifestMalformed { source },
        })?;
        if let Some(required) = manifest.kernel.as_deref().filter(|kernel| *kernel != self.wanted.kernel.as_str()) {
            let required = crate::label::Label::new(required);
            return Err(match required {
                Ok(required) => StoreCause::Kernel { required },
                Err(_) => StoreCause::ManifestMalformed { source },
            });
        }
        if let Some(expected) = self.wanted.sha256.filter(|expected| *expected != manifest.sha256) {
            return Err(StoreCause::WrongHash { expected, found: manifest.sha256 });
        }
        // Nobody vouches for the chunk hashes of an unsigned manifest, whatever hash of the whole it repeats; so the
        // operator's own hash is held against the whole too.
        let pinned = self.wanted.sha256.filter(|_| trust != Trust::Signed);
        let trust = if pinned.is_some() { Trust::Pinned } else { trust };
        let plan = Plan { origin: Some(source), manifest: Some(manifest.clone()), whole: pinned, trust };
        Ok((plan, manifest))
    }

    /// On to the chunk list, or straight on where the chunks of the same list are there already.
    fn follow(&mut self, plan: Plan, manifest: Manifest) {
        self.sources.next_round();
        self.sources.forgive_before(Stage::List);
        self.sources.add_folders(&manifest.sources, &manifest.name);
        self.admit(manifest.size);
        let same = |old: &Manifest| {
            (old.size, old.chunk_size, &old.chunk_list) == (manifest.size, manifest.chunk_size, &manifest.chunk_list)
        };
        match self.kept.take() {
            Some((old, mut image)) if same(&old) => {
                image.forgive();
                self.tally.verified = image.verified();
                self.phase = Phase::Image { plan, image };
            }
            _ => {
                let hashes = Hashes::List(manifest.chunk_list.iter().flat_map(|hash| hash.0).collect());
                let list = Transfer::new(manifest.list_bytes(), LIST_BLOCK, hashes);
                self.phase = Phase::List { plan, list, bytes: Vec::new() };
            }
        }
    }

    /// Nobody has what this rung looks for.
    pub(super) fn next_rung(&mut self, rung: Rung) {
        let Some((first, _)) = self.sources.live().next() else {
            let cause = self.sources.verdict().unwrap_or(StoreCause::Unverified);
            return self.fail(cause);
        };
        if !self.wanted.keys.is_empty() {
            return self.fail(StoreCause::Signature { source: first, present: false });
        }
        if let Some(hash) = self.wanted.sha256 {
            return self.open(Plan { origin: None, manifest: None, whole: Some(hash), trust: Trust::Pinned });
        }
        self.sources.next_round();
        match rung {
            Rung::Manifest => self.phase = Phase::Discovery(Rung::Sidecar),
            Rung::Sidecar => self.phase = Phase::Discovery(Rung::Sums),
            Rung::Sums if self.wanted.require_verified => self.fail(StoreCause::Unverified),
            Rung::Sums => self.open(Plan { origin: None, manifest: None, whole: None, trust: Trust::Unverified }),
        }
    }

    fn open(&mut self, plan: Plan) {
        self.sources.next_round();
        self.sources.forgive_before(Stage::Image);
        self.prefix = None;
        self.phase = Phase::Opening(plan);
    }

    /// A part of the chunk list that was found right.
    pub(super) fn list_complete(&mut self) {
        let phase = std::mem::replace(&mut self.phase, Phase::Discovery(Rung::Manifest));
        if let Phase::List { plan, list, bytes } = phase {
            let size = plan.manifest.as_ref().map_or(0, |manifest| manifest.size);
            debug_assert_eq!(bytes.len() as u64, list.size());
            self.begin_image(plan, Hashes::List(bytes), size);
        }
    }
}

/// Whether one of `keys` signed `manifest`; a text that is no signature or key is none.
fn is_signed(manifest: &[u8], signature: &[u8], keys: &[String]) -> bool {
    let text = std::str::from_utf8(signature).ok();
    let Some(signature) = text.and_then(|text| Signature::decode(text).ok()) else { return false };
    let signed_by = |key: &String| {
        PublicKey::from_base64(key.trim()).is_ok_and(|key| key.verify(manifest, &signature, false).is_ok())
    };
    keys.iter().any(signed_by)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Key and signature of `test` from minisign's own examples.
    const KEY: &str = "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3";
    const SIGNATURE: &str = "untrusted comment: signature from minisign secret key
RUQf6LRCGA9i559r3g7V1qNyJDApGip8MfqcadIgT9CuhV3EMhHoN1mGTkUidF/z7SrlQgXdy8ofjb7bNJJylDOocrCo8KLzZwo=
trusted comment: timestamp:1633700835\tfile:test\tprehashed
wLMDjy9FLAuxZ3q4NlEvkgtyhrr0gtTu6KC4KBJdITbbOeAi1zBIYo0v4iTgt8jJpIidRJnp94ABQkJAgAooBQ==";

    #[test]
    fn only_a_packed_keys_signature_of_these_bytes_counts() {
        let keys = ["nonsense".to_owned(), KEY.to_owned()];
        assert!(is_signed(b"test", SIGNATURE.as_bytes(), &keys));
        assert!(!is_signed(b"Test", SIGNATURE.as_bytes(), &keys));
        assert!(!is_signed(b"test", SIGNATURE.replace("file:test", "file:Test").as_bytes(), &keys));
        assert!(!is_signed(b"test", SIGNATURE.as_bytes(), &keys[..1]));
        assert!(!is_signed(b"test", b"\xff", &keys));
    }
}
