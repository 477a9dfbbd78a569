//! A machine that runs under QEMU.

use super::machine::Boot;
use super::qmp::Qmp;
use crate::claim::equal;
use crate::console::Console;
use crate::keep::Kept;
use crate::outcome::{Booted, Outcome, monotonic};
use crate::places::cache;
use crate::probe::Probe;
use crate::world::World;
use anyhow::{Context, Result, bail, ensure};
use rustix::event::{PollFd, PollFlags, poll};
use serde_json::json;
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Guests that run at once: each keeps a processor busy.
const AT_ONCE: u32 = 2;

/// Bound on everything that a person at the console waits for.
const LOGIN: Duration = Duration::from_secs(240);

/// A running machine. Dropped, it is killed.
#[derive(Debug)]
pub struct Guest {
    qemu: Kept,
    qmp: Qmp,
    console: Console,
    keyboard: UnixStream,
    probe: Option<UnixStream>,
    forwards: Vec<(u16, u16)>,
    limit: Duration,
    started: u64,
    /// Shell commands so far: their answers are told apart by it.
    commands: u32,
    /// Where its console was at the last login.
    logged_in: usize,
    _folder: TempDir,
    /// Holds what the machine still loads: its TFTP folder.
    _boot: Boot,
    _turn: Turn,
}

impl Guest {
    pub(super) fn start(boot: &Boot) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        super::available()?;
        let turn = Turn::wait();
        let folder = tempfile::tempdir()?;
        let (mut command, forwards) = boot.command()?;
        let mut channel = |name: &str| -> Result<UnixListener> {
            let path = folder.path().join(name);
            command.arg("-chardev").arg(format!("socket,id={name},path={}", path.display()));
            UnixListener::bind(&path).with_context(|| format!("cannot listen on {}", path.display()))
        };
        let (console, probe, qmp) = (channel("console")?, channel("probe")?, channel("qmp")?);
        command.args(["-serial", "chardev:console", "-serial", "chardev:probe", "-mon", "chardev=qmp,mode=control"]);
        let name = format!("qemu-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let log = |suffix: &str| cache("logs").map(|logs| logs.join(format!("{name}.{suffix}")));
        let qemu = Kept::start(&command, &log("qemu.log")?)?;
        let connected = |listener: UnixListener| accept(&listener, &qemu);
        let (console, probe, qmp) = (connected(console)?, connected(probe)?, connected(qmp)?);
        let mut qmp = Qmp::greet(qmp)?;
        for (number, _) in boot.nics.iter().enumerate().filter(|(_, nic)| !nic.carrier) {
            qmp.execute("set_link", json!({ "name": format!("nic{number}"), "up": false }))?;
        }
        let keyboard = console.try_clone()?;
        let console = Console::read(console, &log("log")?)?;
        let started = monotonic();
        qmp.execute("cont", json!({}))?;
        let probe = Some(probe);
        Ok(Self {
            qemu,
            qmp,
            console,
            keyboard,
            probe,
            forwards,
            limit: boot.limit,
            started,
            commands: 0,
            logged_in: 0,
            _folder: folder,
            _boot: boot.clone(),
            _turn: turn,
        })
    }

    /// Its console: the first serial port.
    pub fn console(&self) -> &Console {
        &self.console
    }

    /// `CLOCK_MONOTONIC` of the host when the machine was started, in nanoseconds.
    pub fn started(&self) -> u64 {
        self.started
    }

    /// Logs in at the console of the machine `name` as root, with the password of the beds' images.
    pub fn log_in(&mut self, name: &str) -> Result<()> {
        let answer = |guest: &Self, before, text: &str| guest.console().wait_for_after(before, text, LOGIN);
        let asked = answer(self, self.logged_in, &format!("{name} login:"))?;
        self.type_keys("root\n")?;
        let asked = answer(self, asked, "Password:")?;
        self.type_keys("rootbeam\n")?;
        // The prompt comes when the terminal has been reset; what is typed before may be lost.
        let asked = answer(self, asked, "# ")?;
        self.type_keys("echo logged-$((40 + 2))-in\n")?;
        self.logged_in = answer(self, asked, "logged-42-in")?;
        // What the kernel says would come between a command and its answer.
        self.shell("dmesg -n 1").map(drop)
    }

    /// What the shell, logged in, prints for `command`: the text between the two marks that are typed with it.
    pub fn shell(&mut self, command: &str) -> Result<String> {
        let number = self.type_command(command)?;
        self.answer(number)
    }

    /// Types `command` for the shell, logged in, and returns the number of its marks.
    fn type_command(&mut self, command: &str) -> Result<u32> {
        self.commands += 1;
        let number = self.commands;
        // The marks are computed, so that the echo of the typed line does not hold them.
        self.type_keys(&format!("echo begin-$(({number} + 0))-; {command}; echo end-$(({number} + 0))-\n"))?;
        Ok(number)
    }

    /// What the shell has printed between two marks, once it has.
    fn answer(&self, number: u32) -> Result<String> {
        let text = self.console().wait_for(&format!("end-{number}-"), LOGIN)?;
        let begun = text.rfind(&format!("begin-{number}-")).context("no answer of the shell")?;
        let answer = &text[begun..];
        let body = answer.split_once('\n').map_or("", |(_, rest)| rest);
        Ok(body.rsplit_once("end-").map_or(body, |(body, _)| body).replace('\r', ""))
    }

    /// Waits, on a shell of the console, until systemd has started all that belongs to its target, without a failure, and
    /// udev has loaded the devices' drivers. Before that nobody may be there yet who hears the power button.
    pub fn settle(&mut self) -> Result<()> {
        equal(&self.shell("systemctl is-system-running --wait && udevadm settle")?.trim(), &"running")
    }

    /// Types on its console.
    pub fn type_keys(&mut self, keys: &str) -> Result<()> {
        self.keyboard.write_all(keys.as_bytes()).context("cannot type on the console")
    }

    /// Where the host reaches a forwarded port of the guest.
    pub fn forwarded(&self, port: u16) -> Option<SocketAddr> {
        let host = self.forwards.iter().find(|(guest, _)| *guest == port)?.1;
        Some(SocketAddr::from(([127, 0, 0, 1], host)))
    }

    /// Pulls or plugs the cable of the `nic`-th card.
    pub fn set_carrier(&mut self, nic: usize, carrier: bool) -> Result<()> {
        self.qmp.execute("set_link", json!({ "name": format!("nic{nic}"), "up": carrier })).map(drop)
    }

    /// Presses the power button: the guest's system shuts down.
    pub fn press_power(&mut self) -> Result<()> {
        self.qmp.execute("system_powerdown", json!({})).map(drop)
    }

    /// Whether within `limit` the probe speaks or the machine ends; a machine that does neither hangs.
    pub fn stirs(&self, limit: Duration) -> Result<bool> {
        let line = self.probe.as_ref().context("the probe was met already")?;
        Ok(poll(&mut [PollFd::new(line, PollFlags::IN)], Some(&limit.try_into()?))? > 0)
    }

    /// Waits for the probe and its first report; `None` if the machine ended before.
    pub fn probe(&mut self) -> Result<Option<(Probe, World)>> {
        let line = self.probe.take().context("the probe was met already")?;
        let mut first = [PollFd::new(&line, PollFlags::IN)];
        let timeout = self.limit.try_into()?;
        let quote = || self.console.last_lines();
        ensure!(
            poll(&mut first, Some(&timeout))? > 0,
            "neither a probe nor an end within {:?}\n{}",
            self.limit,
            quote()
        );
        let mut byte = [0];
        let (count, _) = rustix::net::recv(&line, &mut byte, rustix::net::RecvFlags::PEEK)?;
        if count == 0 { Ok(None) } else { Probe::meet(line, self.limit).map(Some) }
    }

    /// Suspends the machine to RAM (ACPI S3) from a shell of its console, wakes it when QEMU says that it sleeps, and waits
    /// until the shell goes on. A kernel that refuses is asked again, `tries` times in all.
    pub fn sleep(&mut self, tries: u32) -> Result<()> {
        let number = self.type_command(&format!(
            "echo deep >/sys/power/mem_sleep; for i in $(seq {tries}); do (echo mem >/sys/power/state) 2>/dev/null && \
             echo woken && break; done"
        ))?;
        self.qmp.wait_for("SUSPEND", LOGIN).with_context(|| self.console.last_lines())?;
        self.qmp.execute("system_wakeup", json!({}))?;
        equal(&self.answer(number)?.trim(), &"woken")
    }

    /// Waits for the machine's own end.
    pub fn finish(mut self, world: Option<World>) -> Result<Booted> {
        let quote = |console: &Console| console.last_lines();
        self.qemu.wait(self.limit).with_context(|| quote(&self.console))?;
        let console = self.console.wait_closed(self.limit)?;
        let reason = self.qmp.reason()?;
        let outcome = match (panic(&console), reason.as_deref()) {
            (Some(outcome), _) => outcome,
            (None, Some("guest-shutdown")) => Outcome::PoweredOff,
            (None, Some("guest-reset")) => Outcome::Restarted,
            (None, other) => {
                let said = self.qemu.output().text();
                bail!("QEMU ended by {other:?}: {said}\n{}", quote(&self.console))
            }
        };
        Ok(Booted { outcome, console, started: self.started, world })
    }

    /// The same, and how long it took: without the time in which the machine's processor waited for one of the host's,
    /// which others use as well. A kernel that does not tell that counts it.
    pub fn finish_timed(self) -> Result<(Booted, Duration)> {
        let process = self.qemu.process().context("QEMU has ended")?;
        let (begun, ended) = (Instant::now(), AtomicBool::new(false));
        let before = kept_waiting(process);
        let (booted, waited) = std::thread::scope(|scope| {
            let watch = scope.spawn(|| {
                let mut waited = before;
                while !ended.load(Ordering::Relaxed) {
                    waited = kept_waiting(process).or(waited);
                    std::thread::sleep(Duration::from_millis(20));
                }
                waited
            });
            let booted = self.finish(None);
            ended.store(true, Ordering::Relaxed);
            (booted, watch.join().unwrap_or(before))
        });
        let waited = waited.zip(before).map_or(Duration::ZERO, |(after, before)| after.saturating_sub(before));
        Ok((booted?, begun.elapsed().saturating_sub(waited)))
    }
}

/// How long the busiest thread of a process, which is a machine's processor, was ready to run and did not
/// (proc_pid_schedstat).
fn kept_waiting(process: u32) -> Option<Duration> {
    let threads = std::fs::read_dir(format!("/proc/{process}/task")).ok()?;
    let read = |thread: std::io::Result<std::fs::DirEntry>| {
        let text = std::fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?;
        let mut numbers = text.split_whitespace().map_while(|number| number.parse::<u64>().ok());
        Some((numbers.next()?, numbers.next()?))
    };
    threads.filter_map(read).max().map(|(_, waited)| Duration::from_nanos(waited))
}

/// QEMU's end of a channel, which it opens at its start.
fn accept(listener: &UnixListener, qemu: &Kept) -> Result<UnixStream> {
    let timeout = Duration::from_secs(30).try_into()?;
    let mut ready = [PollFd::new(listener, PollFlags::IN)];
    ensure!(poll(&mut ready, Some(&timeout))? > 0, "QEMU does not start: {}", qemu.output().text());
    Ok(listener.accept()?.0)
}

/// What a kernel panic on the console tells of PID 1; its exit code is a wait status.
fn panic(console: &str) -> Option<Outcome> {
    let (_, why) = console.split_once("Kernel panic - not syncing: ")?;
    let status =
        why.strip_prefix("Attempted to kill init! exitcode=0x").and_then(|rest| rest.split_whitespace().next());
    Some(match status.and_then(|hex| i32::from_str_radix(hex, 16).ok()) {
        Some(status) if status & 0x7f != 0 => Outcome::Killed(status & 0x7f),
        Some(status) => Outcome::Exited(status >> 8 & 0xff),
        None => Outcome::Panicked,
    })
}

/// A place among those that run at once.
#[derive(Debug)]
pub struct Turn;

static RUNNING: Mutex<u32> = Mutex::new(0);
static FREE: Condvar = Condvar::new();

impl Turn {
    /// Waits until fewer machines run than may at once.
    pub fn wait() -> Self {
        let running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        // Unbounded on purpose: those that run are bounded themselves.
        let mut running = FREE.wait_while(running, |count| *count >= AT_ONCE).unwrap_or_else(PoisonError::into_inner);
        *running += 1;
        Self
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        *RUNNING.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        FREE.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_how_pid_1_died_from_the_panic() {
        let panicked = |why: &str| panic(&format!("[    2.0] Kernel panic - not syncing: {why}\n"));
        assert_eq!(panicked("Attempted to kill init! exitcode=0x0000000b"), Some(Outcome::Killed(11)));
        assert_eq!(panicked("Attempted to kill init! exitcode=0x00000700 "), Some(Outcome::Exited(7)));
        assert_eq!(panicked("VFS: Unable to mount root fs"), Some(Outcome::Panicked));
        assert_eq!(panic("login:"), None);
    }
}
