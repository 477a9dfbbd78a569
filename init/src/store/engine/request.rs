//! Which request comes next, and what its answer's head means.

use super::super::Millis;
use super::super::sources::Stage;
use super::super::transfer::Transfer;
use super::{Action, Engine, Intake, Job, Link, Phase, Request, Rung};
use crate::manifest::MAX_BYTES;
use crate::messages::{FetchCause, Head, Range, SourceIndex, StoreCause, StoreNews};

/// The most bytes of a manifest, signature or checksum file; one more tells that it is too large.
pub(super) const DOCUMENT: u64 = MAX_BYTES + 1;
/// A source that might have a manifest or signature is not waited for after so many failures in a row, if there are
/// others to go by.
const PATIENCE: u32 = 2;

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
        // Each turn gives a source or a rung up, so the number of turns is bounded by theirs.
        for _ in 0..4096 {
            if self.failed
                || self.job.is_some()
                || matches!(self.phase, Phase::Recovering { .. } | Phase::Completing { .. } | Phase::Done)
            {
                return;
            }
            match self.next(now) {
                Next::Rest => return,
                Next::Exhausted => self.exhausted(),
                Next::Wait(until) => {
                    self.wake = Some(until);
                    return self.need_fetcher();
                }
                Next::Ask(source) if self.link == Link::Ready => return self.ask(source, now),
                Next::Ask(_) => return self.need_fetcher(),
            }
        }
    }

    fn need_fetcher(&mut self) {
        if self.link == Link::None {
            self.link = Link::Asked;
            self.actions.push_back(Action::News(StoreNews::NeedFetcher));
        }
    }

    fn next(&self, now: Millis) -> Next {
        let chosen = match &self.phase {
            Phase::Discovery(_) => {
                let answered = self.sources.live().any(|(_, source)| source.absent);
                self.sources.next(now, |index| {
                    let source = self.sources.get(index)?;
                    let lost = answered && self.sources.failures(index) >= PATIENCE;
                    (!source.absent && !lost).then_some(0)
                })
            }
            Phase::Signature { source, .. } => {
                let others = self.sources.live().count() > 1;
                let lost = others && self.sources.failures(*source) >= PATIENCE;
                self.sources.next(now, |index| (index == *source && !lost).then_some(0))
            }
            Phase::Opening(_) => self.sources.next(now, |_| Some(0)),
            Phase::List { list: transfer, .. } | Phase::Image { image: transfer, .. } => {
                if !self.is_admitted() {
                    return Next::Rest;
                }
                let chunk = transfer.first_missing();
                self.sources.next(now, |index| transfer.rank(chunk, index))
            }
            Phase::Recovering { .. } | Phase::Completing { .. } | Phase::Done => return Next::Rest,
        };
        match chosen {
            None => Next::Exhausted,
            Some((source, ready)) if ready <= now => Next::Ask(source),
            Some((_, ready)) => Next::Wait(ready),
        }
    }

    /// No source is left for what this phase wants.
    fn exhausted(&mut self) {
        match &self.phase {
            Phase::Discovery(rung) => self.next_rung(*rung),
            Phase::Signature { .. } => self.phase = Phase::Discovery(Rung::Manifest),
            Phase::List { plan, list, .. } => match (plan.origin, list.last_wrong(list.first_missing())) {
                (Some(origin), Some(source)) => self.blame(origin, StoreCause::ChunkList { source }),
                _ => self.give_in(),
            },
            Phase::Image { plan, image } => {
                let chunk = image.first_missing();
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
        let cause = self.sources.verdict().unwrap_or(StoreCause::Unverified);
        self.fail(cause);
    }

    fn ask(&mut self, index: SourceIndex, now: Millis) {
        let Some(source) = self.sources.get(index) else { return };
        let location = &source.location;
        let whole = |url: String, limit: u64| (url, None, None, limit);
        let (url, range, if_range, limit) = match &mut self.phase {
            Phase::Discovery(Rung::Manifest) => whole(location.manifest(), DOCUMENT),
            Phase::Discovery(Rung::Sidecar) => whole(location.sha256(), DOCUMENT),
            Phase::Discovery(Rung::Sums) => whole(location.sums(), DOCUMENT),
            Phase::Signature { .. } => whole(location.signature(), DOCUMENT),
            Phase::Opening(_) => whole(location.image(None), u64::MAX),
            Phase::List { plan, list, .. } => {
                let name = plan.manifest.as_ref().map(|manifest| manifest.name.as_str());
                list.begin();
                (location.chunks(name), part(list), None, list.size())
            }
            Phase::Image { plan, image } => {
                let name = plan.manifest.as_ref().map(|manifest| manifest.name.as_str());
                let url = location.image(name);
                image.begin();
                if image.has_hashes() {
                    (url, part(image), None, image.size())
                } else {
                    let validator = self.prefix.as_ref().filter(|(from, _)| *from == index);
                    let validator = validator.and_then(|(_, validator)| validator.clone());
                    // Bytes of two versions of a file may only meet where a hash of the whole would tell.
                    let resume = validator.is_some() || plan.whole.is_some();
                    (url, part(image).filter(|_| resume), validator.filter(|_| image.verified() > 0), u64::MAX)
                }
            }
            Phase::Recovering { .. } | Phase::Completing { .. } | Phase::Done => return,
        };
        self.jobs = self.jobs.wrapping_add(1);
        self.tally.requests = self.tally.requests.saturating_add(1);
        self.heard = now;
        let job = self.jobs;
        self.job = Some(Job { number: job, source: index, range, head: None, useful: false });
        self.actions.push_back(Action::Get(Request { job, url, range, if_range, limit }));
    }

    pub(super) fn head(&mut self, head: Head) {
        let Some(job) = &mut self.job else { return };
        job.head = Some(head.length);
        let (source, asked) = (job.source, job.range);
        let at = head.range.map_or(0, |range| range.start);
        // The fetch worker checked this; but it may be in a stranger's hands.
        if head.range.is_some_and(|range| asked.is_none_or(|asked| asked.start != range.start)) {
            return self.refuse(source, Stage::Image, StoreCause::Fetch { source, cause: FetchCause::Protocol });
        }
        match &mut self.phase {
            Phase::Discovery(_) | Phase::Signature { .. } => {}
            Phase::List { list, .. } => {
                if head.size.is_some_and(|found| found != list.size()) {
                    return self.refuse(source, Stage::List, StoreCause::ChunkList { source });
                }
            }
            Phase::Opening(_) => return self.opened(source, head),
            Phase::Image { image, .. } if image.has_hashes() => {
                let said = image.size();
                if let Some(found) = head.size.filter(|found| *found != said) {
                    let other = StoreCause::ManifestOfAnotherImage { source, said, found };
                    let cause = if found == 0 { StoreCause::Empty { source } } else { other };
                    return self.refuse(source, Stage::Image, cause);
                }
            }
            Phase::Image { image, .. } => {
                if head.size != Some(image.size()) {
                    return self.changed(source, head);
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
        if let Intake::Chunks { .. } | Intake::Hold = self.intake() {
            self.actions.push_back(Action::Receive { at });
        }
    }

    /// The size became known by the head of the first answer.
    fn opened(&mut self, source: SourceIndex, head: Head) {
        let Phase::Opening(plan) = &self.phase else { return };
        let plan = plan.clone();
        match head.size {
            None => self.refuse(source, Stage::Image, StoreCause::Fetch { source, cause: FetchCause::Protocol }),
            Some(0) => self.refuse(source, Stage::Image, StoreCause::Empty { source }),
            Some(size) => {
                self.admit(size);
                self.begin_image(plan, super::Hashes::None, size);
                self.prefix = Some((source, head.validator));
                self.actions.push_back(Action::StartOver);
                self.actions.push_back(Action::Receive { at: 0 });
            }
        }
    }

    /// Without chunk hashes: the file has another size than the bytes so far belong to.
    fn changed(&mut self, source: SourceIndex, head: Head) {
        let Phase::Image { plan, .. } = &self.phase else { return };
        self.phase = Phase::Opening(plan.clone());
        self.prefix = None;
        if head.range.is_none() {
            return self.opened(source, head);
        }
        self.cancel();
    }

    /// The answer shows that this source is of no use.
    fn refuse(&mut self, source: SourceIndex, stage: Stage, cause: StoreCause) {
        self.cancel();
        self.tally.failures = self.tally.failures.saturating_add(1);
        self.sources.give_up(source, stage, cause);
    }

    pub(super) fn request_failed(&mut self, cause: FetchCause, now: Millis) {
        let Some(job) = self.job.take() else { return };
        let source = job.source;
        let stage = match &self.phase {
            Phase::Discovery(_) | Phase::Signature { .. } => Stage::Discovery,
            Phase::List { .. } => Stage::List,
            _ => Stage::Image,
        };
        if cause.is_passing() {
            self.tally.failures = self.tally.failures.saturating_add(1);
            self.sources.failed(source, &cause, now);
            let until = self.sources.next(now, |_| Some(0)).map_or(now, |(_, ready)| ready);
            let pause_ms = u32::try_from(until - now).unwrap_or(u32::MAX);
            self.actions.push_back(Action::News(StoreNews::Trouble { source, cause, pause_ms }));
        } else if stage == Stage::Discovery {
            self.no_document(source, cause);
        } else {
            self.tally.failures = self.tally.failures.saturating_add(1);
            self.sources.give_up(source, stage, StoreCause::Fetch { source, cause: cause.clone() });
            if self.sources.live().next().is_some() {
                self.actions.push_back(Action::News(StoreNews::Trouble { source, cause, pause_ms: 0 }));
            }
        }
    }

    pub(super) fn end(&mut self, document: Vec<u8>, now: Millis) {
        match self.intake() {
            Intake::Document { .. } => {
                let Some(job) = self.job.take() else { return };
                self.sources.succeeded(job.source);
                self.document(job.source, document, job.head.flatten());
            }
            // An end before the head, or without one chunk, brought nothing.
            _ if self.job.as_ref().is_some_and(|job| !job.useful) => self.request_failed(FetchCause::Short, now),
            _ => self.job = None,
        }
    }
}

/// The range to ask for; none where the whole file is missing, which servers without ranges understand too.
fn part(transfer: &Transfer) -> Option<Range> {
    transfer.missing().filter(|range| (range.start, range.end) != (0, transfer.size()))
}
