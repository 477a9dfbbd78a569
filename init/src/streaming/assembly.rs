//! The root of a streamed image. Looking at it may wait for the network, for as long as that takes: a child does it, and
//! PID 1 goes on printing and tending its workers.

use super::attendant::Attendant;
use super::{ending, warm};
use crate::contract::STREAM_FILE;
use crate::crew::{Crew, News};
use crate::failure::{Failure, Step};
use crate::image::{self, Mounted};
use crate::machine::Machine;
use crate::messages::{StoreOrder, Tally};
use crate::network;
use crate::receive::Received;
use crate::root;
use crate::settings::values::StreamStall;
use crate::sys::channel::{self, Channel, Received as Packet};
use crate::sys::{fuse, mounts, worker};
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Where the served file is mounted until the loop device stands on it.
const SERVED: &str = "/run/rootbeam/served";

/// What the child tells.
#[derive(Debug, Serialize, Deserialize)]
enum Built {
    /// The loop device comes along.
    Device,
    /// The root is there and warm.
    Root {
        devices: Vec<String>,
        init: Vec<u8>,
        systemd: bool,
        warnings: Vec<String>,
    },
    Failed(Failure),
}

/// Has the store serve the image, and makes a root of it that is fit to be entered without waiting for anybody.
pub fn assemble(machine: &mut Machine, crew: &mut Crew) -> Result<(Mounted, PathBuf), Failure> {
    let received = machine.stack.streamed().ok_or_else(|| broken("no image is streamed"))?.clone();
    image::require_kernel([received.facts.filesystem], &mut machine.modules)?;
    let connection = std::fs::create_dir_all(SERVED).and_then(|()| fuse::mount(Path::new(SERVED))).map_err(|e| {
        Failure::new(Step::Mount, SERVED, e.to_string(), "use a kernel with fuse, or rootbeam.mode=ram")
    })?;
    let eio_seconds = match machine.settings.stream_stall {
        StreamStall::Eio(seconds) => Some(seconds),
        StreamStall::Wait | StreamStall::Reboot(_) => None,
    };
    if machine.settings.stream_trace.is_some() {
        crew.order_store(StoreOrder::Trace)?;
    }
    crew.order_store_with(&StoreOrder::Serve { eio_seconds }, connection.as_fd())?;
    // The store alone holds the connection: with it the served file ends.
    drop(connection);

    let (line, childs) = channel::pair::<Built, Built>().map_err(broken)?;
    let child = worker::fork(|| build(machine, &received, childs)).map_err(broken)?;
    let before = Tally { total: received.facts.size, ..received.tally };
    let mut attendant = Attendant::new(machine.settings.image.clone(), machine.kernel.release.clone(), before);
    loop {
        match line.receive().map_err(broken)? {
            Packet::Message(Built::Device, Some(device)) => {
                crew.order_store_with(&StoreOrder::Device, device.as_fd())?;
                continue;
            }
            Packet::Message(Built::Root { devices, init, systemd, warnings }, _) => {
                warnings.into_iter().for_each(|text| machine.warn(text));
                // The store tells it again only when more has come.
                machine.stack.came(attendant.tally());
                if attendant.released {
                    // No keeper would ever hear of it.
                    machine.stack.released();
                } else if systemd && let Err(error) = ending::ask_systemd() {
                    machine.warn(format!("a shutdown before the image is whole may wait for the network: {error}"));
                }
                return Ok((Mounted { devices }, OsString::from_vec(init).into()));
            }
            Packet::Message(Built::Failed(failure), _) => return Err(failure),
            Packet::Message(Built::Device, None) | Packet::Malformed(_) | Packet::Closed => {
                return Err(broken("the process that makes the root has ended"));
            }
            Packet::Empty => {}
        }
        let tick = Instant::now() + Duration::from_secs(1);
        match crew.next_beside(tick, &[line.as_fd(), child.as_fd()])? {
            Some(News::Store(news)) => attendant.hear(news, Instant::now()),
            Some(news) => network::attend(crew, &mut machine.modules, &machine.settings, &news)?,
            None => {}
        }
        if let Some(order) = attendant.order(Instant::now()) {
            crew.order_store(order)?;
        }
    }
}

/// The child.
fn build(machine: &Machine, received: &Received, line: OwnedFd) -> i32 {
    crate::aftermath::guard_child();
    let line = Channel::<Built, Built>::from_fd(line);
    let built = root_of(machine, received, &line).unwrap_or_else(Built::Failed);
    i32::from(line.send(&built).is_err())
}

fn root_of(machine: &Machine, received: &Received, line: &Channel<Built, Built>) -> Result<Built, Failure> {
    let served = |e: io::Error| Failure::new(Step::Mount, SERVED, e.to_string(), "report this as a bug, with the log");
    let file = File::open(Path::new(SERVED).join(STREAM_FILE)).map_err(served)?;
    let device = image::attach(&file)?;
    // From here on nobody can reach the file but the loop device, and it goes when that lets go of it.
    drop(file);
    mounts::detach(Path::new(SERVED)).and_then(|()| std::fs::remove_dir(SERVED)).map_err(served)?;
    line.send_with(&Built::Device, device.open.as_fd()).map_err(broken)?;
    let mounted = image::mount(&[(device, received)])?;
    let new_root = root::open()?;
    let init = root::find_init(&new_root, &machine.settings, &machine.kernel)?;
    let warnings = root::check_modules(&new_root, &machine.kernel).into_iter().collect();
    machine.dress(&new_root);
    warm::warm(&new_root, &init, &machine.kernel);
    let systemd = warm::is_systemd(&new_root, &init);
    Ok(Built::Root { devices: mounted.devices, init: init.as_os_str().as_bytes().to_vec(), systemd, warnings })
}

fn broken(cause: impl ToString) -> Failure {
    Failure::new(Step::Mount, "root of the streamed image", cause.to_string(), "report this as a bug, with the log")
}
