//! The shipped `rootbeam serve`.

use crate::keep::Kept;
use crate::places::shipped_rootbeam;
use anyhow::Result;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;

/// A running `rootbeam serve`. It ends, killed, with this value.
#[derive(Debug)]
pub struct Serve {
    process: Kept,
    _folder: TempDir,
}

impl Serve {
    /// Serves `root` at `address`; returns once it does. To be called inside its network namespace.
    pub fn start(address: SocketAddr, root: &Path) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let mut command = Command::new(shipped_rootbeam()?);
        command.arg("serve").arg(root).args(["--json", "--listen"]).arg(address.to_string());
        let process = Kept::start(&command, &folder.path().join("log"))?;
        process.output().wait_for("\"urls\"", Duration::from_secs(10))?;
        Ok(Self { process, _folder: folder })
    }

    /// Its access log, among what else it wrote.
    pub fn log(&self) -> String {
        self.process.output().text()
    }
}
