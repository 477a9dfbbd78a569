//! The namespace bed: the shipped `/init` as PID 1 on the host's kernel, at native speed.
//!
//! A [`Network`] is a server's namespace: a bridge, an HTTP server, dnsmasq. A [`Boot`] describes a machine; it is
//! plugged into any number of networks. What runs is a [`Guest`], and what is left of it is a [`crate::outcome::Booted`].

mod guest;
mod namespace;
mod network;
pub mod spec;
pub mod unpack;
pub mod web;

pub use guest::{Boot, Guest, fetcher, worker};
pub use namespace::Namespace;
pub use network::{Dhcp, Network, Nic};

use anyhow::{Result, bail};

/// Whether this host can run the bed; the error says what is missing.
pub fn available() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("namespaces need root");
    }
    for program in ["ip", "tc", "dnsmasq"] {
        if !crate::command::exists(program) {
            bail!("{program} is missing: run `make deps`");
        }
    }
    for node in ["/dev/fuse", "/dev/loop-control"] {
        if !std::path::Path::new(node).exists() {
            bail!("the host has no {node}");
        }
    }
    Ok(())
}

/// Attached loop devices of the host, with their backing files; those of every bed that runs at the moment.
pub fn loops() -> std::collections::BTreeMap<String, crate::world::Loop> {
    crate::collect::loops()
}
