//! Which request comes next, and what its answer's head means.

use super::super::Millis;
use super::super::sources::{Source, Stage};
use super::super::transfer::{Span, Transfer};
use super::jobs::Job;
use super::{Action, Asked, Engine, Intake, Link, Patience, Phase, Request, Rung};
use crate::manifest::MAX_BYTES;
use crate::messages::{FetchCause, Head, Range, SourceIndex, StoreCause, StoreNews};

/// The most bytes of a manifest, signature or checksum file; one more tells that it is too large.
pub(super) const DOCUMENT: u64 = MAX_BYTES + 1;
/// A source that might have a manifest or signature is not waited for after so many failures in a row, or where it is to be
/// asked only after so long, if there are others to go by.
const PATIENCE: u32 = 2;
const PAUSE: Millis = 3000;
/// How many seconds of silence a document is worth where another source may have it; more with each failure, for all of
/// them may be as slow.
const DOCUMENT_STALL: u32 = 3;
/// So often in a row the source of what is there of an image without hashes may fail, and so long it may pause, before
/// another one is asked, which has to begin at the beginning.
const OWN_PATIENCE: u32 = 4;
const OWN_PAUSE: Millis = 5000;

/// What to do while no request runs.
enum Next {
    Ask(SourceIndex),
    Wait(Millis),
    /// PID 1 has to agree first, or nothing is left to do.
    Rest,
    Exhausted,
}

impl Engine {
    /// Goes on as far as it can without an event.
    pub(super) fn pump(&mut self, now: Millis) {
        self.wake = None;
        self.sources.take_back(self.judges(), now);
        // Each turn gives a source or a rung up, so the number of turns is bounded by theirs.
        for _ in 0..4096 {
            if self.failed || matches!(self.phase, Phase::Recovering { .. } | Phase::Completing { .. } | Phase::Done) {
                return;
            }
            if let Phase::List { list: transfer, .. } | Phase::Image { image: transfer, .. } = &self.phase
                && transfer.has_hashes()
            {
                if !self.is_admitted() || !self.despairs() {
                    return self.fill(now);
                }
                self.exhausted();
                continue;
            }
            if self.jobs.live().next().is_some() {
                return;
            }
            match self.next(now) {
                Next::Rest => return,
                Next::Exhausted => self.exhausted(),
                Next::Wait(until) => {
                    self.wake = Some(until);
                    self.is_linked();
                    return;
                }
                Next::Ask(source) => {
                    if let Some(lane) = self.jobs.free_lane()
                        && self.is_linked()
                    {
                        self.ask(lane, source, now);
                    }
                    return;
                }
            }
        }
    }

    /// Whether a fetch worker is there; if not, one is asked for.
    pub(super) fn is_linked(&mut self) -> bool {
        if self.link == Link::None {
            self.link = Link::Asked;
            self.actions.push_back(Action::News(StoreNews::NeedFetcher));
        }
        self.link == Link::Ready
    }

    fn next(&self, now: Millis) -> Next {
        let chosen = match &self.phase {
            Phase::Discovery(_) => {
                // Where nothing boots without a proof, one that may still come is worth any wait.
                let waits = self.demands_manifest() || self.patience == Patience::Endless;
                let answered = !waits && self.sources.live().any(|(_, source)| source.is_absent());
                let lost = |index| answered && self.is_away(index, now);
                // Who has answered is looked at again while others are waited for, and after those.
                if self.sources.live().all(|(index, source)| source.is_absent() || lost(index)) {
                    return Next::Exhausted;
                }
                self.sources.next(now, |index| {
                    let source = self.sources.get(index)?;
                    let fits = !source.is_absent_at(now) && !lost(index);
                    fits.then_some(source.doubts.saturating_add(source.is_absent().into()))
                })
            }
            Phase::Signature { source, .. } => {
                let others = self.sources.live().count() > 1;
                let lost = others && self.is_away(*source, now);
                self.sources.next(now, |index| (index == *source && !lost).then_some(0))
            }
            Phase::Image { .. } if !self.is_admitted() => return Next::Rest,
            // Nothing tells what of it is right before it is all there.
            Phase::Opening(_) | Phase::Image { .. } => {
                let own = self.worth_waiting_for(now);
                self.sources.next(now, |index| {
                    let source = self.sources.get(index)?;
                    own.is_none_or(|own| own == index).then_some(source.contradictions)
                })
            }
            Phase::List { .. } | Phase::Recovering { .. } | Phase::Completing { .. } | Phase::Done => {
                return Next::Rest;
            }
        };
        match chosen {
            None => Next::Exhausted,
            Some((source, ready)) if ready <= now => Next::Ask(source),
            Some((_, ready)) => Next::Wait(ready),
        }
    }

    /// Whether a source is not worth waiting for where there are others to go by.
    fn is_away(&self, index: SourceIndex, now: Millis) -> bool {
        let pauses = |source: &Source| source.readiness().0 > now.saturating_add(PAUSE);
        self.sources.failures(index) >= PATIENCE || self.sources.get(index).is_some_and(pauses)
    }

    /// The source of the bytes that are there, where no other could go on with them, and it can if it is back soon.
    fn worth_waiting_for(&self, now: Millis) -> Option<SourceIndex> {
        let Phase::Image { plan, image } = &self.phase else { return None };
        let (own, validator) = self.prefix.as_ref()?;
        let any = plan.whole.is_some() && !self.unmixed;
        let resumes = validator.is_some() || plan.whole.is_some();
        let (_, source) = self.sources.live().find(|(index, _)| index == own)?;
        let soon = source.readiness().0 <= now.saturating_add(OWN_PAUSE);
        // Silence takes its time by itself.
        let silent = matches!(source.tally.trouble, Some(FetchCause::Stalled | FetchCause::Unreachable));
        let patient = soon && self.sources.failures(*own) < if silent { OWN_PATIENCE / 2 } else { OWN_PATIENCE };
        (image.verified() > 0 && !any && resumes && !source.whole_only && patient).then_some(*own)
    }

    /// No source is left for what this phase wants.
    fn exhausted(&mut self) {
        let hopeless = self.hopeless();
        let doubtful = |transfer: &Transfer| hopeless.map_or(transfer.first_missing(), |(_, chunk)| chunk);
        self.sources.give_up_lacking(self.now);
        match &self.phase {
            Phase::Discovery(rung) => self.next_rung(*rung),
            Phase::Signature { .. } => self.phase = Phase::Discovery(Rung::Manifest),
            Phase::List { plan, list, .. } => match (plan.origin, list.last_wrong(doubtful(list))) {
                (Some(origin), Some(source)) => self.blame(origin, StoreCause::ChunkList { source }),
                _ => self.give_in(),
            },
            Phase::Image { plan, image } => {
                let list = image.list().filter(|_| hopeless.is_none_or(|(stage, _)| stage == Stage::List));
                if let (Some(origin), Some(source)) =
                    (plan.origin, list.and_then(|list| list.last_wrong(doubtful(list))))
                {
                    return self.blame(origin, StoreCause::ChunkList { source });
                }
                let chunk = doubtful(image);
                let (chunks, offset) = (image.chunks(), image.offset(chunk));
                match (plan.origin, image.last_wrong(chunk)) {
                    (Some(origin), Some(source)) => {
                        self.blame(origin, StoreCause::WrongChunk { chunk, chunks, offset, source });
                    }
                    _ => self.give_in(),
                }
            }
            Phase::Opening(_) | Phase::Recovering { .. } | Phase::Completing { .. } | Phase::Done => self.give_in(),
        }
    }

    fn give_in(&mut self) {
        // Nothing of it was ever seen: neither a manifest, nor a checksum, nor a size.
        let unseen = matches!(&self.phase, Phase::Opening(plan) if plan.origin.is_none()) && self.admission.is_none();
        if self.wanted.optional && unseen && self.sources.are_only_without() {
            return self.absent();
        }
        let cause = self.sources.verdict().unwrap_or(StoreCause::Unverified);
        self.fail(cause);
    }

    /// Asks for a document, or for what is missing of an image without chunk hashes.
    fn ask(&mut self, lane: u8, index: SourceIndex, now: Millis) {
        let Some(source) = self.sources.get(index) else { return };
        let location = &source.location;
        let whole = |url: String, limit: u64| Asked { url, range: None, if_range: None, limit };
        let asked = match &self.phase {
            Phase::Discovery(Rung::Manifest) => whole(location.manifest(), DOCUMENT),
            Phase::Discovery(Rung::Sidecar) => whole(location.sha256(), DOCUMENT),
            Phase::Discovery(Rung::Sums) => whole(location.sums(), DOCUMENT),
            Phase::Signature { .. } => whole(location.signature(), DOCUMENT),
            Phase::Opening(_) => whole(location.image(None), u64::MAX),
            Phase::Image { plan, image } => {
                let own = self.prefix.as_ref().filter(|(from, _)| *from == index);
                let validator = own.and_then(|(_, validator)| validator.clone());
                // Bytes of two versions of a file may only meet where a hash of the whole would tell.
                let meet = plan.whole.is_some() && (own.is_some() || !self.unmixed);
                let resume = (validator.is_some() || meet) && image.verified() > 0;
                let rest = Range { start: image.offset(image.first_missing()), end: image.size() };
                let range = Some(rest).filter(|_| resume);
                Asked {
                    url: location.image(plan.name()),
                    range,
                    if_range: validator.filter(|_| resume),
                    limit: u64::MAX,
                }
            }
            Phase::List { .. } | Phase::Recovering { .. } | Phase::Completing { .. } | Phase::Done => return,
        };
        let stage = match &self.phase {
            Phase::Discovery(_) | Phase::Signature { .. } => Stage::Discovery,
            _ => Stage::Image,
        };
        self.order(lane, index, asked, (stage, 0..0), now);
    }

    /// Orders a request, for a span of a file's chunks or, where that is empty, for whatever comes.
    pub(super) fn order(
        &mut self,
        lane: u8,
        source: SourceIndex,
        asked: Asked,
        (stage, claim): (Stage, Span),
        now: Millis,
    ) {
        self.numbers = self.numbers.wrapping_add(1);
        let job = self.numbers;
        self.tally.requests = self.tally.requests.saturating_add(1);
        if let Some(source) = self.sources.get_mut(source) {
            source.tally.requests = source.tally.requests.saturating_add(1);
        }
        // A signature is asked of its manifest's source alone.
        let document = matches!(self.phase, Phase::Discovery(_));
        let others = self.sources.live().any(|(other, about)| other != source && about.readiness().0 <= now);
        let short = DOCUMENT_STALL << self.sources.failures(source).min(4);
        let most = if document && others { short } else { u32::MAX };
        let stall_seconds = self.wanted.stall_seconds.min(most);
        let patience = Millis::from(stall_seconds.max(1)).saturating_mul(1000);
        self.jobs.add(Job::new(job, lane, source, asked.range, claim, now).of(stage).patient(patience));
        self.actions.push_back(Action::Get(Request { job, lane, asked, stall_seconds }));
    }

    pub(super) fn head(&mut self, number: u32, head: Head) {
        let Some(job) = self.jobs.get_mut(number) else { return };
        job.head = Some(head.length);
        job.answered = Some(self.now);
        let waited = self.now.saturating_sub(job.began);
        let (source, asked, lane, stage) = (job.source, job.range, job.lane, job.stage);
        if let Some(source) = self.sources.get_mut(source) {
            source.delay = Some(source.delay.map_or(waited, |least| least.min(waited)));
        }
        let at = head.range.map_or(0, |range| range.start);
        // The fetch worker checked this; but it may be in a stranger's hands.
        if head.range.is_some_and(|range| asked.is_none_or(|asked| asked.start != range.start)) {
            return self.refuse(number, Stage::Image, StoreCause::Fetch { source, cause: FetchCause::Protocol });
        }
        if asked.is_some() && head.range.is_none() {
            self.sends_whole(number, source);
        }
        if stage == Stage::List
            && let Some(said) = self.part(stage).map(Transfer::size)
            && head.size.is_some_and(|found| found != said)
        {
            return self.belies(number, stage, StoreCause::ChunkList { source });
        }
        match &mut self.phase {
            Phase::Discovery(_) | Phase::Signature { .. } | Phase::List { .. } => {}
            Phase::Image { .. } if stage == Stage::List => {}
            Phase::Opening(_) => return self.opened(number, head),
            Phase::Image { image, .. } if image.has_hashes() => {
                let said = image.size();
                if let Some(found) = head.size.filter(|found| *found != said) {
                    let other = StoreCause::ManifestOfAnotherImage { source, said, found };
                    let cause = if found == 0 { StoreCause::Empty { source } } else { other };
                    return self.belies(number, Stage::Image, cause);
                }
            }
            Phase::Image { image, .. } => {
                if head.size != Some(image.size()) {
                    return self.changed(number, head);
                }
                if at == 0 && image.verified() > 0 {
                    image.start_over();
                    self.tally.verified = 0;
                    self.actions.push_back(Action::StartOver);
                }
                self.prefix = Some((source, head.validator));
            }
            Phase::Recovering { .. } | Phase::Completing { .. } | Phase::Done => return,
        }
        if let Intake::Chunks { .. } | Intake::Hold = self.intake(number) {
            self.actions.push_back(Action::Receive { lane, at });
        }
    }

    /// The server does not know ranges, or does not keep to what it says of them: one stream of it is of use, from the
    /// first byte on, and whoever knows ranges fetches what lies far ahead of it.
    fn sends_whole(&mut self, number: u32, source: SourceIndex) {
        if let Some(source) = self.sources.get_mut(source) {
            source.whole_only = true;
        }
        let Some(stage) = self.stage(number) else { return };
        for other in self.jobs.of(stage).filter(|job| job.source == source).map(|job| job.number).collect::<Vec<_>>() {
            if other != number {
                self.cancel(other);
            }
        }
        // Of an image from the first byte on only what can be judged is of use.
        if stage == Stage::Image && self.lists() {
            return self.cancel(number);
        }
        let first = self.part(stage).map_or(0, Transfer::first_missing);
        if let Some(job) = self.jobs.get_mut(number) {
            (job.whole, job.claim) = (true, first..first);
        }
        self.widen(number);
    }

    /// What a job that brings the whole file can be left alone with: what it brings in the next seconds.
    pub(super) fn widen(&mut self, number: u32) {
        let Some(transfer) = self.file(number) else { return };
        let (size, chunks) = (transfer.chunk_size().max(1), transfer.chunks());
        let alone = self.sources.live().count() == 1;
        let Some(job) = self.jobs.get_mut(number).filter(|job| job.whole) else { return };
        let ahead = (job.bytes / size / 2).max(8);
        job.claim.end = if alone { chunks } else { job.claim.start.saturating_add(ahead).min(chunks) };
    }

    /// The size became known by the head of the first answer.
    fn opened(&mut self, number: u32, head: Head) {
        let Phase::Opening(plan) = &self.phase else { return };
        let Some((source, lane)) = self.jobs.get(number).map(|job| (job.source, job.lane)) else { return };
        let plan = plan.clone();
        match head.size {
            None => self.refuse(number, Stage::Image, StoreCause::Fetch { source, cause: FetchCause::Protocol }),
            Some(0) => self.refuse(number, Stage::Image, StoreCause::Empty { source }),
            Some(size) => {
                if let Some(cause) = self.unproven(&plan, source) {
                    return self.refuse(number, Stage::Image, cause);
                }
                self.admit(size);
                self.begin_image(plan, super::Hashes::None, size);
                self.prefix = Some((source, head.validator));
                self.actions.push_back(Action::StartOver);
                self.actions.push_back(Action::Receive { lane, at: 0 });
            }
        }
    }

    /// Without chunk hashes: the file has another size than the bytes so far belong to.
    fn changed(&mut self, number: u32, head: Head) {
        let Phase::Image { plan, .. } = &self.phase else { return };
        self.phase = Phase::Opening(plan.clone());
        self.prefix = None;
        if head.range.is_none() {
            return self.opened(number, head);
        }
        self.cancel(number);
    }

    /// The answer is of another file than the manifest's. A source that belies its own manifest has replaced both
    /// meanwhile, or is about to: it is asked for the manifest again.
    fn belies(&mut self, number: u32, stage: Stage, cause: StoreCause) {
        let Some(source) = self.jobs.get(number).map(|job| job.source) else { return };
        match &self.phase {
            Phase::List { plan, .. } | Phase::Image { plan, .. } if plan.origin == Some(source) => {
                self.tally.failures = self.tally.failures.saturating_add(1);
                self.blame(source, cause);
            }
            _ => self.refuse(number, stage, cause),
        }
    }

    /// The answer shows that this source is of no use.
    fn refuse(&mut self, number: u32, stage: Stage, cause: StoreCause) {
        let Some(source) = self.jobs.get(number).map(|job| job.source) else { return };
        self.cancel(number);
        self.tally.failures = self.tally.failures.saturating_add(1);
        self.give_up(source, stage, cause);
    }

    /// A job failed, by the worker's word.
    pub(super) fn broke_off(&mut self, number: u32, cause: FetchCause, now: Millis) {
        let wanted = self.jobs.get(number).is_some();
        if let Some(job) = self.jobs.remove(number).filter(|_| wanted) {
            self.request_failed(&job, cause, now);
        }
    }

    /// What follows from a job that failed; it is none of the running ones any more.
    pub(super) fn request_failed(&mut self, job: &Job, cause: FetchCause, now: Millis) {
        let source = job.source;
        let stage = job.stage;
        if stage == Stage::Discovery && !cause.is_passing() {
            return self.no_document(source, cause);
        }
        self.tally.failures = self.tally.failures.saturating_add(1);
        if let Some(teller) = self.told_too_much(job, &cause) {
            return self.blame(teller, StoreCause::Fetch { source: teller, cause: FetchCause::Protocol });
        }
        let paused = self.sources.get(source).is_some_and(|source| source.readiness().0 > now);
        let until = self.sources.failed(source, &cause, now);
        if cause.is_passing() {
            // One of several connections that broke together tells for all.
            if !paused {
                let until = self.sources.next(now, |_| Some(0)).map_or(until, |(_, ready)| ready);
                let pause_ms = u32::try_from(until - now).unwrap_or(u32::MAX);
                self.actions.push_back(Action::News(StoreNews::Trouble { source, cause, pause_ms }));
            }
        } else {
            // Where one has the list and another the image, each is asked for what it has.
            let lacks = cause.is_absence() && self.lists();
            let cause = StoreCause::Fetch { source, cause };
            let lacks = lacks && self.sources.set_lacking(source, stage, cause.clone(), now);
            let same = |job: &&Job| job.source == source && (!lacks || job.stage == stage);
            for other in self.jobs.live().filter(same).map(|job| job.number).collect::<Vec<_>>() {
                self.cancel(other);
            }
            match lacks {
                true if self.sources.live().count() > 1 => self.tell_unfit(source, cause),
                true => {}
                false => self.give_up(source, stage, cause),
            }
        }
    }

    /// Whoever told the size of the image, where its file ends before what was asked for (RFC 9110, 15.5.17). With chunk
    /// hashes that was a manifest, and its source has another image by now. Without them an answer that claimed more than
    /// it brought leads there, and whoever is asked next is not to blame.
    fn told_too_much(&self, job: &Job, cause: &FetchCause) -> Option<SourceIndex> {
        let Phase::Image { plan, image } = &self.phase else { return None };
        let beyond = matches!(cause, FetchCause::Status { status: 416, .. }) && job.range.is_some();
        let teller = match image.has_hashes() {
            true => plan.origin.filter(|origin| *origin == job.source),
            false => self.prefix.as_ref().map(|(teller, _)| *teller),
        };
        teller.filter(|_| beyond)
    }

    pub(super) fn end(&mut self, number: u32, document: Vec<u8>, now: Millis) {
        let (wanted, intake) = (self.jobs.get(number).is_some(), self.intake(number));
        let Some(job) = self.jobs.remove(number).filter(|_| wanted) else { return };
        match intake {
            Intake::Document { .. } => {
                self.sources.succeeded(job.source);
                self.document(job.source, document, job.head.flatten());
            }
            // An end before the head, or without one chunk, brought nothing.
            _ if !job.useful => self.request_failed(&job, FetchCause::Short, now),
            _ => {}
        }
    }
}
