//! Debian's tinyproxy: an HTTP proxy, CONNECT included.

use crate::keep::Kept;
use crate::netns::Namespace;
use crate::packages;
use anyhow::Result;
use std::fs;
use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;

/// A running tinyproxy. It ends with this value.
#[derive(Debug)]
pub struct Tinyproxy {
    process: Kept,
    _folder: TempDir,
}

impl Tinyproxy {
    /// Listens at `address` of `namespace` for everybody; returns once it does.
    pub fn start(namespace: &Namespace, address: SocketAddr) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let config = folder.path().join("conf");
        let (ip, port) = (address.ip(), address.port());
        fs::write(&config, format!("Listen {ip}\nPort {port}\nConnectPort 443\nLogLevel Info\nTimeout 60\n"))?;
        let mut command = Command::new(packages::file("tinyproxy-bin", "usr/bin/tinyproxy")?);
        command.arg("-d").arg("-c").arg(&config);
        let log = folder.path().join("log");
        let process = namespace.enter(|| Kept::start(&command, &log))??;
        process.output().wait_for("Accepting connections", Duration::from_secs(10))?;
        Ok(Self { process, _folder: folder })
    }

    /// What it logged: every request line among it.
    pub fn log(&self) -> String {
        self.process.output().text()
    }
}
