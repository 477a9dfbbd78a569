//! The store's decisions: events in, actions out, no I/O, no clock, no chance of its own.
//!
//! A fetch goes through discovery (manifest, or a checksum, or neither), admission (PID 1 weighs the size), the
//! chunk list, the image, and completion. Documents, and an image without chunk hashes, come by one request at a time;
//! files whose chunks have hashes by several from all sources at once (`schedule`). Causes that may pass are tried again
//! for ever, from another source at once and from the same one after a growing pause; a source with a definite cause
//! is given up; with the last one the fetch has failed, until `Again`. One that contradicts itself is let off several
//! times first, and asked now and then for as long as others are waited for.

mod demand;
mod discovery;
mod jobs;
#[cfg(test)]
mod listed;
#[cfg(test)]
mod ordered;
mod parts;
#[cfg(test)]
mod readers;
mod request;
mod schedule;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod table;
mod terms;
#[cfg(test)]
mod tests;
mod verdict;
mod vicinity;
mod watch;

use super::Millis;
use super::sources::{Sources, Stage};
use super::superblock::SuperblockFacts;
use super::transfer::{Hashes, Transfer};
use crate::boot_order::Subject;
use crate::digest::Sha256;
use crate::manifest::{CHUNK_SIZE, Manifest};
use crate::messages::{ImageFacts, SourceIndex, StoreCause, StoreNews, Tally, Trust, Wanted};
use crate::trust::KeyId;
use demand::Demand;
use jobs::{Job, Jobs};
use schedule::Climb;
use std::collections::VecDeque;
pub use terms::{Action, Asked, Event, Intake, Request};

/// The shortest time between two progress messages.
const PROGRESS: Millis = 100;
/// So many bytes of a job tell its speed.
const MEASURED: u64 = 128 << 10;

/// What is looked for beside the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rung {
    Manifest,
    Sidecar,
    Sums,
}

/// How long a source that does not answer is waited for, where another has not what a rung looks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Patience {
    /// A few failures.
    Little,
    /// No longer than that; and one was passed over already.
    Spent,
    /// Until it answers: it may have the proof without which nothing boots.
    Endless,
}

/// What the image's bytes are held against.
#[derive(Clone, Debug)]
struct Plan {
    /// Where the manifest or checksum came from; none for the operator's own hash, or nothing at all.
    origin: Option<SourceIndex>,
    manifest: Option<Manifest>,
    /// The hash of the whole, where the chunks do not vouch for it.
    whole: Option<Sha256>,
    vouched: Vouched,
}

/// Who vouches for a plan.
#[derive(Clone, Debug)]
struct Vouched {
    trust: Trust,
    /// The packed keys that signed the manifest.
    signers: Vec<KeyId>,
    /// The hash of the manifest's bytes.
    manifest: Option<Sha256>,
}

impl From<Trust> for Vouched {
    /// Without a manifest.
    fn from(trust: Trust) -> Self {
        Self { trust, signers: Vec::new(), manifest: None }
    }
}

impl Plan {
    /// The image's name in its manifest.
    fn name(&self) -> Option<&str> {
        self.manifest.as_ref().map(|manifest| manifest.name.as_str())
    }
}

#[derive(Clone, Debug)]
enum Phase {
    Discovery(Rung),
    Signature {
        source: SourceIndex,
        manifest: Vec<u8>,
    },
    List {
        plan: Plan,
        list: Transfer,
        bytes: Vec<u8>,
    },
    /// No manifest tells the size: the head of the first answer does.
    Opening(Plan),
    /// What a store that died left is being looked at.
    Recovering {
        plan: Plan,
        image: Transfer,
    },
    Image {
        plan: Plan,
        image: Transfer,
    },
    Completing {
        plan: Plan,
        image: Transfer,
    },
    Done,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Link {
    None,
    Asked,
    Ready,
}

/// The state of a fetch.
#[derive(Debug)]
pub struct Engine {
    wanted: Wanted,
    sources: Sources,
    phase: Phase,
    /// A store that died may have left chunks in the image's file.
    inherits: bool,
    /// Verified chunks of a plan that was dropped, for the next one if it is the same.
    kept: Option<(Manifest, Transfer)>,
    /// A size that PID 1 was asked about, and whether it agreed.
    admission: Option<(u64, bool)>,
    facts: Option<SuperblockFacts>,
    /// Where the bytes so far came from, and the validator they came with.
    prefix: Option<(SourceIndex, Option<String>)>,
    /// Bytes of several sources may not meet where only the whole has a hash: one whole was wrong, and it must be
    /// known whose bytes it was.
    unmixed: bool,
    link: Link,
    jobs: Jobs,
    numbers: u32,
    climb: Climb,
    demand: Demand,
    failed: bool,
    patience: Patience,
    now: Millis,
    wake: Option<Millis>,
    tally: Tally,
    told: (Millis, Tally),
    actions: VecDeque<Action>,
}

impl Engine {
    /// A fetch that has not begun; `seed` scatters its pauses. The first event is `Fetcher` or `Timer`.
    pub fn new(wanted: Wanted, seed: u64) -> Self {
        Self {
            sources: Sources::new(&wanted.sources, seed),
            wanted,
            phase: Phase::Discovery(Rung::Manifest),
            inherits: false,
            kept: None,
            admission: None,
            facts: None,
            prefix: None,
            unmixed: false,
            link: Link::None,
            jobs: Jobs::default(),
            numbers: 0,
            climb: Climb::default(),
            demand: Demand::default(),
            failed: false,
            patience: Patience::Little,
            now: 0,
            wake: None,
            tally: Tally::default(),
            told: (0, Tally::default()),
            actions: VecDeque::new(),
        }
    }

    /// The same for the successor of a store that died: its chunks are looked at before any is fetched.
    pub fn inheriting(self, inherits: bool) -> Self {
        Self { inherits, ..self }
    }

    /// The next thing to do, until there is none.
    pub fn next_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When a `Timer` event is due at the latest.
    pub fn deadline(&self) -> Option<Millis> {
        let due = self.jobs.live().filter(|job| self.is_watched(job)).map(Job::due).min();
        let stuck = self.jobs.all().filter(|job| self.is_watched(job)).map(|job| self.stuck_at(job)).min();
        let untold = (self.tally != self.told.1 && self.tally.total > 0).then(|| self.told.0.saturating_add(PROGRESS));
        [self.wake, due, stuck, untold, self.sources.next_return(self.judges(), self.now)].into_iter().flatten().min()
    }

    /// Whether something else than its source tells what is right of what is asked for.
    fn judges(&self) -> bool {
        match &self.phase {
            Phase::Opening(_) => false,
            Phase::Image { image, .. } => image.has_hashes(),
            _ => true,
        }
    }

    /// What to do with the bytes of a job.
    pub fn intake(&self, job: u32) -> Intake {
        if self.jobs.get(job).is_none_or(|job| job.head.is_none()) {
            return Intake::Skip;
        }
        match &self.phase {
            Phase::Discovery(_) | Phase::Signature { .. } => Intake::Document { limit: request::DOCUMENT as usize },
            Phase::List { .. } => Intake::Chunks { image: false },
            Phase::Image { .. } if !self.is_admitted() => Intake::Hold,
            Phase::Image { .. } if self.file(job).is_none() => Intake::Skip,
            Phase::Image { .. } => Intake::Chunks { image: self.stage(job) != Some(Stage::List) },
            Phase::Opening(_) | Phase::Recovering { .. } | Phase::Completing { .. } | Phase::Done => Intake::Skip,
        }
    }

    /// The file that chunks are cut from now.
    pub fn transfer(&self) -> Option<&Transfer> {
        match &self.phase {
            Phase::List { list, .. } => Some(list),
            Phase::Recovering { image, .. } | Phase::Image { image, .. } | Phase::Completing { image, .. } => {
                Some(image)
            }
            _ => None,
        }
    }

    /// Whether the whole image's hash will be asked for, so that it is worth keeping one running.
    pub fn hashes_whole(&self) -> bool {
        match &self.phase {
            Phase::Image { plan, .. } | Phase::Completing { plan, .. } => plan.whole.is_some(),
            _ => false,
        }
    }

    /// The fetch worker said something of a job.
    pub fn heard(&mut self, job: u32, now: Millis) {
        if let Some(job) = self.jobs.any_mut(job) {
            job.heard = now;
        }
    }

    /// Bytes of a job came in.
    pub fn count(&mut self, job: u32, bytes: u64, now: Millis) {
        let Some(job) = self.jobs.get_mut(job) else { return };
        let image = matches!(self.phase, Phase::Image { .. }) && job.stage == Stage::Image;
        job.bytes = job.bytes.saturating_add(bytes);
        let (source, rate, measured) = (job.source, job.rate(now), job.bytes >= MEASURED);
        if let Some(source) = self.sources.get_mut(source) {
            if measured {
                source.rate = Some(rate);
            }
            if image {
                source.tally.fetched = source.tally.fetched.saturating_add(bytes);
            }
        }
        if image {
            self.tally.fetched = self.tally.fetched.saturating_add(bytes);
        }
    }

    /// Progress worth telling now.
    pub fn progress(&mut self, now: Millis) -> Option<StoreNews> {
        let (when, last) = self.told;
        if self.tally == last || now < when.saturating_add(PROGRESS) || self.tally.total == 0 {
            return None;
        }
        self.told = (now, self.tally);
        Some(StoreNews::Progress(self.tally))
    }

    /// Takes one event up; the actions that follow are in [`Self::next_action`].
    pub fn handle(&mut self, event: Event, now: Millis) {
        self.now = now;
        match event {
            Event::Fetcher => {
                self.lose_jobs(now);
                self.link = Link::Ready;
            }
            Event::FetcherLost => {
                self.link = Link::None;
                self.lose_jobs(now);
            }
            Event::Admitted => self.admitted(now),
            Event::Again => self.again(),
            Event::Head { job, head } => self.head(job, head),
            Event::End { job, document } => self.end(job, document, now),
            Event::Failed { job, cause } => self.broke_off(job, cause, now),
            Event::Recovered => self.recovered(now),
            Event::Hashed(found) => self.hashed(found),
            Event::Sealed => self.sealed(),
            Event::NoMemory { errno } => self.no_memory(errno),
            Event::Timer => self.look_after_fetcher(now),
        }
        self.pump(now);
    }

    fn is_admitted(&self) -> bool {
        self.admission.is_some_and(|(_, granted)| granted)
    }

    /// Asks PID 1 whether `size` may be held, unless it agreed to that already.
    fn admit(&mut self, size: u64) {
        self.tally.total = size;
        if self.admission.is_none_or(|(asked, _)| asked != size) {
            // Memory of another size is empty of what it held.
            self.kept = None;
            self.admission = Some((size, false));
            self.actions.push_back(Action::News(StoreNews::Size { bytes: size }));
        }
    }

    fn admitted(&mut self, now: Millis) {
        // A worker whose bytes had to wait was silent with good reason.
        for job in self.jobs.live_mut() {
            (job.heard, job.stretch) = (now, (now, job.bytes));
        }
        if let Some((size, granted)) = &mut self.admission
            && !*granted
        {
            *granted = true;
            let size = *size;
            self.actions.push_back(Action::Allocate { size });
        }
    }

    fn again(&mut self) {
        if !std::mem::take(&mut self.failed) {
            return;
        }
        self.sources.forgive_all();
        self.unmixed = false;
        self.patience = Patience::Little;
        if let Some((size, false)) = self.admission {
            self.actions.push_back(Action::News(StoreNews::Size { bytes: size }));
        }
        if matches!(&self.phase, Phase::Opening(plan) if self.unproven(plan, 0).is_some()) {
            self.phase = Phase::Discovery(Rung::Manifest);
        }
        // Where memory was refused, the plan is as good as before; and where the image is served, it is the only one.
        let doubtful = self.is_admitted() && !self.demand.is_streaming();
        match &mut self.phase {
            Phase::Discovery(rung) => *rung = Rung::Manifest,
            // It could not be sealed.
            Phase::Completing { .. } => self.actions.push_back(Action::Seal),
            // By now the manifest may be of another image, and this one nowhere any more.
            Phase::List { .. } | Phase::Image { plan: Plan { manifest: Some(_), .. }, .. } if doubtful => {
                self.look_for_manifest();
            }
            Phase::List { list: transfer, .. } | Phase::Image { image: transfer, .. } => transfer.forgive(),
            _ => {}
        }
    }

    /// Drops the plan. Chunks that passed stay for a plan with the same hashes.
    fn look_for_manifest(&mut self) {
        self.cancel_all();
        let phase = std::mem::replace(&mut self.phase, Phase::Discovery(Rung::Manifest));
        if let Phase::Image { plan: Plan { manifest: Some(manifest), .. }, image } = phase {
            self.kept = Some((manifest, image));
        }
        self.sources.next_round();
        self.actions.push_back(Action::StartOver);
    }

    fn fail(&mut self, cause: StoreCause) {
        self.failed = true;
        self.actions.push_back(Action::News(StoreNews::Failed(cause)));
    }

    /// What was to be written is not there, so no chunk counts as there any more; but where the image is served, what is
    /// there has been told of and stays.
    fn no_memory(&mut self, errno: i32) {
        self.cancel_all();
        if self.demand.is_streaming() {
            return self.fail(StoreCause::Memory { errno });
        }
        self.phase = match std::mem::replace(&mut self.phase, Phase::Done) {
            Phase::Image { plan, mut image } | Phase::Completing { plan, mut image } => {
                image.start_over();
                self.tally.verified = 0;
                self.actions.push_back(Action::StartOver);
                Phase::Image { plan, image }
            }
            other => other,
        };
        self.admission = self.admission.map(|(size, _)| (size, false));
        self.fail(StoreCause::Memory { errno });
    }

    /// Nothing more is asked of a source; unless what it said may have been a moment's: then it is asked again a little
    /// later, and after several times only while others are waited for.
    fn give_up(&mut self, source: SourceIndex, stage: Stage, cause: StoreCause) {
        let Some((told, until)) = self.sources.second_chance(source, &cause, self.now) else {
            self.sources.give_up(source, stage, cause.clone(), self.now);
            // With the last one it is for the verdict to tell.
            if self.sources.live().next().is_some() {
                self.tell_unfit(source, cause);
            }
            return;
        };
        let pause_ms = u32::try_from(until.saturating_sub(self.now)).unwrap_or(u32::MAX);
        self.actions.push_back(Action::News(StoreNews::Trouble { source, cause: told, pause_ms }));
    }

    /// While others are waited for, what is wrong with this one is told all the same.
    fn tell_unfit(&mut self, source: SourceIndex, cause: StoreCause) {
        // One that is taken back now and then is unfit again and again.
        if self.sources.is_newly_unfit(source, &cause) {
            self.actions.push_back(Action::News(StoreNews::Unfit { source, cause }));
        }
    }

    /// A plan came to nothing by what this source vouched for or sent: it is dropped, the others are asked anew.
    fn blame(&mut self, source: SourceIndex, cause: StoreCause) {
        self.cancel_all();
        self.give_up(source, Stage::Image, cause);
        self.sources.forget_named(self.wanted.sources.len());
        self.look_for_manifest();
        self.sources.forgive_before(Stage::Image);
    }

    fn hashed(&mut self, found: Option<Sha256>) {
        let Phase::Completing { plan, image } = &self.phase else { return };
        match (plan.whole, found) {
            (Some(expected), Some(found)) if expected != found => {
                // Chunks that have hashes are what their origin said. Otherwise either the bytes or the checksum are
                // wrong: the sender is held to account, and others are asked to vouch before this origin.
                let sender = self.prefix.as_ref().map(|(source, _)| *source).filter(|_| !image.has_hashes());
                let blamed = sender.or(plan.origin).unwrap_or(0);
                if let Some(origin) = plan.origin.and_then(|origin| self.sources.get_mut(origin)) {
                    origin.doubts = origin.doubts.saturating_add(1);
                }
                self.unmixed = true;
                self.blame(blamed, StoreCause::WrongHash { expected, found });
            }
            (Some(_), None) => {}
            _ => self.actions.push_back(Action::Seal),
        }
    }

    fn sealed(&mut self) {
        let Phase::Completing { plan, image } = &self.phase else { return };
        let Some(facts) = self.image_facts(plan, image) else { return };
        self.phase = Phase::Done;
        for (source, told) in self.sources.all().filter(|(_, source)| source.tally.requests > 0) {
            self.actions.push_back(Action::News(StoreNews::Source { source, tally: told.tally.clone() }));
        }
        self.actions.push_back(Action::News(StoreNews::Done { facts, tally: self.tally }));
    }

    /// What the image is, once that is known of one that can be served before it is complete: each of its chunks is
    /// verified alone, and the first one was.
    pub fn servable(&self) -> Option<ImageFacts> {
        match &self.phase {
            // A hash of the whole that the chunks do not vouch for is known to be right at the end only.
            Phase::Image { plan, image } if image.has_hashes() && plan.whole.is_none() && self.is_admitted() => {
                self.image_facts(plan, image)
            }
            _ => None,
        }
    }

    /// The image that has a manifest, while it comes.
    pub fn subject(&self) -> Option<Subject> {
        let Phase::Image { plan: Plan { manifest: Some(manifest), .. }, .. } = &self.phase else { return None };
        Some(Subject { size: manifest.size, chunk_size: manifest.chunk_size, sha256: manifest.sha256 })
    }

    fn image_facts(&self, plan: &Plan, image: &Transfer) -> Option<ImageFacts> {
        let facts = self.facts?;
        Some(ImageFacts {
            filesystem: facts.filesystem,
            compressor: facts.compressor,
            size: image.size(),
            sha256: plan.whole.or_else(|| plan.manifest.as_ref().map(|manifest| manifest.sha256)),
            trust: plan.vouched.trust,
            signers: plan.vouched.signers.clone(),
            manifest: plan.vouched.manifest,
            version: plan.manifest.as_ref().map(|manifest| manifest.version),
            date: plan.manifest.as_ref().filter(|_| plan.vouched.trust == Trust::Signed).map(|manifest| manifest.date),
            layers: plan.manifest.as_ref().and_then(Manifest::layer_names).unwrap_or_default(),
        })
    }

    /// From the chunk list, or from nothing, to the image.
    fn begin_image(&mut self, plan: Plan, hashes: Hashes, size: u64) {
        let chunk_size = plan.manifest.as_ref().map_or(CHUNK_SIZE, |manifest| manifest.chunk_size);
        // Its bytes come into the place of those.
        self.kept = None;
        self.sources.next_round();
        self.sources.forgive_before(Stage::Image);
        self.tally.verified = 0;
        let mut image = Transfer::new(size, chunk_size, hashes);
        image.set_order(plan.manifest.as_ref().map_or(&[], |manifest| &manifest.boot_order));
        // Without hashes there is no telling what of it is right.
        self.phase = if std::mem::take(&mut self.inherits) && image.has_hashes() {
            self.actions.push_back(Action::Recover);
            Phase::Recovering { plan, image }
        } else {
            Phase::Image { plan, image }
        };
    }
}
