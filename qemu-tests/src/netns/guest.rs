//! A machine in namespaces: described, running, ended.

use super::namespace::Namespace;
use super::network::Nic;
use super::spec::{Event, Spec};
use crate::console::Console;
use crate::outcome::Booted;
use crate::places::{cache, helper};
use crate::probe::{Probe, SOCKET};
use crate::world::World;
use anyhow::{Context, Result, bail, ensure};
use rootbeam_init::contract::role;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::pty::{OpenptFlags, openpt, ptsname, unlockpt};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tempfile::TempDir;

/// A machine to be started. Without a card it has no network but a loopback.
#[derive(Clone, Debug)]
pub struct Boot<'a> {
    archive: PathBuf,
    cmdline: String,
    nics: Vec<Nic<'a>>,
    meminfo: Option<String>,
    limit: Duration,
}

impl<'a> Boot<'a> {
    /// A machine that boots this initramfs, with nothing on its command line.
    pub fn new(archive: &Path) -> Self {
        let limit = Duration::from_secs(60);
        Self { archive: archive.to_owned(), cmdline: String::new(), nics: Vec::new(), meminfo: None, limit }
    }

    /// With more words on the command line.
    pub fn cmdline(mut self, words: &str) -> Self {
        if !self.cmdline.is_empty() {
            self.cmdline.push(' ');
        }
        self.cmdline.push_str(words);
        self
    }

    /// With one more card: `eth0`, `eth1`, …
    pub fn nic(mut self, nic: Nic<'a>) -> Self {
        self.nics.push(nic);
        self
    }

    /// With a `/proc/meminfo` that says so many MiB of memory, all of them available.
    pub fn memory(self, mib: u64) -> Self {
        let kib = mib * 1024;
        let lines =
            ["MemTotal", "MemFree", "MemAvailable"].map(|name| format!("{:<16}{kib:>8} kB\n", format!("{name}:")));
        self.meminfo(&lines.concat())
    }

    /// With a `/proc/meminfo` of this text.
    pub fn meminfo(self, text: &str) -> Self {
        Self { meminfo: Some(text.to_owned()), ..self }
    }

    /// With another bound on every wait than 60 seconds.
    pub fn limit(self, limit: Duration) -> Self {
        Self { limit, ..self }
    }

    /// Starts the machine, takes the report of its real init, turns it off, and returns what is left of it. A boot
    /// that never reaches the probe must end by itself.
    pub fn run(&self) -> Result<Booted> {
        let mut guest = self.start()?;
        let world = match guest.probe()? {
            Some((probe, world)) => {
                probe.power_off()?;
                Some(world)
            }
            None => None,
        };
        guest.finish(world)
    }

    /// Starts the machine.
    pub fn start(&self) -> Result<Guest> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        super::available()?;
        let namespace = Namespace::new()?;
        let mut ports = Vec::new();
        for (number, nic) in self.nics.iter().enumerate() {
            ports.push(nic.network.plug(nic, &namespace, &format!("eth{number}"))?);
        }
        let listener = namespace.enter(|| UnixListener::bind_addr(&SocketAddr::from_abstract_name(SOCKET)?))??;
        let (master, terminal) = pty()?;
        let console = rustix::fs::readlink(format!("/proc/self/fd/{}", raw(&terminal)), Vec::new())?;
        let stage = tempfile::tempdir()?;
        let spec = Spec {
            netns: namespace.path(),
            stage: stage.path().to_string_lossy().into_owned(),
            archive: self.archive.to_string_lossy().into_owned(),
            console: console.to_string_lossy().into_owned(),
            cmdline: self.cmdline.clone(),
            meminfo: self.meminfo.clone(),
        };
        let log =
            cache("logs")?.join(format!("netns-{}-{}.log", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)));
        let mut process = Command::new(helper("ns-run")?)
            .arg(serde_json::to_string(&spec)?)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::from(terminal.try_clone()?))
            .spawn()
            .context("cannot start ns-run")?;
        let leash = process.stdin.take();
        let events = BufReader::new(process.stdout.take().context("ns-run has no output")?);
        let keyboard = File::from(master.try_clone()?);
        let console = Console::read(File::from(master), &log)?;
        let terminal = Some(terminal);
        let mut guest = Guest {
            process,
            leash,
            events,
            terminal,
            keyboard,
            console,
            listener,
            namespace,
            ports,
            limit: self.limit,
            started: 0,
            _stage: stage,
        };
        match guest.event()? {
            Some(Event::Started(at)) => guest.started = at,
            other => bail!("the machine did not start: {other:?}\n{}", guest.console.last_lines()),
        }
        Ok(guest)
    }
}

/// A pty in raw mode: its master and its terminal.
fn pty() -> Result<(OwnedFd, OwnedFd)> {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).context("cannot open a pty")?;
    unlockpt(&master)?;
    let name = ptsname(&master, Vec::new())?;
    let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY | rustix::fs::OFlags::CLOEXEC;
    let terminal = rustix::fs::open(name, flags, rustix::fs::Mode::empty())?;
    let mut settings = tcgetattr(&terminal)?;
    settings.make_raw();
    tcsetattr(&terminal, OptionalActions::Now, &settings)?;
    Ok((master, terminal))
}

fn raw(fd: &OwnedFd) -> i32 {
    use std::os::fd::AsRawFd;
    fd.as_raw_fd()
}

/// A running machine. Dropped, it is killed.
#[derive(Debug)]
pub struct Guest {
    process: Child,
    leash: Option<ChildStdin>,
    events: BufReader<ChildStdout>,
    terminal: Option<OwnedFd>,
    keyboard: File,
    console: Console,
    listener: UnixListener,
    namespace: Namespace,
    ports: Vec<u32>,
    limit: Duration,
    started: u64,
    _stage: TempDir,
}

impl Guest {
    /// Its console.
    pub fn console(&self) -> &Console {
        &self.console
    }

    /// Its network namespace.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// The port of its `nic`-th card on that card's network, for [`super::Network::set_carrier`].
    pub fn port(&self, nic: usize) -> Option<u32> {
        self.ports.get(nic).copied()
    }

    /// `CLOCK_MONOTONIC` when `/init` was started, in nanoseconds.
    pub fn started(&self) -> u64 {
        self.started
    }

    /// Types on its console.
    pub fn type_keys(&mut self, keys: &str) -> Result<()> {
        self.keyboard.write_all(keys.as_bytes()).context("cannot type on the console")
    }

    /// Process id, as the host sees it, of the machine's PID 1.
    pub fn pid(&self) -> Result<u32> {
        let own = self.process.id();
        let children = std::fs::read_to_string(format!("/proc/{own}/task/{own}/children"))?;
        children.split_whitespace().next().context("the machine has ended")?.parse().context("not a process id")
    }

    /// Process id, as the host sees it, of the machine's worker of that role, if it runs now.
    pub fn worker(&self, role: &str) -> Result<Option<rustix::process::Pid>> {
        worker(self.pid()?, role)
    }

    /// Waits for the probe and its first report; `None` if the machine ended before.
    pub fn probe(&mut self) -> Result<Option<(Probe, World)>> {
        let timeout = self.limit.try_into()?;
        let mut ready = [PollFd::new(&self.listener, PollFlags::IN), PollFd::new(self.events.get_ref(), PollFlags::IN)];
        ensure!(
            poll(&mut ready, Some(&timeout))? > 0,
            "neither a probe nor an end within {:?}\n{}",
            self.limit,
            self.console.last_lines()
        );
        let [probe, _] = ready;
        if probe.revents().is_empty() {
            return Ok(None);
        }
        let (line, _) = self.listener.accept()?;
        Probe::meet(line, self.limit).map(Some)
    }

    /// Waits for the machine's own end.
    pub fn finish(mut self, world: Option<World>) -> Result<Booted> {
        match self.event()? {
            Some(Event::Ended(outcome)) => {
                self.terminal = None;
                let console = self.console.wait_closed(self.limit)?;
                Ok(Booted { outcome, console, world, started: self.started })
            }
            other => bail!("the machine did not end as it should: {other:?}\n{}", self.console.last_lines()),
        }
    }

    fn event(&mut self) -> Result<Option<Event>> {
        let timeout = self.limit.try_into()?;
        if self.events.buffer().is_empty() {
            let mut ready = [PollFd::from_borrowed_fd(self.events.get_ref().as_fd(), PollFlags::IN)];
            let quote = || self.console.last_lines();
            ensure!(
                poll(&mut ready, Some(&timeout))? > 0,
                "the machine still runs after {:?}\n{}",
                self.limit,
                quote()
            );
        }
        let mut line = String::new();
        self.events.read_line(&mut line)?;
        Ok(if line.is_empty() { None } else { Some(serde_json::from_str(&line)?) })
    }
}

/// Process id of the child that `init` calls by that role, if there is one now; both as the host sees them.
pub fn worker(init: u32, role: &str) -> Result<Option<rustix::process::Pid>> {
    let children = std::fs::read_to_string(format!("/proc/{init}/task/{init}/children"))?;
    let is_worker = |pid: &&str| {
        let arguments = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        arguments.split(|byte| *byte == 0).next() == Some(role.as_bytes())
    };
    let pid = children.split_whitespace().find(is_worker).map(str::parse).transpose()?;
    Ok(pid.and_then(rustix::process::Pid::from_raw))
}

/// Process id of the fetch worker, whoever has started it: `init`, or the keeper beside the booted system.
pub fn fetcher(init: u32) -> Result<Option<rustix::process::Pid>> {
    if let Some(own) = worker(init, role::FETCH)? {
        return Ok(Some(own));
    }
    match worker(init, role::KEEPER)? {
        Some(keeper) => worker(keeper.as_raw_nonzero().get().try_into()?, role::FETCH),
        None => Ok(None),
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.leash = None;
        // ns-run kills PID 1 at the end of its input, waits until every process of the machine is gone, and ends.
        let _ = self.process.wait();
    }
}
