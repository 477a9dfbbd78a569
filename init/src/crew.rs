//! PID 1 and its workers: started, listened to, started again, ended. Single-threaded; nothing here waits without
//! a bound.

use crate::contract::{RING_BYTES, fd, role};
use crate::failure::{Failure, Step};
use crate::messages::{NetNews, NetOrder, StoreNews, StoreOrder};
use crate::modules::Uevent;
use crate::sys::channel::{self, Channel, Received};
use crate::sys::memory;
use crate::sys::uevent::{Received as Announced, UeventSocket};
use crate::sys::worker::{self, Exit, Worker};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// What PID 1 hears.
#[derive(Debug)]
pub enum News {
    /// From the net worker.
    Net(NetNews),
    /// From the store.
    Store(StoreNews),
    /// The kernel announced a device.
    Device(Uevent),
    /// The kernel had to drop announcements: look at all devices again.
    DevicesLost,
}

/// Restarts of one worker after which something is wrong that another start does not mend.
const RESTARTS: u32 = 5;

/// The kernel's announcements are at most 2048 bytes of environment and a header (UEVENT_BUFFER_SIZE).
const UEVENT_BYTES: usize = 4096;

/// A worker with a channel, and the orders that a successor needs to take up its work.
struct Member<Order, Report> {
    role: &'static str,
    worker: Worker,
    channel: Channel<Order, Report>,
    standing_orders: Vec<Order>,
    restarts: u32,
}

/// The workers, the images' memory and the ring between store and fetch.
pub struct Crew {
    net: Member<NetOrder, NetNews>,
    store: Option<Member<StoreOrder, StoreNews>>,
    fetch: Fetch,
    /// One an image, in the order of the fetches; the last is the one being filled.
    images: Vec<OwnedFd>,
    ring: OwnedFd,
    devices: Option<UeventSocket>,
    restarts: u32,
}

/// The fetch worker's state: it may die at any time, and is started when the store asks for one. The number counts
/// its deaths.
enum Fetch {
    /// None is there, and none was asked for.
    Absent(u32),
    /// One works.
    Running(Worker, u32),
    /// One was killed, since the store asked for another.
    Ending(Worker, u32),
    /// One is started at that time.
    Due(Instant, u32),
}

impl Crew {
    /// Starts the net worker; store and fetch come with [`Crew::begin`].
    pub fn start() -> Result<Self, Failure> {
        let images = vec![new_image()?];
        let ring = memory::create_sized("rootbeam-ring", RING_BYTES).map_err(|e| broken("memfd", &e))?;
        let net = Member::start(role::NET, &[])?;
        let devices = UeventSocket::open()
            .map_err(|e| log::warn!("devices that appear from now on are not seen: uevent socket: {e}"))
            .ok();
        Ok(Self { net, store: None, fetch: Fetch::Absent(0), images, ring, devices, restarts: 0 })
    }

    /// The memory of each image that was begun, in that order.
    pub fn images(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.images.iter().map(AsFd::as_fd)
    }

    /// From here on image `number` is fetched, from 0: the store of the one before ends, and it gets memory of its own.
    /// Changes nothing where that is so already.
    pub fn turn_to_image(&mut self, number: usize) -> Result<(), Failure> {
        if self.images.len() > number {
            return Ok(());
        }
        let patience = Instant::now() + Duration::from_secs(2);
        // The store first: it may still be telling its fetch worker to go.
        if let Some(store) = self.store.take() {
            let _ = store.channel.send(&StoreOrder::Finish);
            await_end(&store.worker, patience).map_err(|e| broken(role::STORE, &e))?;
        }
        if let Some(fetch) = std::mem::replace(&mut self.fetch, Fetch::Absent(0)).into_worker() {
            fetch.kill();
            await_end(&fetch, patience).map_err(|e| broken(role::FETCH, &e))?;
        }
        self.images.push(new_image()?);
        Ok(())
    }

    /// How many workers died and were started again.
    pub fn restarts(&self) -> u32 {
        self.restarts
    }

    /// Sends an order to the net worker; it is repeated to a successor.
    pub fn order_network(&mut self, order: NetOrder) -> Result<(), Failure> {
        if matches!(order, NetOrder::Up { .. }) {
            self.net.standing_orders = vec![order.clone()];
        }
        self.net.send(&order)
    }

    /// Starts store and fetch, without work yet: their start is hidden behind the wait for the network.
    pub fn begin(&mut self) -> Result<(), Failure> {
        if self.store.is_none() {
            self.store = Some(Member::start(role::STORE, &descriptors(&self.images, &self.ring))?);
        }
        Ok(())
    }

    /// Sends an order to the store; `Start` is repeated to a successor.
    pub fn order_store(&mut self, order: StoreOrder) -> Result<(), Failure> {
        self.begin()?;
        let Some(store) = &mut self.store else { return Ok(()) };
        if matches!(order, StoreOrder::Start(_)) {
            store.standing_orders = vec![order.clone()];
        }
        store.send(&order)
    }

    /// The next news, or none at `deadline`. Workers that die meanwhile are started again.
    pub fn next(&mut self, deadline: Instant) -> Result<Option<News>, Failure> {
        loop {
            if let Some(news) = self.heard()? {
                return Ok(Some(news));
            }
            self.tend()?;
            let now = Instant::now();
            if now >= deadline {
                return Ok(None);
            }
            let until = match self.fetch {
                Fetch::Due(when, _) => deadline.min(when),
                _ => deadline,
            };
            let mut watched = vec![self.net.channel.as_fd(), self.net.worker.as_fd()];
            if let Some(store) = &self.store {
                watched.extend([store.channel.as_fd(), store.worker.as_fd()]);
            }
            if let Fetch::Running(worker, _) | Fetch::Ending(worker, _) = &self.fetch {
                watched.push(worker.as_fd());
            }
            watched.extend(self.devices.as_ref().map(AsFd::as_fd));
            let bound = until.saturating_duration_since(now).min(Duration::from_secs(1));
            channel::wait(&watched, bound).map_err(|e| broken("poll", &e))?;
        }
    }

    /// One message that is there already.
    fn heard(&mut self) -> Result<Option<News>, Failure> {
        if let Some(news) = self.net.heard()? {
            return Ok(Some(News::Net(news)));
        }
        while let Some(news) = self.store.as_mut().map(Member::heard).transpose()?.flatten() {
            if !matches!(news, StoreNews::NeedFetcher) {
                return Ok(Some(News::Store(news)));
            }
            self.renew_fetch();
        }
        while let Some(devices) = &self.devices {
            match devices.receive(UEVENT_BYTES).map_err(|e| broken("uevent socket", &e))? {
                Announced::Nothing => break,
                Announced::Lost => return Ok(Some(News::DevicesLost)),
                Announced::Packet(packet) => {
                    if let Some(uevent) = Uevent::parse(&packet) {
                        return Ok(Some(News::Device(uevent)));
                    }
                }
            }
        }
        Ok(None)
    }

    /// Reaps what ended and starts what is due.
    fn tend(&mut self) -> Result<(), Failure> {
        if let Some(exit) = self.net.worker.ended().map_err(|e| broken(role::NET, &e))? {
            self.net.replace(exit, &[])?;
            self.restarts += 1;
        }
        if let Some(store) = &mut self.store
            && let Some(exit) = store.worker.ended().map_err(|e| broken(role::STORE, &e))?
        {
            // Its successor asks for a fetch worker of its own.
            if let Some(fetch) = std::mem::replace(&mut self.fetch, Fetch::Absent(0)).into_worker() {
                fetch.kill();
                await_end(&fetch, Instant::now()).map_err(|e| broken(role::FETCH, &e))?;
            }
            store.replace(exit, &descriptors(&self.images, &self.ring))?;
            self.restarts += 1;
        }
        self.tend_fetch()
    }

    fn tend_fetch(&mut self) -> Result<(), Failure> {
        match &self.fetch {
            Fetch::Running(worker, deaths) | Fetch::Ending(worker, deaths) => {
                let Some(exit) = worker.ended().map_err(|e| broken(role::FETCH, &e))? else { return Ok(()) };
                let mut deaths = *deaths;
                // It ends with 0 when the store has closed its channel: there is nothing more to do.
                if exit != Exit::Status(0) {
                    log::warn!("worker {} {exit}; what it fetched is kept", role::FETCH);
                    deaths = deaths.saturating_add(1);
                    self.restarts += 1;
                }
                let asked = matches!(self.fetch, Fetch::Ending(..));
                self.fetch = Fetch::Absent(deaths);
                if asked {
                    self.renew_fetch();
                }
                Ok(())
            }
            Fetch::Due(when, deaths) if Instant::now() >= *when => self.start_fetch(*deaths),
            Fetch::Due(..) | Fetch::Absent(_) => Ok(()),
        }
    }

    /// The store asks for a fetch worker: it has none, or one that does not answer.
    fn renew_fetch(&mut self) {
        self.fetch = match std::mem::replace(&mut self.fetch, Fetch::Absent(0)) {
            Fetch::Absent(deaths) => {
                // The first successor comes at once; one that keeps dying is not let burn the machine.
                let pause = Duration::from_millis(100) * deaths.saturating_sub(1).min(50);
                Fetch::Due(Instant::now() + pause, deaths)
            }
            Fetch::Running(worker, deaths) => {
                worker.kill();
                Fetch::Ending(worker, deaths)
            }
            waiting @ (Fetch::Ending(..) | Fetch::Due(..)) => waiting,
        }
    }

    fn start_fetch(&mut self, deaths: u32) -> Result<(), Failure> {
        let Some(store) = &self.store else { return Ok(()) };
        let (for_store, for_fetch) = channel::raw_pair().map_err(|e| broken("socketpair", &e))?;
        let descriptors = [(for_fetch.as_fd(), fd::STORE_CHANNEL), (self.ring.as_fd(), fd::RING)];
        let worker = worker::start(role::FETCH, &descriptors).map_err(|e| broken(role::FETCH, &e))?;
        self.fetch = Fetch::Running(worker, deaths);
        // A store that does not read is seen by its end or by the boot's time-out; the order is not lost twice.
        if let Err(e) = store.channel.send_with(&StoreOrder::Fetcher, for_store.as_fd()) {
            log::debug!("worker {}: {e}", role::STORE);
        }
        Ok(())
    }

    /// Ends all workers and waits until they are gone, at most two seconds; a worker that does not go is killed.
    /// The images' memory stays.
    pub fn dismiss(mut self) -> Result<Vec<OwnedFd>, Failure> {
        let _ = self.net.channel.send(&NetOrder::Finish);
        if let Some(store) = &self.store {
            let _ = store.channel.send(&StoreOrder::Finish);
        }
        let mut workers = vec![self.net.worker];
        workers.extend(self.store.take().map(|store| store.worker));
        if let Some(fetch) = self.fetch.into_worker() {
            // It holds nothing and would wait for an order.
            fetch.kill();
            workers.push(fetch);
        }
        let patience = Instant::now() + Duration::from_secs(2);
        for worker in workers {
            await_end(&worker, patience).map_err(|e| broken("worker", &e))?;
        }
        worker::reap_orphans();
        Ok(self.images)
    }
}

/// An image's memory, empty.
fn new_image() -> Result<OwnedFd, Failure> {
    memory::create("rootbeam-image").map_err(|e| broken("memfd", &e))
}

/// What the store brings along: the memory of the image being filled, and the ring.
fn descriptors<'a>(images: &'a [OwnedFd], ring: &'a OwnedFd) -> Vec<(BorrowedFd<'a>, i32)> {
    let image = images.last().map(|image| (image.as_fd(), fd::IMAGE));
    image.into_iter().chain([(ring.as_fd(), fd::RING)]).collect()
}

impl Fetch {
    /// The process, where there is one.
    fn into_worker(self) -> Option<Worker> {
        match self {
            Self::Running(worker, _) | Self::Ending(worker, _) => Some(worker),
            Self::Absent(_) | Self::Due(..) => None,
        }
    }
}

/// Waits for a worker's end until `patience`, then kills it and waits one second more.
fn await_end(worker: &Worker, patience: Instant) -> io::Result<()> {
    for limit in [patience, Instant::now().max(patience) + Duration::from_secs(1)] {
        loop {
            if worker.ended()?.is_some() {
                return Ok(());
            }
            let left = limit.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            channel::wait(&[worker.as_fd()], left)?;
        }
        worker.kill();
    }
    Ok(())
}

impl<Order: serde::Serialize + Clone, Report: serde::de::DeserializeOwned> Member<Order, Report> {
    fn start(role: &'static str, more: &[(BorrowedFd<'_>, i32)]) -> Result<Self, Failure> {
        let (worker, channel) = Self::spawn(role, more)?;
        Ok(Self { role, worker, channel, standing_orders: Vec::new(), restarts: 0 })
    }

    fn spawn(role: &'static str, more: &[(BorrowedFd<'_>, i32)]) -> Result<(Worker, Channel<Order, Report>), Failure> {
        let (channel, theirs) = channel::pair().map_err(|e| broken("socketpair", &e))?;
        let mut descriptors = vec![(theirs.as_fd(), fd::CHANNEL)];
        descriptors.extend_from_slice(more);
        let worker = worker::start(role, &descriptors).map_err(|e| broken(role, &e))?;
        Ok((worker, channel))
    }

    fn send(&self, order: &Order) -> Result<(), Failure> {
        match self.channel.send(order) {
            Ok(()) => Ok(()),
            // Its end is about to be seen; a successor gets the standing orders.
            Err(channel::SendError::Closed) => Ok(()),
            Err(e) => Err(broken(self.role, &e)),
        }
    }

    fn heard(&mut self) -> Result<Option<Report>, Failure> {
        match self.channel.receive().map_err(|e| broken(self.role, &e))? {
            Received::Message(report, _) => Ok(Some(report)),
            Received::Empty | Received::Closed => Ok(None),
            Received::Malformed(e) => {
                // A worker that talks nonsense may have been taken over: it is replaced like one that died.
                log::warn!("worker {}: {e}; it is ended", self.role);
                self.worker.kill();
                Ok(None)
            }
        }
    }

    /// Starts a successor with the standing orders.
    fn replace(&mut self, exit: Exit, more: &[(BorrowedFd<'_>, i32)]) -> Result<(), Failure> {
        self.restarts += 1;
        if self.restarts > RESTARTS {
            let cause = format!("it {exit}, for the {}th time", self.restarts);
            let remedy = "report this as a bug, with the log; a reboot may help";
            return Err(Failure::new(Step::Worker, self.role, cause, remedy));
        }
        log::warn!("worker {} {exit}; it is started again", self.role);
        (self.worker, self.channel) = Self::spawn(self.role, more)?;
        self.standing_orders.iter().try_for_each(|order| self.send(order))
    }
}

fn broken(object: &str, error: &dyn std::error::Error) -> Failure {
    let remedy = "give the machine more RAM, or report this as a bug with the log";
    Failure::new(Step::Worker, object, error.to_string(), remedy)
}
