//! What the image is held against: the ladder from the manifest down to nothing.

use super::super::blocks::Blocks;
use super::super::locate;
use super::super::sources::Stage;
use super::super::transfer::{Hashes, Transfer};
use super::{Action, Engine, Patience, Phase, Plan, Rung, Vouched};
use crate::digest::Sha256;
use crate::manifest::{LIST_BLOCK, MAX_BYTES, Manifest, Refusal};
use crate::messages::{FetchCause, SourceIndex, StoreCause, StoreNews, Trust};
use crate::trust::{KeyId, SignatureFault};

impl Engine {
    /// Takes up a complete document of the running phase.
    pub(super) fn document(&mut self, source: SourceIndex, bytes: Vec<u8>, length: Option<u64>) {
        match &self.phase {
            Phase::Discovery(Rung::Manifest) => {
                let size = bytes.len() as u64;
                if size > MAX_BYTES {
                    let bytes = length.unwrap_or(size).max(size);
                    self.give_up(source, Stage::Discovery, StoreCause::ManifestTooLarge { source, bytes });
                } else if let Some(cause) = self.is_not_the_pinned(source, &bytes) {
                    self.give_up(source, Stage::Discovery, cause);
                } else if !self.wanted.anchors.demand_signatures() {
                    self.adopt(source, &bytes, Vec::new());
                } else {
                    // Signed or not is decided over the bytes, before anything of them is parsed.
                    self.sources.next_round();
                    self.phase = Phase::Signature { source, manifest: bytes };
                }
            }
            Phase::Signature { source, manifest } => {
                let (source, manifest) = (*source, manifest.clone());
                self.phase = Phase::Discovery(Rung::Manifest);
                match self.wanted.anchors.signers(&manifest, &bytes) {
                    Ok(signers) => self.adopt(source, &manifest, signers),
                    Err(fault) => {
                        self.give_up(source, Stage::Discovery, StoreCause::Signature { source, fault });
                    }
                }
            }
            Phase::Discovery(rung) => self.checksum_file(source, &bytes, *rung == Rung::Sidecar),
            _ => {}
        }
    }

    /// A definite failure of a document's request.
    pub(super) fn no_document(&mut self, source: SourceIndex, cause: FetchCause) {
        let absent = cause.is_absence();
        if let Phase::Signature { .. } = self.phase {
            self.phase = Phase::Discovery(Rung::Manifest);
            let cause = if absent {
                StoreCause::Signature { source, fault: SignatureFault::Missing }
            } else {
                StoreCause::Fetch { source, cause }
            };
            self.give_up(source, Stage::Discovery, cause);
            return;
        }
        let alone = self.sources.get(source).is_some_and(|source| source.location.names_manifest());
        if absent && !alone {
            self.sources.set_absent(source, self.now);
            let others = self.sources.live().any(|(_, source)| !source.is_absent());
            if others && self.demands_manifest() && !self.wanted.optional {
                self.tell_unfit(source, StoreCause::ManifestMissing { source });
            }
        } else {
            self.give_up(source, Stage::Discovery, StoreCause::Fetch { source, cause });
        }
    }

    fn checksum_file(&mut self, source: SourceIndex, text: &[u8], alone: bool) {
        let file = self.sources.get(source).map(|source| source.location.file().to_owned()).unwrap_or_default();
        match locate::checksum(text, &file, alone) {
            Some(hash) => {
                let whole = Some(hash);
                self.open(Plan { origin: Some(source), manifest: None, whole, vouched: Trust::Checksummed.into() });
            }
            None => self.sources.set_absent(source, self.now),
        }
    }

    /// Whether no image counts without a manifest.
    pub(super) fn demands_manifest(&self) -> bool {
        self.wanted.anchors.demand_signatures() || self.wanted.manifest.is_some()
    }

    /// Says so where another manifest than this one is asked for.
    fn is_not_the_pinned(&self, source: SourceIndex, bytes: &[u8]) -> Option<StoreCause> {
        let (expected, found) = (self.wanted.manifest?, Sha256::of(bytes));
        (found != expected).then_some(StoreCause::ManifestHash { source, expected, found })
    }

    /// A manifest that may be parsed, and who signed it.
    fn adopt(&mut self, source: SourceIndex, bytes: &[u8], signers: Vec<KeyId>) {
        match self.plan(source, bytes, signers) {
            Ok((plan, manifest)) => self.follow(plan, manifest),
            Err(cause) => {
                self.give_up(source, Stage::Discovery, cause);
            }
        }
    }

    fn plan(&self, source: SourceIndex, bytes: &[u8], signers: Vec<KeyId>) -> Result<(Plan, Manifest), StoreCause> {
        let manifest = Manifest::parse(bytes).map_err(|refusal| match refusal {
            Refusal::TooLarge(bytes) => StoreCause::ManifestTooLarge { source, bytes },
            _ => StoreCause::ManifestMalformed { source },
        })?;
        if let Some(floor) = self.wanted.anchors.floor_above(manifest.version) {
            return Err(StoreCause::ManifestTooOld { source, version: manifest.version, floor });
        }
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
        // Nobody vouches for the chunk hashes of a manifest that is neither signed nor pinned, whatever hash of the
        // whole it repeats; so the operator's own hash is held against the whole too.
        let whole = self.wanted.sha256.filter(|_| signers.is_empty() && self.wanted.manifest.is_none());
        let trust = match self.wanted.manifest.or(whole) {
            _ if !signers.is_empty() => Trust::Signed,
            Some(_) => Trust::Pinned,
            None => Trust::Checksummed,
        };
        let vouched = Vouched { trust, signers, manifest: Some(Sha256::of(bytes)) };
        let plan = Plan { origin: Some(source), manifest: Some(manifest.clone()), whole, vouched };
        Ok((plan, manifest))
    }

    /// On to the chunk list, or straight on where the chunks of the same list are there already, or where the list comes
    /// beside them.
    pub(super) fn follow(&mut self, plan: Plan, manifest: Manifest) {
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
                image.set_order(&manifest.boot_order);
                self.tally.verified = image.verified();
                self.phase = Phase::Image { plan, image };
            }
            _ => {
                let hashes = Hashes::List(manifest.chunk_list.iter().flat_map(|hash| hash.0).collect());
                // What a store that died left can only be judged by the whole list.
                if self.wanted.streams && plan.whole.is_none() && !self.inherits {
                    let blocks = Blocks::new(manifest.list_bytes(), hashes);
                    self.begin_image(plan, Hashes::Blocks(Box::new(blocks)), manifest.size);
                    self.demand.open();
                } else {
                    let list = Transfer::new(manifest.list_bytes(), LIST_BLOCK, hashes);
                    self.phase = Phase::List { plan, list, bytes: Vec::new() };
                }
            }
        }
    }

    /// What an image lacks that stands on a server and that nothing vouches for as this boot demands.
    pub(super) fn unproven(&self, plan: &Plan, source: SourceIndex) -> Option<StoreCause> {
        match plan.vouched.trust {
            _ if self.demands_manifest() => Some(StoreCause::ManifestMissing { source }),
            Trust::Unverified if self.wanted.require_verified => Some(StoreCause::Unverified),
            _ => None,
        }
    }

    /// There is none, and it may be missing.
    pub(super) fn absent(&mut self) {
        self.phase = Phase::Done;
        self.actions.push_back(Action::News(StoreNews::Absent));
    }

    /// Nobody has what this rung looks for.
    pub(super) fn next_rung(&mut self, rung: Rung) {
        let may_be_absent = self.wanted.optional && self.sources.are_only_without();
        let unvouched = || Plan { origin: None, manifest: None, whole: None, vouched: Trust::Unverified.into() };
        let Some((first, _)) = self.sources.live().next() else {
            if may_be_absent {
                return self.absent();
            }
            let cause = self.sources.verdict().unwrap_or(StoreCause::Unverified);
            return self.fail(cause);
        };
        if self.demands_manifest() {
            // Whether it is absent or lacks its manifest, only the image itself can tell.
            if may_be_absent {
                return self.open(unvouched());
            }
            // What is wrong with the manifest of one source tells more than that another has none.
            let cause = self.sources.verdict().unwrap_or(StoreCause::ManifestMissing { source: first });
            return self.fail(cause);
        }
        if let Some(hash) = self.wanted.sha256 {
            let vouched = Trust::Pinned.into();
            return self.open(Plan { origin: None, manifest: None, whole: Some(hash), vouched });
        }
        if self.patience == Patience::Little && self.sources.live().any(|(_, source)| !source.is_absent()) {
            self.patience = Patience::Spent;
        }
        if rung == Rung::Sums && self.wanted.require_verified && self.patience == Patience::Spent {
            return self.wait_for_proof();
        }
        self.sources.next_round();
        match rung {
            Rung::Manifest => self.phase = Phase::Discovery(Rung::Sidecar),
            Rung::Sidecar => self.phase = Phase::Discovery(Rung::Sums),
            Rung::Sums if self.wanted.require_verified && !may_be_absent => self.fail(StoreCause::Unverified),
            Rung::Sums => self.open(unvouched()),
        }
    }

    /// Those that answered have no proof. One that was passed over since it did not answer may have it, on any rung.
    fn wait_for_proof(&mut self) {
        let without: Vec<_> =
            self.sources.live().filter(|(_, source)| source.is_absent()).map(|(index, _)| index).collect();
        without.into_iter().for_each(|source| self.tell_unfit(source, StoreCause::Unverified));
        self.patience = Patience::Endless;
        self.sources.next_round();
        self.phase = Phase::Discovery(Rung::Manifest);
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
