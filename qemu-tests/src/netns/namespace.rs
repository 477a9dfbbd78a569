//! Network namespaces that this process made, and the cables between them.

use crate::command::run;
use anyhow::{Context, Result};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};
use std::fs::File;
use std::os::fd::AsFd;
use std::process::Command;
use std::sync::Arc;

/// A network namespace. It lives as long as a clone of this, a socket or a process in it.
#[derive(Clone, Debug)]
pub struct Namespace(Arc<File>);

impl Namespace {
    /// A new, empty one, with its loopback up.
    pub fn new() -> Result<Self> {
        let made = std::thread::spawn(|| -> Result<File> {
            // A thread of its own: the namespace of the calling thread must stay what it is.
            // SAFETY: only the network namespace changes, and only for this thread, which then ends.
            unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }
                .context("cannot make a network namespace")?;
            Ok(File::open("/proc/thread-self/ns/net")?)
        });
        let file = made.join().map_err(|_| anyhow::anyhow!("the thread that makes a namespace panicked"))??;
        let namespace = Self(Arc::new(file));
        namespace.ip("link set lo up")?;
        Ok(namespace)
    }

    /// Runs `work` on a thread inside the namespace. Sockets it opens and processes it starts belong there for good.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    move_into_link_name_space(self.0.as_fd(), Some(LinkNameSpaceType::Network))
                        .context("cannot enter a network namespace")?;
                    Ok(work())
                })
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// A path by which other programs of this user find the namespace while this value lives.
    pub fn path(&self) -> String {
        use std::os::fd::AsRawFd;
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }

    /// `ip` with these arguments, separated by blanks, inside the namespace.
    pub fn ip(&self, arguments: &str) -> Result<String> {
        self.run("ip", arguments)
    }

    /// A program with arguments separated by blanks, inside the namespace.
    pub fn run(&self, program: &str, arguments: &str) -> Result<String> {
        self.enter(|| run(Command::new(program).args(arguments.split_whitespace())))?
    }

    /// Lays a cable: link `name` here, link `far_name` with hardware address `mac` in `far`. Both are still down.
    pub fn cable(&self, name: &str, far: &Self, far_name: &str, mac: &str) -> Result<()> {
        let far = far.path();
        self.ip(&format!("link add {name} type veth peer name {far_name} address {mac} netns {far}")).map(drop)
    }
}
