//! The root of a streamed image. Looking at it may wait for the network, for as long as that takes: a child does it, and
//! PID 1 goes on printing and tending its workers.

use super::{STALLED, ending, warm};
use crate::aftermath;
use crate::contract::STREAM_FILE;
use crate::crew::{Crew, News};
use crate::failure::{Failure, Step};
use crate::image::{self, Mounted};
use crate::machine::Machine;
use crate::messages::{Lease, StoreNews, StoreOrder};
use crate::network;
use crate::receive::Held;
use crate::root;
use crate::settings::values::StreamStall;
use crate::sys::channel::{self, Channel, Received as Packet};
use crate::sys::loopdev::{LoopDevice, Reads};
use crate::sys::machine::End;
use crate::sys::{fuse, mounts, worker};
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Where the served files are mounted.
const SERVED: &str = "/run/rootbeam/served";

/// How long PID 1 may take to answer the child: it may be loading a driver.
const ANSWER: Duration = Duration::from_secs(300);

/// What the child tells.
#[derive(Debug, Serialize, Deserialize)]
enum Built {
    /// The loop device of the image of that number comes along.
    Device(u8),
    /// The root is there and warm: which lease is it to have?
    Dress,
    /// The root is fit to be entered.
    Root {
        devices: Vec<String>,
        init: Vec<u8>,
        systemd: bool,
        warnings: Vec<String>,
    },
    Failed(Failure),
}

/// Has the stores serve the images that are streamed, and makes a root of all images that is fit to be entered without
/// waiting for anybody. Ends at `deadline`, which is that of `rootbeam.timeout=`.
pub fn assemble(
    machine: &mut Machine,
    crew: &mut Crew,
    deadline: Option<Instant>,
) -> Result<(Mounted, PathBuf), Failure> {
    let kinds: Vec<_> = machine.stack.images(crew).iter().map(|(.., received)| received.facts.filesystem).collect();
    image::require_kernel(kinds, &mut machine.modules)?;
    let streamed: Vec<usize> = machine.stack.streams.numbers().collect();
    for number in streamed {
        serve(machine, crew, number)?;
    }
    let (line, childs) = channel::pair::<Option<Lease>, Built>().map_err(broken)?;
    let child = worker::fork(|| build(machine, crew, childs)).map_err(broken)?;
    loop {
        let now = Instant::now();
        if let StreamStall::Reboot(seconds) = machine.settings.stream_stall
            && machine.stack.streams.have_waited(Duration::from_secs(seconds.into()), now)
        {
            log::error!("{STALLED}");
            aftermath::end(Duration::ZERO, End::Reboot);
        }
        if deadline.is_some_and(|deadline| now >= deadline)
            && let Some(failure) = machine.stack.streams.too_late(machine.settings.timeout.unwrap_or(0))
        {
            return Err(failure);
        }
        for (number, order) in machine.stack.streams.orders(now) {
            crew.order_store(number, order)?;
        }
        let tick = now + Duration::from_secs(1);
        // A lease that is lost by now may be won by a link that leads nowhere.
        crew.turn_links(false, now)?;
        // All that the stores have said comes first: a root that was read through one that is lost is none.
        match crew.next_beside(tick, &[line.as_fd(), child.as_fd()])? {
            Some(News::Store(_, StoreNews::Answered)) => {
                crew.keep_link()?;
                continue;
            }
            Some(News::Store(number, news)) => {
                machine.stack.streams.hear(number, news, Instant::now());
                continue;
            }
            Some(news) => {
                if let Some(turn) = network::attend(crew, &mut machine.modules, &machine.settings, &news)? {
                    log::warn!("{turn}");
                }
            }
            None => {}
        }
        match line.receive().map_err(broken)? {
            Packet::Message(Built::Device(number), Some(device)) => {
                crew.order_store_with(usize::from(number), &StoreOrder::Device, device.as_fd())?;
            }
            // It may be another than when the child began.
            Packet::Message(Built::Dress, _) => {
                machine.note_network(crew);
                line.send(&machine.lease).map_err(broken)?;
            }
            Packet::Message(Built::Root { devices, init, systemd, warnings }, _) => {
                // It has nothing left to do, and the real init finds nobody of the boot's.
                child.await_end(Instant::now() + Duration::from_secs(2)).map_err(broken)?;
                warnings.into_iter().for_each(|text| machine.warn(text));
                if machine.stack.streams.are_there()
                    && systemd
                    && let Err(error) = ending::ask_systemd()
                {
                    machine.warn(format!("a shutdown before the image is whole may wait for the network: {error}"));
                }
                return Ok((Mounted { devices }, OsString::from_vec(init).into()));
            }
            // Where a store has ended, that is the cause.
            Packet::Message(Built::Failed(failure), _) => return crew.check().and(Err(failure)),
            Packet::Message(Built::Device(_), None) | Packet::Malformed(_) | Packet::Closed => {
                return Err(broken("the process that makes the root has ended"));
            }
            Packet::Empty => {}
        }
    }
}

/// Where the served file of an image is mounted until its loop device stands on it.
fn served(number: usize) -> PathBuf {
    Path::new(SERVED).join(number.to_string())
}

/// Mounts the file of an image, and has its store serve it.
fn serve(machine: &Machine, crew: &mut Crew, number: usize) -> Result<(), Failure> {
    let folder = served(number);
    let connection = std::fs::create_dir_all(&folder).and_then(|()| fuse::mount(&folder)).map_err(|e| {
        let remedy = "use a kernel with fuse, or rootbeam.mode=ram";
        Failure::new(Step::Mount, folder.display().to_string(), e.to_string(), remedy)
    })?;
    let eio_seconds = match machine.settings.stream_stall {
        StreamStall::Eio(seconds) => Some(seconds),
        StreamStall::Wait | StreamStall::Reboot(_) => None,
    };
    if machine.settings.stream_trace.is_some() && number == 0 {
        crew.order_store(number, StoreOrder::Trace)?;
    }
    // The store alone holds the connection: with it the served file ends.
    crew.order_store_with(number, &StoreOrder::Serve { eio_seconds }, connection.as_fd())
}

/// The child.
fn build(machine: &Machine, crew: &Crew, line: OwnedFd) -> i32 {
    aftermath::guard_child();
    let line = Channel::<Built, Option<Lease>>::from_fd(line);
    let built = root_of(machine, crew, &line).unwrap_or_else(Built::Failed);
    i32::from(line.send(&built).is_err())
}

fn root_of(machine: &Machine, crew: &Crew, line: &Channel<Built, Option<Lease>>) -> Result<Built, Failure> {
    let mut images = Vec::new();
    for (number, memory, received) in machine.stack.images(crew) {
        let device = match received.held {
            Held::Streaming => attach(number, line)?,
            Held::Whole { .. } => image::attach(memory, Reads::InTurn)?,
        };
        images.push((device, received));
    }
    let _ = std::fs::remove_dir(SERVED);
    let mounted = image::mount(&images)?;
    let new_root = root::open()?;
    let init = root::find_init(&new_root, &machine.settings, &machine.kernel)?;
    let loadable = machine.modules.are_loadable();
    let warnings = root::check_modules(&new_root, &machine.kernel, loadable).into_iter().collect();
    warm::warm(&new_root, &init, &machine.kernel);
    let systemd = warm::is_systemd(&new_root, &init);
    machine.dress(&new_root, lease(line)?.as_ref());
    Ok(Built::Root { devices: mounted.devices, init: init.as_os_str().as_bytes().to_vec(), systemd, warnings })
}

/// The lease that the machine has now.
fn lease(line: &Channel<Built, Option<Lease>>) -> Result<Option<Lease>, Failure> {
    line.send(&Built::Dress).map_err(broken)?;
    channel::wait(&[line.as_fd()], ANSWER).map_err(broken)?;
    match line.receive().map_err(broken)? {
        Packet::Message(lease, _) => Ok(lease),
        _ => Err(broken(format!("PID 1 told no lease within {} s", ANSWER.as_secs()))),
    }
}

/// A loop device on the served file of an image.
fn attach(number: usize, line: &Channel<Built, Option<Lease>>) -> Result<LoopDevice, Failure> {
    let folder = served(number);
    let failed = |e: io::Error| {
        Failure::new(Step::Mount, folder.display().to_string(), e.to_string(), "report this as a bug, with the log")
    };
    let file = File::open(folder.join(STREAM_FILE)).map_err(failed)?;
    let device = image::attach(&file, Reads::AtOnce)?;
    // From here on nobody can reach the file but the loop device, and it goes when that lets go of it.
    drop(file);
    mounts::detach(&folder).and_then(|()| std::fs::remove_dir(&folder)).map_err(failed)?;
    line.send_with(&Built::Device(u8::try_from(number).unwrap_or(u8::MAX)), device.open.as_fd()).map_err(broken)?;
    Ok(device)
}

fn broken(cause: impl ToString) -> Failure {
    Failure::new(Step::Mount, "root of the streamed image", cause.to_string(), "report this as a bug, with the log")
}
