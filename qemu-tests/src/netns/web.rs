//! The web node of `make demo` at native speed: its web server is PID 1 of a machine in namespaces.

use super::guest::{Boot, Guest};
use super::network::Nic;
use crate::archives;
use anyhow::{Context, Result};
use std::net::SocketAddr;
use std::time::Duration;

/// Where its page is on the machine's network.
pub const ADDRESS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(10, 77, 0, 5)), 80);

/// A machine that boots the image at `url`, up to a shell.
pub fn boot<'a>(nic: Nic<'a>, url: &str) -> Result<Boot<'a>> {
    let words = format!(
        "rootbeam.image={url} rootbeam.on-failure=poweroff init=/bin/sh \
         ip={}::10.77.0.1:255.255.255.0:web-node:eth0:none",
        ADDRESS.ip()
    );
    Ok(Boot::new(&archives::for_namespaces()?).nic(nic).cmdline(&words))
}

/// Has the shell of a machine become the web server, once it is there; waits `limit` for that.
pub fn serve(guest: &mut Guest, limit: Duration) -> Result<()> {
    guest.console().wait_for("handing over to /bin/sh", limit)?;
    guest.type_keys(
        "mkdir /run/lighttpd; chown www-data /run/lighttpd; exec lighttpd -D -f /etc/lighttpd/lighttpd.conf\n",
    )
}

/// The text of a file in the machine.
pub fn text(guest: &Guest, path: &str) -> Result<String> {
    let file = format!("/proc/{}/root{path}", guest.pid()?);
    std::fs::read_to_string(&file).with_context(|| format!("cannot read {path} of the machine"))
}
