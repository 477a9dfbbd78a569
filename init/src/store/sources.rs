//! The sources of an image: which is asked next, which waits, which is given up, and how fast each is.

use super::Millis;
use super::locate::{self, Location};
use super::retry;
use crate::messages::{FetchCause, SourceIndex, SourceTally, StoreCause, TlsFault};
use crate::trust::SignatureFault;

/// How often a source is let off with a contradiction before it is given up: a server that is being put right may well
/// send several, and an operator who waits for a refusal has it within a dozen seconds.
const LET_OFF: u32 = 4;
/// About how long it is left alone after the first one; each further one doubles that ...
const LET_OFF_PAUSE: Millis = 500;
/// ... so many times: one that was given up is asked about once a minute while others are waited for.
const LET_OFF_DOUBLED: u32 = 7;
/// How long one that was given up for good, or does not have what is looked for, is left alone while others are waited for.
const REST: Millis = 60_000;

/// What is wrong with an answer that contradicts itself, the request or the answer before; none where a cause is of
/// another kind, and asking again would give the same.
fn contradiction(cause: &StoreCause) -> Option<FetchCause> {
    match cause {
        StoreCause::Fetch {
            cause: cause @ (FetchCause::Protocol | FetchCause::Redirect | FetchCause::Tls(TlsFault::Foreign)),
            ..
        } => Some(cause.clone()),
        StoreCause::WrongChunk { .. } | StoreCause::WrongHash { .. } | StoreCause::ChunkList { .. } => {
            Some(FetchCause::WrongBytes)
        }
        StoreCause::ManifestMalformed { .. }
        | StoreCause::ManifestOfAnotherImage { .. }
        // Manifest and signature were of two versions.
        | StoreCause::Signature { fault: SignatureFault::Altered { .. }, .. }
        | StoreCause::Empty { .. }
        | StoreCause::Truncated { .. }
        | StoreCause::NotAFilesystem { .. }
        | StoreCause::Superblock { .. } => Some(FetchCause::Protocol),
        _ => None,
    }
}

fn is_of_one_file(cause: &StoreCause) -> bool {
    matches!(cause, StoreCause::Fetch { .. } | StoreCause::Signature { fault: SignatureFault::Missing, .. })
}

fn is_gone(cause: &StoreCause) -> bool {
    matches!(cause, StoreCause::Fetch { cause, .. } if cause.is_gone())
}

/// How far a source was got with; a later stage makes its failure the more telling one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Looking for a manifest or a checksum.
    Discovery,
    /// Fetching the chunk list.
    List,
    /// Fetching the image.
    Image,
}

/// One source.
#[derive(Clone, Debug)]
pub struct Source {
    /// Its URLs.
    pub location: Location,
    /// Why nothing more is asked of it until something changes, and how far it was got with.
    out: Option<(Stage, StoreCause)>,
    /// When it is looked at again, should it be out, or lack a file.
    back: Millis,
    failures: u32,
    /// How often it contradicted itself or sent wrong bytes.
    pub contradictions: u32,
    /// How often a whole was not what it vouched for, whoever sent that.
    pub doubts: u32,
    /// Which of chunk list and image it does not have, while both are fetched.
    lacking: Option<(Stage, StoreCause)>,
    /// What was told of it last when it was found unfit.
    unfit: Option<StoreCause>,
    ready: Millis,
    /// Where it said in this round that it does not have what is looked for: until when that is believed.
    absent: Option<Millis>,
    /// Whether it answers a request for a part with the whole file.
    pub whole_only: bool,
    /// Whether it sent bytes with a wrong hash: it is not trusted with much at once any more.
    pub struck: bool,
    /// Bytes a second of one of its connections, as last seen.
    pub rate: Option<u64>,
    /// The least that was ever waited for an answer of it.
    pub delay: Option<Millis>,
    /// What it did so far.
    pub tally: SourceTally,
}

impl Source {
    fn new(url: &str) -> Self {
        Self {
            location: Location::new(url),
            out: None,
            back: 0,
            failures: 0,
            contradictions: 0,
            doubts: 0,
            lacking: None,
            unfit: None,
            ready: 0,
            absent: None,
            whole_only: false,
            struck: false,
            rate: None,
            delay: None,
            tally: SourceTally::default(),
        }
    }

    /// Whether its last request had an answer, right or wrong.
    pub fn answers(&self) -> bool {
        self.failures == 0 || self.tally.trouble == Some(FetchCause::WrongBytes)
    }

    /// Whether it does not have this file.
    pub fn lacks(&self, stage: Stage) -> bool {
        self.lacking.as_ref().is_some_and(|(lacking, _)| *lacking == stage)
    }

    /// Whether it said in this round that it does not have what is looked for.
    pub fn is_absent(&self) -> bool {
        self.absent.is_some()
    }

    /// The same, and whether that is still believed: an operator may have put it right since.
    pub fn is_absent_at(&self, now: Millis) -> bool {
        self.absent.is_some_and(|until| now < until)
    }

    /// When it is taken back that was given up, or lacks a file. Where nothing but the source itself `judged` what it
    /// brings, not for what spoke against the image.
    fn returns_at(&self, judged: bool) -> Option<Millis> {
        let may = |cause: &StoreCause| judged || is_of_one_file(cause) || contradiction(cause).is_some();
        let out = self.out.as_ref().or(self.lacking.as_ref());
        out.filter(|(_, cause)| may(cause)).map(|_| self.back)
    }

    /// Whether it is waited for.
    fn is_waited_for(&self) -> bool {
        self.out.is_none() && self.lacking.is_none() && !self.is_absent()
    }

    /// Nothing more is asked of it, but for a look now and then while others are waited for.
    fn rest(&mut self, stage: Stage, cause: StoreCause, now: Millis) {
        self.back = if contradiction(&cause).is_some() { self.ready } else { now.saturating_add(REST) };
        self.out = Some((stage, cause));
    }

    /// From when on it may be asked, and whether its last request failed.
    pub fn readiness(&self) -> (Millis, bool) {
        (self.ready, self.failures > 0)
    }
}

/// All sources, in order of preference.
#[derive(Clone, Debug)]
pub struct Sources {
    all: Vec<Source>,
    random: u64,
}

impl Sources {
    /// Sources for `urls`, at most 256; `seed` scatters the pauses.
    pub fn new(urls: &[String], seed: u64) -> Self {
        Self { all: urls.iter().take(256).map(|url| Source::new(url)).collect(), random: seed | 1 }
    }

    /// Every source, given up or not.
    pub fn all(&self) -> impl Iterator<Item = (SourceIndex, &Source)> {
        self.all.iter().enumerate().map(|(index, source)| (index as SourceIndex, source))
    }

    /// Adds folders that a manifest names as holding `image` too: each once, at most [`NAMED`], and only what may be
    /// given on the command line.
    pub fn add_folders(&mut self, folders: &[String], image: &str) {
        for url in locate::named(folders, image) {
            let known = self.all.iter().any(|source| source.location == Location::new(&url));
            if !known && self.all.len() <= usize::from(SourceIndex::MAX) {
                self.all.push(Source::new(&url));
            }
        }
    }

    /// Forgets the sources beyond the first `given`, which a manifest named that is no more.
    pub fn forget_named(&mut self, given: usize) {
        self.all.truncate(given);
    }

    /// The source of that number.
    pub fn get(&self, index: SourceIndex) -> Option<&Source> {
        self.all.get(usize::from(index))
    }

    /// The same to be changed.
    pub fn get_mut(&mut self, index: SourceIndex) -> Option<&mut Source> {
        self.all.get_mut(usize::from(index))
    }

    /// Numbers and states of those that are not given up.
    pub fn live(&self) -> impl Iterator<Item = (SourceIndex, &Source)> {
        self.all.iter().enumerate().filter(|(_, s)| s.out.is_none()).map(|(index, s)| (index as SourceIndex, s))
    }

    /// The one to ask next among those that `fits`, which ranks them (less is better); and from when on. A silent one takes
    /// longer than its pauses: of those whose pauses are over, a failure in a row counts as much as a rank.
    pub fn next(&self, now: Millis, fits: impl Fn(SourceIndex) -> Option<u32>) -> Option<(SourceIndex, Millis)> {
        self.live()
            .filter_map(|(index, source)| Some((fits(index)?, source, index)))
            .min_by_key(|(rank, source, index)| match source.ready.saturating_sub(now) {
                0 => (0, rank.saturating_add(source.failures), *index),
                pause => (pause, *rank, *index),
            })
            .map(|(_, source, index)| (index, source.ready.max(now)))
    }

    /// Notes a failure and, where it may pass, sets the pause; says until when. Requests that fail together with one
    /// that set a pause already are part of the same trouble.
    pub fn failed(&mut self, index: SourceIndex, cause: &FetchCause, now: Millis) -> Millis {
        let random = self.draw();
        let Some(source) = self.get_mut(index) else { return now };
        source.tally.failures = source.tally.failures.saturating_add(1);
        source.tally.trouble = Some(cause.clone());
        let Some(pauses) = retry::pauses(cause).filter(|_| source.ready <= now) else { return source.ready.max(now) };
        let pause = random % (pauses.ceiling(source.failures) + 1);
        if pauses.first > 0 {
            source.failures = source.failures.saturating_add(1);
        }
        source.ready = now + pause.max(pauses.wish);
        source.ready
    }

    /// How often it failed since it last gave something.
    pub fn failures(&self, index: SourceIndex) -> u32 {
        self.get(index).map_or(0, |source| source.failures)
    }

    /// It gave something of use: the next pause is a short one again.
    pub fn succeeded(&mut self, index: SourceIndex) {
        if let Some(source) = self.get_mut(index) {
            source.failures = 0;
        }
    }

    /// Nothing more is asked of it, but for a look now and then while others are waited for.
    pub fn give_up(&mut self, index: SourceIndex, stage: Stage, cause: StoreCause, now: Millis) {
        if let Some(source) = self.get_mut(index) {
            source.rest(stage, cause, now);
        }
    }

    /// Lets a source off that said what cannot be, since it may be about to be put right: an image that is being
    /// replaced, a proxy that had a bad moment. Says what to tell of it and when it may be asked again; none where the
    /// cause is of another kind, or it was let off often enough.
    pub fn second_chance(
        &mut self,
        index: SourceIndex,
        cause: &StoreCause,
        now: Millis,
    ) -> Option<(FetchCause, Millis)> {
        let told = contradiction(cause)?;
        let random = self.draw();
        let source = self.get_mut(index)?;
        let pause = LET_OFF_PAUSE << source.contradictions.min(LET_OFF_DOUBLED);
        source.contradictions = source.contradictions.saturating_add(1);
        source.tally.trouble = Some(told.clone());
        source.ready = source.ready.max(now + pause / 2 + random % pause);
        (source.contradictions <= LET_OFF).then_some((told, source.ready))
    }

    /// When the next one that was given up, or does not have what is looked for, may be asked again: while others are waited
    /// for anyway, it may be put right. Where none is left to wait for, never. Whether what they bring is `judged`: else one
    /// that was given up for what spoke against the image stays so.
    pub fn next_return(&self, judged: bool, now: Millis) -> Option<Millis> {
        self.all.iter().find(|source| source.is_waited_for())?;
        let absent = self.all.iter().filter_map(|source| source.absent).filter(|until| *until > now);
        self.all.iter().filter_map(|source| source.returns_at(judged)).chain(absent).min()
    }

    /// Takes back those that are due.
    pub fn take_back(&mut self, judged: bool, now: Millis) {
        if self.all.iter().any(Source::is_waited_for) {
            for source in &mut self.all {
                if source.returns_at(judged).is_some_and(|back| back <= now) {
                    (source.out, source.lacking) = (None, None);
                }
            }
        }
    }

    /// Notes that it is unfit; whether that is new of it.
    pub fn is_newly_unfit(&mut self, index: SourceIndex, cause: &StoreCause) -> bool {
        let unfit = self.get_mut(index).map(|source| &mut source.unfit);
        unfit.is_some_and(|unfit| unfit.replace(cause.clone()).as_ref() != Some(cause))
    }

    /// It does not have what this round looks for.
    pub fn set_absent(&mut self, index: SourceIndex, now: Millis) {
        if let Some(source) = self.get_mut(index) {
            // That was an answer.
            (source.absent, source.failures) = (Some(now.saturating_add(REST)), 0);
        }
    }

    /// A new round of looking for something else.
    pub fn next_round(&mut self) {
        for source in &mut self.all {
            source.absent = None;
            source.lacking = None;
            // One that never said a word stays behind those that did.
            if source.tally.trouble.as_ref().is_none_or(FetchCause::is_answer) {
                source.failures = 0;
            }
        }
    }

    /// Nothing of this file is asked of it any more; false where it does not have the other one either.
    pub fn set_lacking(&mut self, index: SourceIndex, stage: Stage, cause: StoreCause, now: Millis) -> bool {
        let source = self.get_mut(index).filter(|source| source.lacking.is_none() || source.lacks(stage));
        let lacks = |source: &mut Source| {
            (source.lacking, source.back) = (Some((stage, cause)), now.saturating_add(REST));
        };
        source.map(lacks).is_some()
    }

    /// Those that lack one of the two files are given up: nobody is left who has it.
    pub fn give_up_lacking(&mut self, now: Millis) {
        for source in self.all.iter_mut().filter(|source| source.out.is_none()) {
            if let Some((stage, cause)) = source.lacking.take() {
                source.rest(stage, cause, now);
            }
        }
    }

    /// The chunk list is whole: it does not matter any more who lacks it.
    pub fn list_is_whole(&mut self, now: Millis) {
        for source in self.all.iter_mut().filter(|source| source.lacks(Stage::List)) {
            source.lacking = None;
        }
        self.give_up_lacking(now);
        self.forgive_before(Stage::Image);
    }

    /// Takes back those whose failure belonged to single requests of the stages before: a source without a manifest or its
    /// signature may have the image.
    pub fn forgive_before(&mut self, stage: Stage) {
        for source in &mut self.all {
            let single = |(of, cause): &(Stage, StoreCause)| *of < stage && is_of_one_file(cause);
            if source.out.as_ref().is_some_and(single) {
                source.out = None;
            }
        }
    }

    /// Forgets everything that was held against them.
    pub fn forgive_all(&mut self) {
        for source in &mut self.all {
            source.out = None;
            source.lacking = None;
            source.absent = None;
            source.failures = 0;
            source.contradictions = 0;
            source.doubts = 0;
            source.unfit = None;
            source.ready = 0;
        }
    }

    /// Whether nothing is held against any source but that it has no such file.
    pub fn are_only_without(&self) -> bool {
        self.all.iter().filter_map(|source| source.out.as_ref()).all(|(_, cause)| is_gone(cause))
    }

    /// The most telling cause among those given up: of the one that got furthest, in order of preference; that a source
    /// has no such file tells the least.
    pub fn verdict(&self) -> Option<StoreCause> {
        let told = |(stage, cause): &(Stage, StoreCause)| (!is_gone(cause), *stage);
        let best = self.all.iter().filter_map(|source| source.out.as_ref());
        best.reduce(|best, other| if told(other) > told(best) { other } else { best }).map(|(_, cause)| cause.clone())
    }

    /// xorshift64: scatters machines, keeps no secret.
    fn draw(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn three() -> Sources {
        Sources::new(&["http://a/i".into(), "http://b/i".into(), "http://c/i".into()], 7)
    }

    #[test]
    fn each_source_is_asked_before_one_that_was_silent_is_asked_again() {
        let mut sources = three();
        let (mut now, mut asked) = (0, Vec::new());
        for _ in 0..6 {
            let (source, ready) = sources.next(now, |_| Some(0)).unwrap();
            assert_eq!(ready, now, "the pauses are over");
            asked.push(source);
            now += 10_000;
            sources.failed(source, &FetchCause::Stalled, now);
            now += 1000;
        }
        assert_eq!(asked, [0, 1, 2, 0, 1, 2]);
    }

    #[test]
    fn a_source_that_was_wrong_once_is_asked_before_one_that_is_silent_again_and_again() {
        let mut sources = three();
        let once = |index| Some(u32::from(index == 2));
        let (mut now, mut asked) = (0, Vec::new());
        for _ in 0..5 {
            let (source, _) = sources.next(now, once).unwrap();
            asked.push(source);
            now += 20_000;
            sources.failed(source, &FetchCause::Stalled, now);
            now += 15_000;
        }
        assert!(asked.contains(&2), "{asked:?}");
        // Where all pause, whoever is back first is waited for.
        let mut sources = three();
        sources.failed(0, &FetchCause::Status { status: 503, retry_after: Some(300) }, 0);
        sources.failed(1, &FetchCause::Status { status: 503, retry_after: Some(300) }, 0);
        sources.failed(2, &FetchCause::Status { status: 503, retry_after: Some(5) }, 0);
        assert_eq!(sources.next(1, once), Some((2, 5000)));
    }

    #[test]
    fn the_next_source_is_asked_at_once_while_the_first_one_pauses() {
        let mut sources = three();
        let any = |_| Some(0);
        assert_eq!(sources.next(10, any), Some((0, 10)));
        let wish = FetchCause::Status { status: 503, retry_after: Some(9) };
        sources.failed(0, &wish, 10);
        assert_eq!(sources.next(10, any), Some((1, 10)));
        sources.failed(1, &FetchCause::Status { status: 503, retry_after: Some(5) }, 10);
        sources.give_up(2, Stage::Image, StoreCause::Unverified, 0);
        assert_eq!(sources.next(10, any), Some((1, 5010)));
        assert_eq!(sources.next(9010, any), Some((0, 9010)));
    }

    #[test]
    fn pauses_grow_to_their_ceiling_and_shrink_after_success() {
        let mut sources = three();
        let mut longest = 0;
        for round in 0..200 {
            sources.get_mut(0).unwrap().ready = 0;
            let ready = sources.failed(0, &FetchCause::Refused, 0);
            assert!(ready <= 500 << round.min(5) && ready <= 15_000, "{ready} in round {round}");
            longest = longest.max(ready);
        }
        assert!(longest > 7500, "{longest}");
        sources.succeeded(0);
        sources.get_mut(0).unwrap().ready = 0;
        assert!(sources.failed(0, &FetchCause::Refused, 0) <= 500);
    }

    #[test]
    fn a_manifest_may_name_further_sources_once_and_only_fit_ones() {
        let mut sources = three();
        let folders = ["http://d/x/", "http://a", "ftp://e/", "http://u:p@f", "http://d/x", "file:///etc"];
        sources.add_folders(&folders.map(str::to_owned), "i");
        let images: Vec<String> = sources.all().map(|(_, source)| source.location.image(None)).collect();
        assert_eq!(images, ["http://a/i", "http://b/i", "http://c/i", "http://d/x/i"]);
        sources.add_folders(&(0..99).map(|n| format!("http://{n}.example")).collect::<Vec<_>>(), "i");
        assert_eq!(sources.all().count(), 4 + locate::NAMED);
        sources.forget_named(3);
        assert_eq!(sources.all().count(), 3);
    }

    #[test]
    fn requests_that_fail_together_are_one_trouble() {
        let mut sources = three();
        let until = sources.failed(0, &FetchCause::Status { status: 503, retry_after: Some(9) }, 10);
        assert_eq!(sources.failed(0, &FetchCause::Reset, 10), until);
        let tally = &sources.get(0).unwrap().tally;
        assert_eq!((sources.failures(0), tally.failures), (1, 2));
    }

    #[test]
    fn a_worker_that_died_is_not_held_against_the_source() {
        let mut sources = three();
        assert_eq!(sources.failed(0, &FetchCause::WorkerDied, 10), 10);
        assert_eq!(sources.failures(0), 0);
    }

    #[test]
    fn the_verdict_is_that_of_the_source_that_got_furthest() {
        let mut sources = three();
        let fetch =
            |source, status| StoreCause::Fetch { source, cause: FetchCause::Status { status, retry_after: None } };
        sources.give_up(0, Stage::Discovery, fetch(0, 404), 0);
        sources.give_up(1, Stage::Image, fetch(1, 416), 0);
        sources.give_up(2, Stage::Image, StoreCause::Empty { source: 2 }, 0);
        assert_eq!(sources.verdict(), Some(fetch(1, 416)));
        assert!(!sources.are_only_without());
        let mut sources = three();
        sources.give_up(0, Stage::Image, fetch(0, 404), 0);
        assert!(sources.are_only_without());
        sources.give_up(1, Stage::Discovery, fetch(1, 403), 0);
        assert!(!sources.are_only_without(), "a file that may not be read is there");
        assert_eq!(sources.verdict(), Some(fetch(1, 403)));
    }

    #[test]
    fn every_cause_is_either_passing_or_definite() {
        let status = |status| FetchCause::Status { status, retry_after: None };
        let broken = FetchCause::Tls(TlsFault::Broken);
        for passing in
            [FetchCause::Refused, FetchCause::NameServer, FetchCause::Short, broken, status(503), status(429)]
        {
            assert!(passing.is_passing() && !passing.is_absence(), "{passing:?}");
        }
        let [issuer, terms, foreign] = [TlsFault::Issuer, TlsFault::Terms, TlsFault::Foreign].map(FetchCause::Tls);
        let named = [FetchCause::NameUnknown, FetchCause::Redirect, status(401), status(416)];
        for definite in named.into_iter().chain([issuer, terms, foreign]) {
            assert!(!definite.is_passing() && !definite.is_absence(), "{definite:?}");
        }
        assert!(status(404).is_absence() && status(403).is_absence() && !status(404).is_passing());
    }
}
