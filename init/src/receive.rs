//! The step that gets an image into memory: PID 1's side of it.

use crate::admission::{self, Admitted, Memory};
use crate::causes;
use crate::clock;
use crate::crew::{Crew, News};
use crate::failure::{Failure, Step};
use crate::layers::Order;
use crate::messages::{
    FetchCause, ImageFacts, SourceIndex, SourceTally, StoreCause, StoreNews, StoreOrder, Tally, Wanted,
};
use crate::modules::Modules;
use crate::network;
use crate::progress::Progress;
use crate::root;
use crate::settings::Settings;
use crate::settings::values::Mode;
use crate::streaming;
use crate::streaming::streams::Streams;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

/// A verified image in the crew's memory, or one of which each byte is verified before anybody reads it. Only `receive`
/// makes one, and only one can be mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// What it is.
    pub facts: ImageFacts,
    /// How it came.
    pub tally: Tally,
    /// What each source did that was asked.
    pub sources: BTreeMap<SourceIndex, SourceTally>,
    /// The overlay that fits beside it, and whether that is tight.
    pub admitted: Admitted,
    /// Memory before its first byte.
    pub before: Memory,
    /// How much of it is there.
    pub held: Held,
}

/// How much of an image is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Held {
    /// All of it, sealed.
    Whole {
        /// Why it was loaded before it is used, where somebody asked for it to be streamed.
        because: Option<String>,
    },
    /// What was read so far; the rest comes while it is used.
    Streaming,
}

/// How a download ended.
#[derive(Debug)]
pub enum Arrival {
    /// With the image, or without where that is known to be absent.
    Image(Option<Box<Received>>),
    /// By a link that had its turn it does not come: by the one that took its place it is to be begun anew.
    Turned,
}

/// A size that was found to fit.
#[derive(Debug)]
struct Weighed {
    bytes: u64,
    admitted: Admitted,
    /// Memory before its first byte, whatever its size was then: what is being filled counts itself from then on.
    before: Memory,
}

/// Where the download stands over retries of the boot.
#[derive(Debug, Default)]
pub struct Download {
    started: bool,
    admitted: Option<Weighed>,
    last: Option<(SourceIndex, FetchCause)>,
    tally: Tally,
    sources: BTreeMap<SourceIndex, SourceTally>,
    /// Why it is not streamed, where it could be by what it is.
    obstacle: Option<String>,
}

impl Download {
    /// Fetches, or goes on where the last call stopped, until the image is complete, or known to be absent. While no source
    /// answers, the links take turns. Ends at `deadline`, which is that of `rootbeam.timeout=`.
    pub fn run(
        &mut self,
        crew: &mut Crew,
        modules: &mut Modules,
        settings: &Settings,
        (number, order, wanted): (usize, &Order, &Wanted),
        streams: &mut Streams,
        deadline: Option<Instant>,
    ) -> Result<Arrival, Failure> {
        if !self.started {
            crew.order_store(number, StoreOrder::Start(wanted.clone()))?;
            self.started = true;
        } else {
            crew.order_store(number, StoreOrder::Again)?;
        }
        let mut progress = Progress::new(order.name(), Instant::now());
        loop {
            let now = Instant::now();
            crew.turn_links(false, now)?;
            if deadline.is_some_and(|deadline| now >= deadline) {
                let failure = causes::too_late(settings.timeout.unwrap_or(0), self.last.as_ref(), &order.sources);
                return Err(Failure { remedy: order.worded(&failure.remedy), ..failure });
            }
            for (number, order) in streams.orders(now) {
                crew.order_store(number, order)?;
            }
            let tick = now + Duration::from_secs(1);
            match crew.next(deadline.map_or(tick, |deadline| deadline.min(tick)))? {
                Some(News::Store(_, StoreNews::Answered)) => crew.keep_link()?,
                Some(News::Store(other, news)) if other != number => streams.hear(other, news, Instant::now()),
                Some(News::Store(_, StoreNews::Size { bytes })) => {
                    self.admit(bytes, settings, order, streams)?;
                    crew.order_store(number, StoreOrder::Admitted)?;
                }
                Some(News::Store(_, StoreNews::Progress(tally))) => {
                    self.tally = tally;
                    if let Some(line) = progress.line(now, &tally) {
                        log::info!("{line}");
                    }
                }
                Some(News::Store(_, StoreNews::Trouble { source, cause, pause_ms })) => {
                    let trouble = (source, cause);
                    let fresh = self.last.as_ref() != Some(&trouble);
                    log::warn!("{}", order.worded(&causes::trouble(&trouble, &order.sources, pause_ms, fresh)));
                    self.last = Some(trouble);
                }
                Some(News::Store(_, StoreNews::Unfit { source, cause })) => {
                    let failure = order.failure(&cause, wanted.kernel.as_str());
                    log::warn!("{}", causes::unfit(source, &order.sources, &failure));
                    if let StoreCause::Fetch { source, cause } = cause {
                        self.last = Some((source, cause));
                    }
                }
                Some(News::Store(_, StoreNews::Warning(warning))) => {
                    log::warn!("{}", causes::warning(&warning, &order.sources));
                }
                Some(News::Store(_, StoreNews::Time { seconds })) => {
                    if let Some(line) = clock::raise_to_server(seconds) {
                        log::info!("{line}");
                    }
                }
                Some(News::Store(_, StoreNews::Source { source, tally })) => {
                    self.sources.insert(source, tally);
                }
                Some(News::Store(_, StoreNews::Done { facts, tally })) => {
                    let Some(Weighed { admitted, before, .. }) = self.admitted.take() else {
                        return Err(unasked("it filled memory that was not admitted"));
                    };
                    let sources = std::mem::take(&mut self.sources);
                    let held = Held::Whole { because: streaming::reason(settings, &facts, self.obstacle.take()) };
                    let received = Received { facts, tally, sources, admitted, before, held };
                    return Ok(Arrival::Image(Some(Box::new(received))));
                }
                Some(News::Store(_, StoreNews::Absent)) if order.optional => return Ok(Arrival::Image(None)),
                Some(News::Store(_, StoreNews::Absent)) => return Err(unasked("it takes a required image for absent")),
                Some(News::Store(_, StoreNews::Failed(cause))) => {
                    let failure = order.failure(&cause, wanted.kernel.as_str());
                    network::turn_away(crew, modules, settings, streams, failure, deadline)?;
                    return Ok(Arrival::Turned);
                }
                Some(News::Store(_, StoreNews::Opened { facts })) => {
                    let manifest = facts.manifest;
                    if let Some((manifest, received)) = manifest.zip(self.open(facts, modules, settings)) {
                        crew.order_store(number, StoreOrder::Keep { manifest })?;
                        return Ok(Arrival::Image(Some(Box::new(received))));
                    }
                }
                Some(News::Store(
                    _,
                    StoreNews::NeedFetcher
                    | StoreNews::Released
                    | StoreNews::Touched { .. }
                    | StoreNews::NotReleased { .. }
                    | StoreNews::Lost
                    | StoreNews::ReadWaits
                    | StoreNews::ReadGoesOn,
                )) => {}
                Some(news) => {
                    if let Some(turn) = network::attend(crew, modules, settings, &news)? {
                        log::warn!("{turn}");
                        if !turn.came {
                            return Ok(Arrival::Turned);
                        }
                    }
                }
                None => {}
            }
        }
    }

    /// What is to be known of it where it is begun anew in the same memory.
    pub fn anew(&mut self) -> Self {
        Self { admitted: self.admitted.take(), ..Self::default() }
    }

    /// The image can be served before it is whole: it is, unless something is against that.
    fn open(&mut self, facts: ImageFacts, modules: &mut Modules, settings: &Settings) -> Option<Received> {
        if settings.mode == Mode::Ram {
            return None;
        }
        self.obstacle = streaming::obstacle(&facts, modules);
        if self.obstacle.is_some() {
            return None;
        }
        let Weighed { admitted, before, .. } = self.admitted.take()?;
        let sources = std::mem::take(&mut self.sources);
        Some(Received { facts, tally: self.tally, sources, admitted, before, held: Held::Streaming })
    }

    /// Weighs image against memory: once for a size, again where the server's file became another one.
    fn admit(&mut self, bytes: u64, settings: &Settings, order: &Order, streams: &Streams) -> Result<(), Failure> {
        let before = match &self.admitted {
            Some(weighed) if weighed.bytes == bytes => return Ok(()),
            Some(weighed) => weighed.before,
            None => {
                let now = measure()?;
                let available = now.available.saturating_sub(streams.to_come());
                Memory { available, ..now }.in_mode(settings.mode, root::given_back())
            }
        };
        let admitted = admission::weigh(bytes, before, settings.reserve, settings.overlay);
        let admitted = admitted.map_err(|failure| order.refused_size(failure))?;
        if let Some(warning) = &admitted.warning {
            log::warn!("{warning}");
        }
        self.admitted = Some(Weighed { bytes, admitted, before });
        Ok(())
    }
}

/// The store says `Done` only after `Admitted`, and `Absent` only of what is optional.
fn unasked(cause: &str) -> Failure {
    let remedy = "report this as a bug, with the log";
    Failure::new(Step::Worker, crate::contract::role::STORE, cause, remedy)
}

/// Memory now.
pub fn measure() -> Result<Memory, Failure> {
    let read = std::fs::read(Path::new("/proc/meminfo")).ok();
    read.and_then(|text| Memory::parse(&text)).ok_or_else(|| {
        let remedy = "use a kernel of version 3.14 or newer with /proc";
        Failure::new(Step::Memory, "/proc/meminfo", "it says nothing of available memory", remedy)
    })
}
