//! Processes that end with the value that holds them, and with this process whatever its end: a keeper between them
//! watches a pipe that only this process holds open.

use crate::console::Console;
use crate::places::helper;
use anyhow::{Context, Result, bail};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// The word that makes `ns-run` a keeper.
pub const KEEP: &str = "keep";

/// A process that is kept.
#[derive(Debug)]
pub struct Kept {
    keeper: Child,
    leash: Option<ChildStdin>,
    output: Console,
    name: String,
}

impl Kept {
    /// Starts `command` (program, arguments, environment and folder of it) with its output copied to the file `log`.
    pub fn start(command: &Command, log: &Path) -> Result<Self> {
        let name = command.get_program().to_string_lossy().into_owned();
        let mut keeper = Command::new(helper("ns-run")?);
        keeper.arg(KEEP).arg(command.get_program()).args(command.get_args());
        let (reader, writer) = std::io::pipe()?;
        let mut keeper = keeper
            .stdin(Stdio::piped())
            .stdout(writer.try_clone()?)
            .stderr(writer)
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        let leash = keeper.stdin.take();
        Ok(Self { keeper, leash, output: Console::read(reader, log)?, name })
    }

    /// What it writes.
    pub fn output(&self) -> &Console {
        &self.output
    }

    /// Its process id, while it runs.
    pub fn process(&self) -> Option<u32> {
        let keeper = self.keeper.id();
        let children = std::fs::read_to_string(format!("/proc/{keeper}/task/{keeper}/children")).ok()?;
        children.split_whitespace().next()?.parse().ok()
    }

    /// Waits for its own end.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        // Its output closes when it ends: an event with a bound, which waiting for a process has not.
        self.output.wait_closed(limit).with_context(|| format!("{} still runs", self.name))?;
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            match self.keeper.try_wait()? {
                Some(status) => return Ok(status),
                None if Instant::now() > deadline => bail!("{} closed its output and still runs", self.name),
                None => std::thread::sleep(Duration::from_millis(1)),
            }
        }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.leash = None;
        // The keeper ends once what it keeps has ended, which it kills now.
        let _ = self.keeper.wait();
    }
}
