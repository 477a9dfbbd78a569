//! PID 1 and its workers: started, listened to, started again, ended. Single-threaded; nothing here waits without
//! a bound.

mod fetcher;
mod member;
mod team;

use crate::contract::{fd, role};
use crate::failure::{Failure, Step};
use crate::label::Label;
use crate::messages::{KeeperNews, KeeperOrder, Lease, Left, NetNews, NetOrder, StoreNews, StoreOrder};
use crate::modules::Uevent;
use crate::sys::channel::{self, Received, SendError};
use crate::sys::uevent::{Received as Announced, UeventSocket};
use crate::sys::worker::{self, Program, Worker};
use crate::turns::{Turn, Turns};
pub use fetcher::Fetcher;
use member::Member;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};
use team::{Team, Workers};

/// What PID 1 hears.
#[derive(Debug)]
pub enum News {
    /// From the net worker.
    Net(NetNews),
    /// From the store of the image of that number.
    Store(usize, StoreNews),
    /// The kernel announced a device.
    Device(Uevent),
    /// The kernel had to drop announcements: look at all devices again.
    DevicesLost,
}

/// The kernel's announcements are at most 2048 bytes of environment and a header (UEVENT_BUFFER_SIZE).
const UEVENT_BYTES: usize = 4096;

/// The workers and the images' memory.
pub struct Crew {
    net: Member<NetOrder, NetNews>,
    /// One an image, in the order of the fetches; at least one.
    teams: Vec<Team>,
    program: Program,
    devices: Option<UeventSocket>,
    restarts: u32,
    /// The lease that came last, until somebody takes note of it.
    pub lease: Option<Lease>,
    /// Whose turn it is among the links.
    pub turns: Turns,
    /// Turns that ended as none of theirs did before, until somebody takes note of them.
    pub turned: Vec<Turn>,
}

impl Crew {
    /// Starts the net worker, all workers being `program`; store and fetch come with [`Crew::begin`].
    pub fn start(program: Program) -> Result<Self, Failure> {
        let teams = vec![Team::new(&program)?];
        let net = Member::start(&program, role::NET, &[])?;
        let devices = UeventSocket::open()
            .map_err(|e| log::warn!("devices that appear from now on are not seen: uevent socket: {e}"))
            .ok();
        Ok(Self {
            net,
            teams,
            program,
            devices,
            restarts: 0,
            lease: None,
            turns: Turns::new(false, 0, Duration::ZERO, None),
            turned: Vec::new(),
        })
    }

    /// The memory of each image that was begun, in that order.
    pub fn images(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.teams.iter().map(|team| team.image.as_fd())
    }

    /// Image `number`, from 0, is fetched as well from here on. Changes nothing where that is so already.
    pub fn turn_to_image(&mut self, number: usize) -> Result<(), Failure> {
        while self.teams.len() <= number {
            self.teams.push(Team::new(&self.program)?);
        }
        Ok(())
    }

    /// What was begun of image `number` is begun anew, by other workers: those before may wait for what never comes.
    pub fn begin_anew(&mut self, number: usize) -> Result<(), Failure> {
        if let Some(team) = self.teams.get_mut(number) {
            self.restarts += team.begin_anew(&self.program)?;
        }
        Ok(())
    }

    /// Image `number` is done with: its workers end, its memory stays.
    pub fn finish_image(&mut self, number: usize) -> Result<(), Failure> {
        if let Some(team) = self.teams.get_mut(number) {
            self.restarts += team.end()?;
        }
        Ok(())
    }

    /// How many workers died and were started again.
    pub fn restarts(&self) -> u32 {
        let working = self.teams.iter().filter_map(|team| team.workers.as_ref());
        self.restarts + working.map(|workers| workers.fetcher.restarts()).sum::<u32>()
    }

    /// Sends an order to the net worker; it is repeated to a successor.
    pub fn order_network(&mut self, order: NetOrder) -> Result<(), Failure> {
        if matches!(order, NetOrder::Up { .. }) {
            self.net.standing_orders = vec![order.clone()];
        }
        self.net.send(&order)
    }

    /// Has the net worker ask by other links where it is time for that: at once where the boot `failed` by the present one.
    pub fn turn_links(&mut self, failed: bool, now: Instant) -> Result<(), Failure> {
        let order = self.turns.order(failed, now);
        self.pass_on(order)
    }

    /// A source has answered: the link by which it did is kept.
    pub fn keep_link(&mut self) -> Result<(), Failure> {
        let order = self.turns.reached();
        self.pass_on(order)
    }

    /// A lease came on `link`: the turn of another one that ended so.
    pub fn lease_came(&mut self, link: &Label, now: Instant) -> Result<Option<Turn>, Failure> {
        let (order, turn) = self.turns.leased(link, now);
        self.turned.extend(turn.iter().filter(|turn| !turn.again).cloned());
        self.pass_on(order)?;
        Ok(turn)
    }

    /// The boot is tried again: where no source has answered by the present link, each may have its turn again.
    pub fn turn_links_anew(&mut self, now: Instant) -> Result<(), Failure> {
        let order = self.turns.anew(now);
        self.pass_on(order)
    }

    fn pass_on(&mut self, order: Option<NetOrder>) -> Result<(), Failure> {
        order.map_or(Ok(()), |order| self.order_network(order))
    }

    /// Starts the store of the image that is next, without work yet: its start is hidden behind the wait for the network.
    pub fn begin(&mut self) -> Result<(), Failure> {
        self.teams.last_mut().map_or(Ok(()), |team| team.begin(&self.program))
    }

    /// Sends an order to the store of an image; `Start` and `Keep` are repeated to a successor.
    pub fn order_store(&mut self, image: usize, order: StoreOrder) -> Result<(), Failure> {
        let Some(team) = self.teams.get_mut(image) else { return Ok(()) };
        team.begin(&self.program)?;
        let Some(store) = team.store() else { return Ok(()) };
        match order {
            StoreOrder::Start(_) => store.standing_orders = vec![order.clone()],
            StoreOrder::Keep { .. } => store.standing_orders.push(order.clone()),
            _ => {}
        }
        store.send(&order)
    }

    /// Sends an order to the store of an image with a descriptor; a successor could do nothing with it.
    pub fn order_store_with(
        &mut self,
        image: usize,
        order: &StoreOrder,
        descriptor: BorrowedFd<'_>,
    ) -> Result<(), Failure> {
        let workers = self.teams.get_mut(image).and_then(|team| team.workers.as_mut());
        let Some(Workers { store: Some(store), serves, .. }) = workers else { return Ok(()) };
        *serves |= matches!(order, StoreOrder::Serve { .. });
        match store.channel.send_with(order, descriptor) {
            // Its end is about to be seen.
            Ok(()) | Err(SendError::Closed) => Ok(()),
            Err(e) => Err(broken(role::STORE, &e)),
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
            let due = self.teams.iter().filter_map(Team::due).min();
            let until = due.map_or(deadline, |due| deadline.min(due));
            let mut watched = beside.to_vec();
            watched.extend([self.net.channel.as_fd(), self.net.worker.as_fd()]);
            watched.extend(self.teams.iter().flat_map(Team::watched));
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
        for (image, team) in self.teams.iter_mut().enumerate() {
            if let Some(news) = team.heard()? {
                return Ok(Some(News::Store(image, news)));
            }
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
        if let Some(exit) = self.net.ended()? {
            self.net.replace(&self.program, exit, &[])?;
            self.restarts += 1;
        }
        for team in &mut self.teams {
            self.restarts += team.tend(&self.program)?;
        }
        Ok(())
    }

    /// Fails where a store has ended that a RAM disk stands on.
    pub fn check(&self) -> Result<(), Failure> {
        self.teams.iter().try_for_each(Team::check)
    }

    /// Leaves the workers of these images to a keeper, who works with `tools` beside the booted system until the images are
    /// whole; all others have ended. Returns when it can do without the files of the initramfs, at most after five seconds,
    /// and with the numbers of the processes that the images depend on.
    pub fn leave(self, tools: &[(BorrowedFd<'_>, i32)], images: Vec<(usize, Left)>) -> Result<Vec<i32>, Failure> {
        let failed = |e: io::Error| broken(role::KEEPER, &e);
        let Program::Open(program) = &self.program else {
            return Err(failed(io::ErrorKind::NotFound.into()));
        };
        // The root may have been found fit while its store ended: who warms it takes no notice of what cannot be read.
        self.check()?;
        let (line, childs) = channel::pair::<KeeperOrder, KeeperNews>().map_err(failed)?;
        let mut descriptors = vec![
            (childs.as_fd(), fd::READY),
            (self.net.channel.as_fd(), fd::NET_CHANNEL),
            (program.as_fd(), fd::PROGRAM),
        ];
        descriptors.extend_from_slice(tools);
        let mut vital = vec![&self.net.worker];
        for (place, (image, left)) in (0..).zip(images) {
            let workers = self.teams.get(image).and_then(|team| team.workers.as_ref());
            let Some(Workers { store: Some(store), fetcher, .. }) = workers else {
                return Err(failed(io::ErrorKind::NotFound.into()));
            };
            let numbers = fd::Left::at(place);
            descriptors.extend([(store.channel.as_fd(), numbers.store), (fetcher.ring().as_fd(), numbers.ring)]);
            descriptors.extend(fetcher.watched().map(|worker| (worker, numbers.fetch)));
            vital.push(&store.worker);
            let left = Left { fetcher: fetcher.worker().is_some(), asked: fetcher.is_asked_for(), ..left };
            line.send(&KeeperOrder::Image(left)).map_err(|e| broken(role::KEEPER, &e))?;
        }
        line.send(&KeeperOrder::Begin).map_err(|e| broken(role::KEEPER, &e))?;
        let keeper = worker::start(&self.program, role::KEEPER, &descriptors).map_err(failed)?;
        vital.push(&keeper);
        drop(childs);
        let patience = Instant::now() + Duration::from_secs(5);
        loop {
            match line.receive().map_err(failed)? {
                Received::Message(KeeperNews::Begun, _) => {
                    return Ok(vital.into_iter().filter_map(Worker::pid).collect());
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
        let mut workers = vec![self.net.worker];
        workers.extend(self.teams.iter_mut().flat_map(Team::dismiss));
        let patience = Instant::now() + Duration::from_secs(2);
        for worker in workers {
            worker.await_end(patience).map_err(|e| broken("worker", &e))?;
        }
        worker::reap_orphans();
        Ok(self.teams.into_iter().map(|team| team.image).collect())
    }
}

fn broken(object: &str, error: &dyn std::error::Error) -> Failure {
    let remedy = "give the machine more RAM, or report this as a bug with the log";
    Failure::new(Step::Worker, object, error.to_string(), remedy)
}
