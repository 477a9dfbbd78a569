//! How a machine ended, and what is left of it.

use crate::world::World;
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// How a machine under test ended, the same words for both beds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It turned itself off (a namespace cannot tell this from a halt).
    PoweredOff,
    /// It restarted itself.
    Restarted,
    /// PID 1 returned: a kernel panic on a real machine (there: exit code 256 × this).
    Exited(i32),
    /// PID 1 died of a signal: a kernel panic on a real machine.
    Killed(i32),
    /// The kernel panicked for another reason (QEMU only).
    Panicked,
}

/// What is left of a machine that ended.
#[derive(Clone, Debug)]
pub struct Booted {
    /// How it ended.
    pub outcome: Outcome,
    /// Its whole console, without carriage returns.
    pub console: String,
    /// `CLOCK_MONOTONIC` of the host when `/init` was started (QEMU: when the machine was), in nanoseconds. In the
    /// namespace bed [`World::started`] is of the same clock.
    pub started: u64,
    pub(crate) world: Option<World>,
}

impl Booted {
    /// The report of the real init; an error with the console's end if that was never reached.
    pub fn world(&self) -> Result<&World> {
        let lines: Vec<_> = self.console.lines().collect();
        let last = || lines.split_at(lines.len().saturating_sub(30)).1.join("\n  | ");
        self.world.as_ref().with_context(|| format!("no real init, but {:?}. Console:\n  | {}", self.outcome, last()))
    }
}

/// `CLOCK_MONOTONIC` in nanoseconds.
pub fn monotonic() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    u64::try_from(now.tv_sec * 1_000_000_000 + now.tv_nsec).unwrap_or_default()
}
