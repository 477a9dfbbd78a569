//! dnsmasq as DHCP and DNS server, in the foreground, configured by arguments alone.

use crate::keep::Kept;
use anyhow::Result;
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;

/// A running dnsmasq. It ends with this value.
#[derive(Debug)]
pub struct Dnsmasq {
    process: Kept,
    _folder: TempDir,
}

impl Dnsmasq {
    /// Starts it on `link` with `arguments` added; returns once it serves. To be called inside its network namespace.
    pub fn start(link: &str, arguments: &[String]) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let leases = folder.path().join("leases");
        let mut command = Command::new(if crate::command::exists("dnsmasq") { "dnsmasq" } else { "/usr/sbin/dnsmasq" });
        command
            .args(["--keep-in-foreground", "--conf-file=/dev/null", "--no-hosts", "--no-resolv", "--pid-file="])
            .args(["--user=root", "--bind-interfaces", "--except-interface=lo", "--log-facility=-", "--log-dhcp"])
            // Its check whether an address is free would cost the first client up to three seconds.
            .args(["--no-ping", "--dhcp-authoritative", "--log-queries"])
            .arg(format!("--interface={link}"))
            .arg(format!("--dhcp-leasefile={}", leases.display()))
            .args(arguments);
        let process = Kept::start(&command, &folder.path().join("log"))?;
        process.output().wait_for("started, version", Duration::from_secs(10))?;
        Ok(Self { process, _folder: folder })
    }

    /// What it logged: every DHCP packet and every query.
    pub fn log(&self) -> String {
        self.process.output().text()
    }

    /// Waits until it logged `text`.
    pub fn wait_log(&self, text: &str, limit: Duration) -> Result<String> {
        self.process.output().wait_for(text, limit)
    }
}
