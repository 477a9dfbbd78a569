//! Which QEMU the bed runs. SHA instructions, which budgets are made for, are emulated since QEMU 8.2, and Debian 12 has
//! 7.2: where the host's own is older than Debian 13's, that one is unpacked and run by its own loader and libraries.

use crate::command::run;
use crate::packages;
use anyhow::{Context, Result};
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

/// The program, on every Debian.
const PROGRAM: &str = "qemu-system-x86_64";
/// Major version of Debian 13's QEMU: a host's own that is older is passed over.
const OLDEST: u32 = 10;
/// Where a Debian package puts libraries of its architecture.
const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";
/// Where QEMU's firmware lies: its own, the BIOS, the boot ROMs of network cards.
const FIRMWARE: [&str; 3] = ["usr/share/qemu", "usr/share/seabios", "usr/lib/ipxe/qemu"];

/// A QEMU that can be started.
#[derive(Clone, Debug)]
pub struct Emulator {
    /// Its version, as it says itself: `10.0.11 (Debian …)`.
    pub version: String,
    /// Program, then arguments that come first.
    words: Vec<String>,
}

impl Emulator {
    /// The emulator of this host, found once; the first time on an old host it is downloaded.
    pub fn get() -> Result<&'static Self> {
        static FOUND: OnceLock<Emulator> = OnceLock::new();
        if let Some(found) = FOUND.get() {
            return Ok(found);
        }
        let found = Self::find()?;
        Ok(FOUND.get_or_init(|| found))
    }

    fn find() -> Result<Self> {
        match Self::of(vec![PROGRAM.to_owned()]) {
            Ok(own) if major(&own.version) >= Some(OLDEST) => Ok(own),
            _ => {
                let root = packages::system("qemu-system-x86").context("no QEMU of Debian 13 for the bed")?;
                Self::of(words(&root))
            }
        }
    }

    fn of(words: Vec<String>) -> Result<Self> {
        let mut found = Self { version: String::new(), words };
        let said = run(found.command().arg("--version"))?;
        let version = said.lines().next().and_then(|line| line.strip_prefix("QEMU emulator version "));
        found.version = version.with_context(|| format!("{PROGRAM} does not say its version: {said}"))?.to_owned();
        Ok(found)
    }

    /// A command that runs it, for further arguments.
    pub fn command(&self) -> Command {
        let mut words = self.words.iter();
        let mut command = Command::new(words.next().map_or(PROGRAM, String::as_str));
        command.args(words);
        if self.words.len() > 1 {
            // Where it looks otherwise are the host's modules, which belong to the host's QEMU.
            command.env("QEMU_MODULE_DIR", "/nonexistent");
        }
        command
    }
}

/// An unpacked QEMU by its own loader: neither its libraries nor its C library are the host's.
fn words(root: &Path) -> Vec<String> {
    let below = |place: &str| root.join(place).display().to_string();
    let mut words = vec![below(LIBRARIES) + "/ld-linux-x86-64.so.2", "--library-path".to_owned(), below(LIBRARIES)];
    words.push(below("usr/bin") + "/" + PROGRAM);
    words.extend(FIRMWARE.iter().flat_map(|place| ["-L".to_owned(), below(place)]));
    words
}

/// The first number of a version.
fn major(version: &str) -> Option<u32> {
    version.split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debian_12s_is_too_old_and_debian_13s_is_not() {
        assert!(major("7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3)") < Some(OLDEST));
        assert!(major("10.0.2 (Debian 1:10.0.2+ds-2+deb13u1)") >= Some(OLDEST));
        assert!(major("of the future") < Some(OLDEST));
    }
}
