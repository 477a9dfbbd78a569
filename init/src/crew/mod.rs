//! PID 1 and its workers: started, listened to, started again, ended. Single-threaded; nothing here waits without
//! a bound.

mod fetcher;

use crate::contract::{RING_BYTES, fd, role};
use crate::failure::{Failure, Step};
use crate::messages::{KeeperNews, NetNews, NetOrder, StoreNews, StoreOrder, Tally};
use crate::modules::Uevent;
use crate::sys::channel::{self, Channel, Received};
use crate::sys::memory;
use crate::sys::uevent::{Received as Announced, UeventSocket};
use crate::sys::worker::{self, Exit, Program, Worker};
pub use fetcher::Fetcher;
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
    fetcher: Fetcher,
    /// One an image, in the order of the fetches; the last is the one being filled.
    images: Vec<OwnedFd>,
    program: Program,
    devices: Option<UeventSocket>,
    restarts: u32,
}

impl Crew {
    /// Starts the net worker, all workers being `program`; store and fetch come with [`Crew::begin`].
    pub fn start(program: Program) -> Result<Self, Failure> {
        let images = vec![new_image()?];
        let ring = memory::create_sized("rootbeam-ring", RING_BYTES).map_err(|e| broken("memfd", &e))?;
        let net = Member::start(&program, role::NET, &[])?;
        let fetcher = Fetcher::new(None, ring, program.another().map_err(|e| broken(role::FETCH, &e))?);
        let devices = UeventSocket::open()
            .map_err(|e| log::warn!("devices that appear from now on are not seen: uevent socket: {e}"))
            .ok();
        Ok(Self { net, store: None, fetcher, images, program, devices, restarts: 0 })
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
        if let Some(fetch) = self.fetcher.vacate() {
            await_end(&fetch, patience).map_err(|e| broken(role::FETCH, &e))?;
        }
        self.images.push(new_image()?);
        Ok(())
    }

    /// How many workers died and were started again.
    pub fn restarts(&self) -> u32 {
        self.restarts + self.fetcher.restarts()
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
            let descriptors = descriptors(&self.images, self.fetcher.ring());
            self.store = Some(Member::start(&self.program, role::STORE, &descriptors)?);
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

    /// Sends an order to the store with a descriptor; a successor could do nothing with it.
    pub fn order_store_with(&mut self, order: &StoreOrder, descriptor: BorrowedFd<'_>) -> Result<(), Failure> {
        match &self.store {
            Some(store) => store.channel.send_with(order, descriptor).map_err(|e| broken(role::STORE, &e)),
            None => Ok(()),
        }
    }

    /// The next news, or none at `deadline`. Workers that die meanwhile are started again.
    pub fn next(&mut self, deadline: Instant) -> Result<Option<News>, Failure> {
        self.next_beside(deadline, &[])
    }

    /// The same, and none as well when one of `beside` is readable.
    pub fn next_beside(&mut self, deadline: Instant, beside: &[BorrowedFd<'_>]) -> Result<Option<News>, Failure> {
        loop {
            if let Some(news) = self.heard()? {
                return Ok(Some(news));
            }
            self.tend()?;
            let now = Instant::now();
            if now >= deadline {
                return Ok(None);
            }
            let until = self.fetcher.due().map_or(deadline, |due| deadline.min(due));
            let mut watched = beside.to_vec();
            watched.extend([self.net.channel.as_fd(), self.net.worker.as_fd()]);
            if let Some(store) = &self.store {
                watched.extend([store.channel.as_fd(), store.worker.as_fd()]);
            }
            watched.extend(self.fetcher.watched());
            watched.extend(self.devices.as_ref().map(AsFd::as_fd));
            let bound = until.saturating_duration_since(now).min(Duration::from_secs(1));
            let readable = channel::wait(&watched, bound).map_err(|e| broken("poll", &e))?;
            if readable.iter().take(beside.len()).any(|readable| *readable) {
                return self.heard();
            }
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
            self.fetcher.renew();
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
            self.net.replace(&self.program, exit, &[])?;
            self.restarts += 1;
        }
        if let Some(store) = &mut self.store
            && let Some(exit) = store.worker.ended().map_err(|e| broken(role::STORE, &e))?
        {
            // Its successor asks for a fetch worker of its own.
            if let Some(fetch) = self.fetcher.vacate() {
                await_end(&fetch, Instant::now()).map_err(|e| broken(role::FETCH, &e))?;
            }
            store.replace(&self.program, exit, &descriptors(&self.images, self.fetcher.ring()))?;
            self.restarts += 1;
        }
        match &self.store {
            Some(store) => self.fetcher.tend(&store.channel).map_err(|e| broken(role::FETCH, &e)),
            None => Ok(()),
        }
    }

    /// Leaves the workers to a keeper, who works with `tools` beside the booted system until the image is whole, of which
    /// `tally` came so far. Returns when it can do without the files of the initramfs, at most after five seconds, and with
    /// the numbers of the processes that the image depends on.
    pub fn leave(self, tools: &[(BorrowedFd<'_>, i32)], tally: Tally) -> Result<Vec<i32>, Failure> {
        let failed = |e: io::Error| broken(role::KEEPER, &e);
        let (Some(store), Program::Open(program)) = (&self.store, &self.program) else {
            return Err(failed(io::ErrorKind::NotFound.into()));
        };
        let (line, childs) = channel::pair::<Tally, KeeperNews>().map_err(failed)?;
        line.send(&tally).map_err(|e| broken(role::KEEPER, &e))?;
        let mut descriptors = vec![
            (store.channel.as_fd(), fd::STORE_CHANNEL),
            (childs.as_fd(), fd::READY),
            (self.fetcher.ring().as_fd(), fd::RING),
            (self.net.channel.as_fd(), fd::NET_CHANNEL),
            (program.as_fd(), fd::PROGRAM),
        ];
        descriptors.extend_from_slice(tools);
        descriptors.extend(self.fetcher.watched().map(|worker| (worker, fd::FETCH)));
        let keeper = worker::start(&self.program, role::KEEPER, &descriptors).map_err(failed)?;
        drop(childs);
        let patience = Instant::now() + Duration::from_secs(5);
        loop {
            match line.receive().map_err(failed)? {
                Received::Message(KeeperNews::Begun, _) => {
                    return Ok([&self.net.worker, &store.worker, &keeper]
                        .into_iter()
                        .filter_map(Worker::pid)
                        .collect());
                }
                Received::Empty if Instant::now() < patience => {}
                _ => {
                    let end =
                        keeper.ended().map_err(failed)?.map_or("does not begin".to_owned(), |end| end.to_string());
                    return Err(failed(io::Error::other(format!("it {end}"))));
                }
            }
            let left = patience.saturating_duration_since(Instant::now());
            channel::wait(&[line.as_fd(), keeper.as_fd()], left).map_err(failed)?;
        }
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
        workers.extend(self.fetcher.vacate());
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
    fn start(program: &Program, role: &'static str, more: &[(BorrowedFd<'_>, i32)]) -> Result<Self, Failure> {
        let (worker, channel) = Self::spawn(program, role, more)?;
        Ok(Self { role, worker, channel, standing_orders: Vec::new(), restarts: 0 })
    }

    fn spawn(
        program: &Program,
        role: &'static str,
        more: &[(BorrowedFd<'_>, i32)],
    ) -> Result<(Worker, Channel<Order, Report>), Failure> {
        let (channel, theirs) = channel::pair().map_err(|e| broken("socketpair", &e))?;
        let mut descriptors = vec![(theirs.as_fd(), fd::CHANNEL)];
        descriptors.extend_from_slice(more);
        let worker = worker::start(program, role, &descriptors).map_err(|e| broken(role, &e))?;
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
    fn replace(&mut self, program: &Program, exit: Exit, more: &[(BorrowedFd<'_>, i32)]) -> Result<(), Failure> {
        self.restarts += 1;
        if self.restarts > RESTARTS {
            let cause = format!("it {exit}, for the {}th time", self.restarts);
            let remedy = "report this as a bug, with the log; a reboot may help";
            return Err(Failure::new(Step::Worker, self.role, cause, remedy));
        }
        log::warn!("worker {} {exit}; it is started again", self.role);
        (self.worker, self.channel) = Self::spawn(program, self.role, more)?;
        self.standing_orders.iter().try_for_each(|order| self.send(order))
    }
}

fn broken(object: &str, error: &dyn std::error::Error) -> Failure {
    let remedy = "give the machine more RAM, or report this as a bug with the log";
    Failure::new(Step::Worker, object, error.to_string(), remedy)
}
