//! Debian's nginx, one worker, sendfile: the server of every comparison, and a real one for claims.

use crate::keep::Kept;
use crate::packages;
use anyhow::{Context, Result, bail};
use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A running nginx. It ends, killed, with this value.
#[derive(Debug)]
pub struct Nginx {
    _process: Kept,
    _folder: TempDir,
}

impl Nginx {
    /// Serves `root` at `address`; returns once it does. To be called inside its network namespace.
    pub fn start(address: SocketAddr, root: &Path) -> Result<Self> {
        Self::start_with(address, root, "")
    }

    /// The same, with more directives in its `server` block.
    pub fn start_with(address: SocketAddr, root: &Path, directives: &str) -> Result<Self> {
        Self::launch(address, &format!("listen {address}; root {};\n{directives}", root.display()))
    }

    /// Over TLS, with a certificate and its key in PEM files.
    pub fn start_tls(address: SocketAddr, root: &Path, certificate: &Path, key: &Path, more: &str) -> Result<Self> {
        let (root, certificate, key) = (root.display(), certificate.display(), key.display());
        let tls = format!("ssl_certificate {certificate}; ssl_certificate_key {key};");
        Self::launch(address, &format!("listen {address} ssl; root {root};\n{tls}\n{more}"))
    }

    fn launch(address: SocketAddr, server: &str) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let state = folder.path().display();
        let places: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .iter()
            .map(|name| format!("{name}_temp_path {state}/{name};\n"))
            .collect();
        // Connections for 64 machines with eight each.
        let text = format!(
            "daemon off; master_process off; worker_processes 1; pid {state}/pid; error_log stderr;\n\
             events {{ worker_connections 1024; }}\n\
             http {{ access_log off; sendfile on; tcp_nopush on; {places} server {{ {server} }} }}\n"
        );
        let file = folder.path().join("nginx.conf");
        fs::write(&file, text)?;
        let mut command = Command::new(packages::file("nginx", "usr/sbin/nginx")?);
        command.args(["-e", "stderr", "-c"]).arg(&file);
        let process = Kept::start(&command, &folder.path().join("log"))?;
        let patience = Instant::now() + Duration::from_secs(10);
        while let Err(error) = TcpStream::connect(address) {
            if Instant::now() > patience {
                bail!("nginx does not serve {address}: {error}\n{}", process.output().text());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(Self { _process: process, _folder: folder })
    }

    /// Serves `root` on a free port of the loopback.
    pub fn on_loopback(root: &Path) -> Result<(Self, SocketAddr)> {
        let free = std::net::TcpListener::bind("127.0.0.1:0").context("no free port")?;
        let address = free.local_addr()?;
        drop(free);
        Ok((Self::start(address, root)?, address))
    }
}
