//! What is done with the news of a store that streams: by PID 1 until the hand-over, then by the keeper.

use crate::causes;
use crate::failure::Failure;
use crate::messages::{FetchCause, Left, SourceIndex, StoreCause, StoreNews, StoreOrder, Tally};
use crate::progress::Progress;
use crate::settings::source::Source;
use crate::store::LONG;
use std::time::{Duration, Instant};

/// How long a definite failure is let rest: somebody has to put something right, and then it goes on.
const REST: Duration = Duration::from_secs(10);

/// Where the streaming stands.
#[derive(Debug)]
pub struct Attendant {
    /// What it is called on the console.
    name: String,
    sources: Vec<Source>,
    kernel: String,
    progress: Progress,
    last: Option<(SourceIndex, FetchCause)>,
    failed: Option<StoreCause>,
    again: Option<Instant>,
    /// Whether the store waits for the word that the image may be held.
    admits: bool,
    tally: Tally,
    /// Since when something waits to be read.
    waits: Option<Instant>,
    /// Whether the loop device stands on the image itself.
    pub released: bool,
}

impl Attendant {
    /// For what is called `name`, from `sources`, of which `tally` came before, on a kernel of that release.
    pub fn new(name: String, sources: Vec<Source>, kernel: String, tally: Tally) -> Self {
        Self {
            progress: Progress::new(name.clone(), Instant::now()),
            name,
            sources,
            kernel,
            last: None,
            failed: None,
            again: None,
            admits: false,
            tally,
            waits: None,
            released: false,
        }
    }

    /// What a keeper has to know of it.
    pub fn left(&self, traced: bool) -> Left {
        Left {
            name: self.name.clone(),
            sources: self.sources.iter().map(|source| source.as_str().to_owned()).collect(),
            tally: self.tally,
            traced,
            fetcher: false,
            asked: false,
        }
    }

    /// What it is called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What came so far.
    pub fn tally(&self) -> Tally {
        self.tally
    }

    /// Bytes that have not come.
    pub fn to_come(&self) -> u64 {
        self.tally.total.saturating_sub(self.tally.verified)
    }

    /// Since when something waits to be read.
    pub fn waits(&self) -> Option<Instant> {
        self.waits
    }

    /// Whether something has waited for `limit` to be read: of that it was told after [`LONG`].
    pub fn has_waited(&self, limit: Duration, now: Instant) -> bool {
        self.waits.is_some_and(|since| now.saturating_duration_since(since) + LONG >= limit)
    }

    /// What was to be read has not come within the `seconds` of `rootbeam.timeout=`.
    pub fn too_late(&self, seconds: u32) -> Failure {
        causes::too_late(seconds, self.last.as_ref(), &self.sources)
    }

    fn last_trouble(&self) -> String {
        match &self.last {
            Some((source, cause)) => {
                format!(
                    "the last trouble was with {}: {}",
                    causes::named(&self.sources, *source),
                    causes::fetch_text(cause)
                )
            }
            None => "no server has failed so far".to_owned(),
        }
    }

    /// Takes up one piece of news.
    pub fn hear(&mut self, news: StoreNews, now: Instant) {
        match news {
            StoreNews::Progress(tally) => {
                self.tally = tally;
                if let Some(line) = self.progress.line(now, &tally) {
                    log::info!("{line}");
                }
            }
            StoreNews::Trouble { source, cause, pause_ms } => {
                let trouble = (source, cause);
                // Once: it may last for hours.
                if self.last.as_ref() != Some(&trouble) {
                    log::warn!("{}", causes::trouble(&trouble, &self.sources, pause_ms, true));
                    self.last = Some(trouble);
                }
            }
            StoreNews::Unfit { source, cause } => {
                let failure = causes::store(&cause, &self.sources, &self.kernel);
                log::warn!("{}", causes::unfit(source, &self.sources, &failure));
            }
            StoreNews::Warning(warning) => log::warn!("{}", causes::warning(&warning, &self.sources)),
            StoreNews::Done { tally, .. } => {
                self.tally = tally;
                log::info!("{}: all of it is in memory", self.name);
            }
            StoreNews::Failed(cause) => {
                // Once: it may last until a person does something.
                if self.failed.as_ref() != Some(&cause) {
                    let failure = causes::store(&cause, &self.sources, &self.kernel);
                    log::error!("{failure} What is read meanwhile waits.");
                    self.failed = Some(cause);
                }
                self.again = Some(now + REST);
            }
            StoreNews::ReadWaits => {
                // Once: when that one goes on, another may have waited for long as well.
                if self.waits.replace(now).is_none() {
                    log::warn!(
                        "{}: something waits to be read that has not come yet, and goes on when a server brings it; {}",
                        self.name,
                        self.last_trouble()
                    );
                }
            }
            StoreNews::ReadGoesOn => {
                self.waits = None;
                log::warn!("{}: what waited to be read has come; it goes on", self.name);
            }
            StoreNews::Released => {
                self.released = true;
                log::info!(
                    "{}: the RAM disk stands by itself; server and network are not needed for it any more",
                    self.name
                );
            }
            StoreNews::NotReleased { errno } => {
                let error = std::io::Error::from_raw_os_error(errno);
                log::warn!(
                    "{}: it is whole, but goes on being served by a process: LOOP_CHANGE_FD: {error}",
                    self.name
                );
            }
            // It was weighed before; a store that looks at its sources anew, or a successor, asks again.
            StoreNews::Size { bytes } => self.admits = bytes == self.tally.total,
            StoreNews::NeedFetcher
            | StoreNews::Answered
            | StoreNews::Time { .. }
            | StoreNews::Source { .. }
            | StoreNews::Opened { .. }
            | StoreNews::Touched { .. }
            | StoreNews::Lost
            | StoreNews::Absent => {}
        }
    }

    /// When [`Self::order`] has something.
    pub fn due(&self) -> Option<Instant> {
        self.again
    }

    /// What the store is told now.
    pub fn order(&mut self, now: Instant) -> Option<StoreOrder> {
        if std::mem::take(&mut self.admits) {
            return Some(StoreOrder::Admitted);
        }
        let due = self.again.is_some_and(|due| due <= now);
        due.then(|| {
            self.again = None;
            StoreOrder::Again
        })
    }
}
