//! The line between a probe and its bed: the probe reports a world, then obeys one request a line until its bed
//! lets it go. In a network namespace it is an abstract Unix socket, which needs neither a file nor an address. In QEMU
//! it is the second serial port: its driver is built into every stock kernel, whereas a virtio port would need a module
//! loaded, which would be part of the very world to report.

use crate::reach::Road;
use crate::world::World;
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// The serial port.
pub const PORT: &str = "/dev/ttyS1";
/// Name of the abstract Unix socket.
pub const SOCKET: &[u8] = b"rootbeam.probe";

/// Bytes of a piece of [`Request::ReadAlong`].
pub const PIECE: usize = 64 << 10;

/// What a bed asks of a probe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Request {
    /// Report the world as it is now.
    World,
    /// Read a file to its end and answer its size and digest.
    Digest(String),
    /// The same, from the disk again, in pieces and in an order that nothing reads ahead.
    DigestAtRandom(String),
    /// Read a disk's pieces at random, past its cache, beside whatever is asked next and for as long as the machine runs.
    /// These are their SHA-256 in hex; a line on the console tells of the first that has another, or cannot be read.
    ReadAlong(String, Vec<String>),
    /// Have so many readers read of a disk at random, past its cache, beside whatever is asked next.
    Crowd(String, u32),
    /// Let them end, and read once more what they have read.
    CrowdEnds,
    /// Answer the contents of a small text file.
    Text(String),
    /// Write zeros to a new file until the given size or the first error.
    Fill(String, u64),
    /// Show the kernel's FUSE connections as systemd does.
    ShowConnections,
    /// Have a process of this user try all roads to the other processes, and these paths.
    Reach(u32, Vec<String>),
    /// Restart the machine.
    Restart,
    /// Turn the machine off.
    PowerOff,
}

/// What a probe answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// To [`Request::World`], and unasked at the start.
    World(Box<World>),
    /// To [`Request::Digest`] and [`Request::DigestAtRandom`].
    Digest {
        /// Bytes read.
        size: u64,
        /// SHA-256 of them in the order of the reading, in hex.
        sha256: String,
    },
    /// To [`Request::ReadAlong`] and [`Request::Crowd`], at the beginning.
    ReadsAlong,
    /// To [`Request::CrowdEnds`]: reads, and those of them that brought other bytes than the same place does now.
    CrowdRead {
        /// All of them.
        reads: u64,
        /// The wrong ones.
        wrong: u64,
    },
    /// To [`Request::Text`].
    Text(String),
    /// To [`Request::Fill`]: bytes written, and the error that ended it.
    Filled(u64, Option<String>),
    /// To [`Request::ShowConnections`].
    Shown,
    /// To [`Request::Reach`].
    Reached(Vec<Road>),
    /// To [`Request::PowerOff`] and [`Request::Restart`], in the instant before.
    Ending,
    /// The request failed.
    Error(String),
}

/// A probe that has reported and waits for requests.
#[derive(Debug)]
pub struct Probe {
    line: BufReader<UnixStream>,
}

impl Probe {
    /// Takes the probe's end of the line and its first report, which must come within `limit`.
    pub fn meet(line: UnixStream, limit: Duration) -> Result<(Self, World)> {
        let mut probe = Self { line: BufReader::new(line) };
        match probe.answer(limit)? {
            Answer::World(world) => Ok((probe, *world)),
            other => bail!("the probe began with {other:?}"),
        }
    }

    /// The world as it is now.
    pub fn world(&mut self, limit: Duration) -> Result<World> {
        match self.ask(&Request::World, limit)? {
            Answer::World(world) => Ok(*world),
            other => bail!("not a world: {other:?}"),
        }
    }

    /// Asks and waits for the answer.
    pub fn ask(&mut self, request: &Request, limit: Duration) -> Result<Answer> {
        self.tell(request)?;
        self.answer(limit)
    }

    /// Has the probe turn its machine off.
    pub fn power_off(self) -> Result<()> {
        self.end(&Request::PowerOff)
    }

    /// Has the probe restart its machine.
    pub fn restart(self) -> Result<()> {
        self.end(&Request::Restart)
    }

    /// Waits for the answer: QEMU drops what it has not passed on when this end of the line closes.
    fn end(mut self, request: &Request) -> Result<()> {
        match self.ask(request, Duration::from_secs(30))? {
            Answer::Ending => Ok(()),
            other => bail!("the probe does not end: {other:?}"),
        }
    }

    fn tell(&mut self, request: &Request) -> Result<()> {
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        self.line.get_mut().write_all(&line).context("cannot talk to the probe")
    }

    fn answer(&mut self, limit: Duration) -> Result<Answer> {
        self.line.get_ref().set_read_timeout(Some(limit))?;
        let mut line = String::new();
        let count = self.line.read_line(&mut line).with_context(|| format!("no answer of the probe in {limit:?}"))?;
        if count == 0 {
            bail!("the probe is gone");
        }
        serde_json::from_str(&line).with_context(|| format!("not an answer of a probe: {line:?}"))
    }
}
