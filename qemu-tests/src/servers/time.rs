//! Time servers: one that says whatever a test wants, and Debian's chrony.

use crate::keep::Kept;
use crate::netns::Namespace;
use crate::packages;
use anyhow::{Context, Result};
use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;

/// Seconds from 1900 to 1970.
const TO_1970: u64 = 2_208_988_800;

/// Serves `seconds` since 1970 at `address` for as long as this process runs. To be called inside its network
/// namespace.
pub fn fixed(address: SocketAddr, seconds: u64) -> Result<()> {
    let socket = UdpSocket::bind(address).with_context(|| format!("cannot listen on {address}"))?;
    std::thread::spawn(move || {
        let mut packet = [0_u8; 48];
        while let Ok((48, client)) = socket.recv_from(&mut packet) {
            // The client's transmit timestamp becomes the origin.
            packet.copy_within(40..48, 24);
            let since_1900 = (seconds.wrapping_add(TO_1970) as u32).to_be_bytes();
            for (to, from) in packet.iter_mut().skip(40).zip(since_1900.into_iter().chain([0; 4])) {
                *to = from;
            }
            let [first, stratum, ..] = &mut packet;
            (*first, *stratum) = (4 << 3 | 4, 2);
            let _ = socket.send_to(&packet, client);
        }
    });
    Ok(())
}

/// A running chronyd that gives the host's time and leaves the host's clock alone. It ends with this value.
#[derive(Debug)]
pub struct Chrony {
    _process: Kept,
    _folder: TempDir,
}

impl Chrony {
    /// Serves at `address` of `namespace`; returns once it does.
    pub fn start(namespace: &Namespace, address: SocketAddr) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let (state, ip, port) = (folder.path().display(), address.ip(), address.port());
        let lines = [
            format!("local stratum 5\nallow\nbindaddress {ip}\nport {port}\ncmdport 0\n"),
            format!("pidfile {state}/pid\nbindcmdaddress /\nuser root\n"),
        ];
        let config = folder.path().join("conf");
        fs::write(&config, lines.concat())?;
        let mut command = Command::new(packages::file("chrony", "usr/sbin/chronyd")?);
        command.args(["-x", "-d", "-f"]).arg(&config);
        let log = folder.path().join("log");
        let process = namespace.enter(|| Kept::start(&command, &log))??;
        process.output().wait_for("Running with root privileges", Duration::from_secs(10))?;
        Ok(Self { _process: process, _folder: folder })
    }
}
