//! What is left of PID 1 while an image is streamed: it starts fetch workers anew, tells how far the image is, and ends
//! the workers and itself when the RAM disk stands by itself.

use super::attendant::Attendant;
use super::ending::{self, Ending};
use super::trace::Recorder;
use super::{FOLDER, PIDS, PROGRAM, STATUS, TRACE};
use crate::boot_order::Subject;
use crate::contract::{fd, role};
use crate::crew::Fetcher;
use crate::messages::{KeeperNews, NetNews, NetOrder, StoreNews, StoreOrder, Tally};
use crate::settings::Settings;
use crate::settings::values::StreamStall;
use crate::store::LONG;
use crate::sys::channel::{Channel, Received, wait};
use crate::sys::inherited;
use crate::sys::machine::Restart;
use crate::sys::tree::Root;
use crate::sys::worker::{Program, Worker};
use serde::{Deserialize, Serialize};
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

/// How often the status is written while something comes.
const OFTEN: Duration = Duration::from_secs(1);

/// The status file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Whether the RAM disk stands by itself, and server and network are not needed any more.
    pub complete: bool,
    /// Bytes of the image.
    pub total: u64,
    /// Bytes of it that are in memory, verified.
    pub verified: u64,
    /// Bytes that came over the wire for it.
    pub fetched: u64,
    /// Whether something has waited for seconds to be read.
    #[serde(default)]
    pub waits: bool,
}

/// What the keeper holds.
struct Keeper {
    /// PID 1, until it was told that this process has begun.
    ready: Option<Channel<KeeperNews, Tally>>,
    store: Channel<StoreOrder, StoreNews>,
    net: Channel<NetOrder, NetNews>,
    fetcher: Fetcher,
    folder: Root,
    attendant: Attendant,
    /// What a sysvinit tells its run level in.
    run: Root,
    ending: Ending,
    /// After that a read fails, while the system runs.
    eio: Option<u32>,
    recorder: Option<Recorder>,
    /// How long something may wait to be read, and what then restarts the machine.
    reboot: Option<(Duration, Restart)>,
    written: Option<(Instant, Status)>,
}

/// Runs the keeper, whose descriptors are those of [`fd`], and who takes over `running` where a fetch worker runs; returns
/// its exit status.
pub fn main(settings: Settings, kernel: String, running: Option<Worker>) -> i32 {
    match Keeper::new(settings, kernel, running).and_then(|mut keeper| keeper.run()) {
        Ok(()) => 0,
        Err(error) => {
            log::error!("{}: {error}; the streamed image cannot be completed: reboot", role::KEEPER);
            1
        }
    }
}

impl Keeper {
    fn new(settings: Settings, kernel: String, running: Option<Worker>) -> io::Result<Self> {
        let program = Program::Open(inherited::take(fd::PROGRAM)?);
        let ready = Channel::from_fd(inherited::take(fd::READY)?);
        let Received::Message(came, _) = ready.receive()? else { return Err(io::ErrorKind::InvalidInput.into()) };
        Ok(Self {
            ready: Some(ready),
            store: Channel::from_fd(inherited::take(fd::STORE_CHANNEL)?),
            net: Channel::from_fd(inherited::take(fd::NET_CHANNEL)?),
            fetcher: Fetcher::new(running, inherited::take(fd::RING)?, program),
            folder: Root::from_fd(inherited::take(fd::FOLDER)?),
            run: Root::from_fd(inherited::take(fd::RUN)?),
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
            attendant: Attendant::new(settings.image, kernel, came),
            recorder: settings
                .stream_trace
                .map(|seconds| Recorder::new(Instant::now(), Duration::from_secs(seconds.into()))),
            written: None,
        })
    }

    fn run(&mut self) -> io::Result<()> {
        // PID 1 waits for this before it deletes the files that this process has begun with.
        if let Some(ready) = self.ready.take() {
            ready.send(&KeeperNews::Begun).map_err(io::Error::other)?;
        }
        while !self.attendant.released {
            self.turn()?;
        }
        self.tell(Instant::now());
        // Nobody else is left to do it.
        for name in [PROGRAM, PIDS, ending::RUNNING] {
            let _ = self.folder.remove(Path::new(name));
        }
        let _ = self.store.send(&StoreOrder::Finish);
        let _ = self.net.send(&NetOrder::Finish);
        self.fetcher.vacate();
        Ok(())
    }

    fn turn(&mut self) -> io::Result<()> {
        loop {
            match self.store.receive()? {
                Received::Message(StoreNews::NeedFetcher, _) => self.fetcher.renew(),
                Received::Message(StoreNews::Touched { size, chunk_size, sha256, chunks }, _) => {
                    self.record(Subject { size, chunk_size, sha256 }, &chunks);
                }
                Received::Message(news, _) => self.attendant.hear(news, Instant::now()),
                Received::Empty => break,
                Received::Closed | Received::Malformed(_) => return Err(io::Error::other("the store has ended")),
            }
        }
        // What the net worker says of leases is of no use any more: it keeps the one there is.
        while let Received::Message(..) = self.net.receive()? {}
        self.fetcher.tend(&self.store)?;
        let now = Instant::now();
        if let (Some((limit, restart)), Some(since)) = (&self.reboot, self.attendant.waits())
            && now.saturating_duration_since(since) + LONG >= *limit
        {
            log::error!("image: what is to be read does not come: the machine restarts");
            restart.now()?;
        }
        if let Some(order) = self.attendant.order(now) {
            let _ = self.store.send(&order);
        }
        self.heed_shutdown();
        if let Some(recorder) = &mut self.recorder
            && recorder.order(now).is_some_and(|order| self.store.send(&order).is_err())
        {
            recorder.unsent(now);
        }
        if self.written.as_ref().is_none_or(|(when, _)| now.saturating_duration_since(*when) >= OFTEN) {
            self.tell(now);
        }
        let recorder = self.recorder.as_ref().and_then(Recorder::due);
        let until = [self.fetcher.due(), self.attendant.due(), recorder].into_iter().flatten().min();
        let bound = until.map_or(OFTEN, |until| until.saturating_duration_since(now).min(OFTEN));
        let mut watched = vec![self.store.as_fd()];
        watched.extend(self.fetcher.watched());
        wait(&watched, bound).map(drop)
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
        let _ = self.store.send(&StoreOrder::Patience { eio_seconds });
    }

    /// Writes what is read first.
    fn record(&mut self, subject: Subject, chunks: &[u32]) {
        let Some(recorder) = &mut self.recorder else { return };
        let Some(text) = recorder.hear(subject, chunks, Instant::now()) else { return };
        match self.folder.replace(Path::new(TRACE), text.as_bytes()) {
            Err(error) => log::warn!("{}: {TRACE}: {error}", role::KEEPER),
            Ok(()) if recorder.has_ended() => {
                log::info!("image: what the system read first is in {FOLDER}/{TRACE}, for `rootbeam trace`");
            }
            Ok(()) => {}
        }
    }

    /// Writes the status where it changed.
    fn tell(&mut self, now: Instant) {
        let Tally { total, verified, fetched, .. } = self.attendant.tally();
        let waits = self.attendant.waits().is_some();
        let status = Status { complete: self.attendant.released, total, verified, fetched, waits };
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
