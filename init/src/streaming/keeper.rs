//! What is left of PID 1 while an image is streamed: it starts fetch workers anew, tells how far the image is, and ends
//! the workers and itself when the RAM disk stands by itself.

use super::attendant::Attendant;
use super::ending::{self, Ending};
use super::trace::Recorder;
use super::{FOLDER, PIDS, PROGRAM, STALLED, STATUS, TRACE};
use crate::boot_order::Subject;
use crate::contract::{RESOLVER, fd, role};
use crate::crew::Fetcher;
use crate::messages::{KeeperNews, KeeperOrder, Left, NetNews, NetOrder, StoreNews, StoreOrder, Tally};
use crate::network;
use crate::settings::Settings;
use crate::settings::source::Source;
use crate::settings::values::StreamStall;
use crate::sys::channel::{Channel, Received, wait};
use crate::sys::inherited;
use crate::sys::machine::Restart;
use crate::sys::tree::Root;
use crate::sys::worker::{Program, Worker};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// How often the status is written while something comes.
const OFTEN: Duration = Duration::from_secs(1);

/// The status file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Whether the RAM disks stand by themselves, and server and network are not needed any more.
    pub complete: bool,
    /// Bytes of the images.
    pub total: u64,
    /// Bytes of them that are in memory, verified.
    pub verified: u64,
    /// Bytes that came over the wire for them.
    pub fetched: u64,
    /// Whether something has waited for seconds to be read.
    #[serde(default)]
    pub waits: bool,
    /// Whether a RAM disk is dead: what was not read of it before cannot be read any more.
    #[serde(default)]
    pub lost: bool,
}

/// One image that is left to the keeper.
struct Tended {
    store: Channel<StoreOrder, StoreNews>,
    fetcher: Fetcher,
    attendant: Attendant,
    recorder: Option<Recorder>,
}

/// What the keeper holds.
struct Keeper {
    /// The images that are not whole yet.
    images: Vec<Tended>,
    /// What came of those that are.
    whole: Vec<Tally>,
    net: Channel<NetOrder, NetNews>,
    folder: Root,
    /// What a sysvinit tells its run level in.
    run: Root,
    /// What the fetch workers' names are found by.
    resolver: File,
    ending: Ending,
    /// After that a read fails, while the system runs.
    eio: Option<u32>,
    /// How long something may wait to be read, and what then restarts the machine.
    reboot: Option<(Duration, Restart)>,
    /// Whether a RAM disk is dead.
    lost: bool,
    written: Option<(Instant, Status)>,
}

/// Runs the keeper, whose descriptors are those of [`fd`], on a kernel of that release; returns its exit status.
pub fn main(settings: &Settings, kernel: &str) -> i32 {
    // PID 1 waits until it is told that this process has begun, before it deletes the files that it has begun with.
    let begun = inherited::take(fd::READY).map(Channel::from_fd).and_then(|ready: Channel<KeeperNews, KeeperOrder>| {
        let keeper = Keeper::new(&ready, settings, kernel)?;
        ready.send(&KeeperNews::Begun).map_err(io::Error::other)?;
        Ok(keeper)
    });
    match begun.and_then(Keeper::run) {
        Ok(()) => 0,
        Err(error) => {
            log::error!(
                "{}: {error}; what was not read before cannot be read any more, and nothing on this machine mends that: \
                 restart it",
                role::KEEPER
            );
            1
        }
    }
}

impl Tended {
    /// The image at `place` in the order of the leaving, whose fetch workers to come are `program`.
    fn new(left: Left, place: i32, program: Program, settings: &Settings, kernel: &str) -> io::Result<Self> {
        let numbers = fd::Left::at(place);
        let running = left.fetcher.then(|| inherited::take(numbers.fetch).map(Worker::adopted)).transpose()?;
        let sources = left.sources.iter().map(|source| Source::parse(source)).collect::<Result<_, _>>();
        let sources = sources.map_err(|_| io::ErrorKind::InvalidInput)?;
        let trace = settings.stream_trace.filter(|_| left.traced);
        let mut fetcher = Fetcher::new(running, inherited::take(numbers.ring)?, program);
        if left.asked {
            fetcher.renew();
        }
        Ok(Self {
            store: Channel::from_fd(inherited::take(numbers.store)?),
            fetcher,
            attendant: Attendant::new(left.name, sources, kernel.to_owned(), left.tally),
            recorder: trace.map(|seconds| Recorder::new(Instant::now(), Duration::from_secs(seconds.into()))),
        })
    }

    /// Takes up what the store says and does what is due; what was read first is written into `folder`.
    fn tend(&mut self, folder: &Root) -> io::Result<()> {
        loop {
            match self.store.receive()? {
                Received::Message(StoreNews::NeedFetcher, _) => self.fetcher.renew(),
                Received::Message(StoreNews::Touched { size, chunk_size, sha256, chunks }, _) => {
                    self.record(Subject { size, chunk_size, sha256 }, &chunks, folder);
                }
                Received::Message(StoreNews::Lost, _) => {
                    return Err(self.lost("what its RAM disk stands on is not served any more"));
                }
                Received::Message(news, _) => self.attendant.hear(news, Instant::now()),
                Received::Empty => break,
                Received::Closed | Received::Malformed(_) => return Err(self.lost("its store has ended")),
            }
        }
        self.fetcher.tend(&self.store)?;
        let now = Instant::now();
        if let Some(order) = self.attendant.order(now) {
            let _ = self.store.send(&order);
        }
        if let Some(recorder) = &mut self.recorder
            && recorder.order(now).is_some_and(|order| self.store.send(&order).is_err())
        {
            recorder.unsent(now);
        }
        Ok(())
    }

    /// Its RAM disk is dead before all of it was in memory.
    fn lost(&self, cause: &str) -> io::Error {
        io::Error::other(format!("{}: {cause}", self.attendant.name()))
    }

    /// Writes what is read first.
    fn record(&mut self, subject: Subject, chunks: &[u32], folder: &Root) {
        let Some(recorder) = &mut self.recorder else { return };
        let Some(text) = recorder.hear(subject, chunks, Instant::now()) else { return };
        match folder.replace(Path::new(TRACE), text.as_bytes()) {
            Err(error) => log::warn!("{}: {TRACE}: {error}", role::KEEPER),
            Ok(()) if recorder.has_ended() => {
                log::info!("image: what the system read first is in {FOLDER}/{TRACE}, for `rootbeam trace`");
            }
            Ok(()) => {}
        }
    }

    /// When [`Self::tend`] has something to do.
    fn due(&self) -> Option<Instant> {
        let recorder = self.recorder.as_ref().and_then(Recorder::due);
        [self.fetcher.due(), self.attendant.due(), recorder].into_iter().flatten().min()
    }

    /// Its workers end; what came.
    fn finish(mut self) -> Tally {
        let _ = self.store.send(&StoreOrder::Finish);
        self.fetcher.vacate();
        self.attendant.tally()
    }
}

impl Keeper {
    /// With what PID 1 leaves.
    fn new(line: &Channel<KeeperNews, KeeperOrder>, settings: &Settings, kernel: &str) -> io::Result<Self> {
        let program = Program::Open(inherited::take(fd::PROGRAM)?);
        let mut images = Vec::new();
        for place in 0.. {
            match line.receive()? {
                Received::Message(KeeperOrder::Image(left), _) => {
                    images.push(Tended::new(left, place, program.another()?, settings, kernel)?);
                }
                Received::Message(KeeperOrder::Begin, _) => break,
                Received::Empty | Received::Closed | Received::Malformed(_) => {
                    return Err(io::ErrorKind::InvalidInput.into());
                }
            }
        }
        Ok(Self {
            images,
            whole: Vec::new(),
            net: Channel::from_fd(inherited::take(fd::NET_CHANNEL)?),
            folder: Root::from_fd(inherited::take(fd::FOLDER)?),
            run: Root::from_fd(inherited::take(fd::RUN)?),
            resolver: inherited::take(fd::RESOLVER)?.into(),
            ending: Ending::default(),
            eio: match settings.stream_stall {
                StreamStall::Eio(seconds) => Some(seconds),
                StreamStall::Wait | StreamStall::Reboot(_) => None,
            },
            reboot: match settings.stream_stall {
                StreamStall::Reboot(seconds) => {
                    Some((Duration::from_secs(seconds.into()), Restart::from_fd(inherited::take(fd::RESTART)?)))
                }
                StreamStall::Wait | StreamStall::Eio(_) => None,
            },
            lost: false,
            written: None,
        })
    }

    fn run(mut self) -> io::Result<()> {
        // The real init, which has links of its own, is about to run.
        let _ = self.net.send(&NetOrder::Share);
        while !self.images.is_empty() {
            if let Err(error) = self.turn() {
                self.lost = true;
                self.tell(Instant::now());
                return Err(error);
            }
        }
        self.tell(Instant::now());
        // Nobody else is left to do it.
        for name in [PROGRAM, PIDS, ending::RUNNING] {
            let _ = self.folder.remove(Path::new(name));
        }
        let _ = self.net.send(&NetOrder::Finish);
        Ok(())
    }

    fn turn(&mut self) -> io::Result<()> {
        self.images.iter_mut().try_for_each(|image| image.tend(&self.folder))?;
        while let Some(place) = self.images.iter().position(|image| image.attendant.released) {
            let released = self.images.remove(place);
            self.whole.push(released.finish());
        }
        while let Received::Message(news, _) = self.net.receive()? {
            self.heed(&news);
        }
        let now = Instant::now();
        if let Some((limit, restart)) = &self.reboot
            && self.images.iter().any(|image| image.attendant.has_waited(*limit, now))
        {
            log::error!("{STALLED}");
            restart.now()?;
        }
        self.heed_shutdown();
        if self.written.as_ref().is_none_or(|(when, _)| now.saturating_duration_since(*when) >= OFTEN) {
            self.tell(now);
        }
        if self.images.is_empty() {
            return Ok(());
        }
        let until = self.images.iter().filter_map(Tended::due).min();
        let bound = until.map_or(OFTEN, |until| until.saturating_duration_since(now).min(OFTEN));
        let stores = self.images.iter().map(|image| image.store.as_fd());
        let watched: Vec<_> = stores.chain(self.images.iter().filter_map(|image| image.fetcher.watched())).collect();
        wait(&watched, bound).map(drop)
    }

    /// The net worker keeps the lease by itself; what it says of it is written down for the fetch workers.
    fn heed(&self, news: &NetNews) {
        let (NetNews::Up(lease) | NetNews::Renewed(lease)) = news else { return };
        if lease.dns.is_empty() {
            return;
        }
        let text = network::resolv_conf(lease.domain.as_ref(), &lease.dns);
        // In place: the workers' roots show this very file. It never is without a server.
        let written = self.resolver.write_all_at(text.as_bytes(), 0);
        if let Err(error) = written.and_then(|()| self.resolver.set_len(text.len() as u64)) {
            log::warn!("{}: {RESOLVER}: {error}", role::KEEPER);
        }
    }

    /// Since when something waits to be read.
    fn waits(&self) -> Option<Instant> {
        self.images.iter().filter_map(|image| image.attendant.waits()).min()
    }

    /// While the system shuts down nothing waits for long: what has not come by then mostly will not, and a process that
    /// waits for it cannot be ended.
    fn heed_shutdown(&mut self) {
        // Neither is ever on the image, so neither look waits. What of utmp counts is at its beginning.
        let running = self.folder.exists(Path::new(ending::RUNNING));
        let utmp = self.run.read(Path::new(ending::UTMP), 64 << 10).ok().flatten().unwrap_or_default();
        if !self.ending.look(running, &utmp) {
            return;
        }
        let limit = u32::try_from(ending::PATIENCE.as_secs()).unwrap_or(u32::MAX);
        let eio_seconds = if self.ending.now {
            log::warn!("image: the system shuts down before it is whole: what has not come is not waited for any more");
            Some(self.eio.map_or(limit, |eio| eio.min(limit)))
        } else {
            self.eio
        };
        for image in &self.images {
            let _ = image.store.send(&StoreOrder::Patience { eio_seconds });
        }
    }

    /// Writes the status where it changed.
    fn tell(&mut self, now: Instant) {
        let tallies = || self.whole.iter().copied().chain(self.images.iter().map(|image| image.attendant.tally()));
        let sum = |of: fn(Tally) -> u64| tallies().map(of).sum();
        let status = Status {
            complete: self.images.is_empty(),
            total: sum(|tally| tally.total),
            verified: sum(|tally| tally.verified),
            fetched: sum(|tally| tally.fetched),
            waits: self.waits().is_some(),
            lost: self.lost,
        };
        if self.written.as_ref().is_some_and(|(_, told)| *told == status) {
            return;
        }
        if let Ok(mut text) = serde_json::to_vec(&status) {
            text.push(b'\n');
            if let Err(error) = self.folder.replace(Path::new(STATUS), &text) {
                log::warn!("{}: {STATUS}: {error}", role::KEEPER);
            }
        }
        self.written = Some((now, status));
    }
}
