//! `rootbeam serve`: a folder over HTTP, for machines that boot.

mod body;
pub mod conditions;
pub mod log;
pub mod path;
pub mod server;

use crate::term::{Term, result};
use anyhow::{Context, Result};
use log::Log;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use server::Server;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use tokio::signal::unix::{SignalKind, signal};

const EXAMPLES: &str = "\
Examples:
  rootbeam serve /srv/images
  rootbeam serve /srv/images --listen 10.0.0.5:80
  rootbeam serve . --listen 127.0.0.1:8080
  rootbeam serve . --port 0 --json        prints a line with the chosen port, for scripts

Ranges, If-Range, entity tags and dates are answered as a resuming client needs them. Dot files and links that lead
out of the folder are not served. Published files should be replaced by renaming, never written over: a client that is
reading the old one then finishes it.

A connection without a request for 60 s is closed, and one whose client takes nothing of its answer for 3 minutes.
The access log goes to standard error. SIGINT and SIGTERM stop the server; answers under way get 5 s to finish.";

/// Arguments of `rootbeam serve`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The folder
    #[arg(value_name = "DIR")]
    pub folder: PathBuf,
    /// Address and port to listen on; of an IPv6 address: [::]:8080
    #[arg(long, value_name = "ADDR:PORT", default_value = "0.0.0.0:8080", value_parser = listen)]
    pub listen: SocketAddr,
    /// Listen on this port of the address; 0 lets the system choose
    #[arg(long, value_name = "PORT")]
    pub port: Option<u16>,
    /// Print address, port and URLs as one line of JSON
    #[arg(long)]
    pub json: bool,
}

fn listen(text: &str) -> Result<SocketAddr, String> {
    text.parse()
        .map_err(|_| "write an address and a port, as 0.0.0.0:8080 or [::]:8080; --port gives a port alone".into())
}

#[derive(serde::Serialize)]
struct Started {
    address: IpAddr,
    port: u16,
    urls: Vec<String>,
}

/// Runs `rootbeam serve` until a signal ends it.
pub fn run(args: Args, term: &Term) -> Result<()> {
    let mut listen = args.listen;
    if let Some(port) = args.port {
        listen.set_port(port);
    }
    // From here on a signal waits for `stopped` instead of ending the process.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let signals = runtime
        .block_on(async { signal(SignalKind::interrupt()).and_then(|i| Ok((i, signal(SignalKind::terminate())?))) });
    let (mut interrupt, mut terminate) = signals.context("cannot wait for signals")?;

    allow_many_files();
    let log = if term.is_quiet() { Log::none() } else { Log::stderr() };
    let server = Server::start(&args.folder, listen, log)?;
    let address = server.address();
    let urls: Vec<String> = reachable(address).into_iter().map(|at| format!("http://{at}/")).collect();
    if args.json {
        let started = Started { address: address.ip(), port: address.port(), urls };
        result(serde_json::to_string(&started)?)?;
    } else {
        result(format_args!("serving {} at {}", args.folder.display(), urls.join(" ")))?;
    }

    runtime.block_on(async {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    });
    term.note("stopping");
    // A second signal does not wait for the answers under way.
    let stopping = runtime.spawn_blocking(|| server.stop());
    runtime.block_on(async {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = stopping => {}
        }
    });
    runtime.shutdown_background();
    Ok(())
}

/// Every connection is an open file, and every answer one more: of these the system's soft limit is small, for the sake
/// of old programs that use select(2), and the hard one is not.
fn allow_many_files() {
    let limit = getrlimit(Resource::Nofile);
    // The old limit will do too.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}

/// The addresses by which a listener can be reached: its own, or all of the machine's where it listens on any.
fn reachable(address: SocketAddr) -> Vec<SocketAddr> {
    if !address.ip().is_unspecified() {
        return vec![address];
    }
    let mut found: Vec<IpAddr> = nix::ifaddrs::getifaddrs()
        .into_iter()
        .flatten()
        .filter_map(|interface| {
            let at = interface.address?;
            let v4 = at.as_sockaddr_in().map(|at| IpAddr::V4(at.ip()));
            v4.or_else(|| at.as_sockaddr_in6().map(|at| IpAddr::V6(at.ip())))
        })
        .filter(|ip| is_useful(*ip, address.is_ipv6()))
        .collect();
    // Those that other machines can use come first.
    found.sort_by_key(|ip| (ip.is_loopback(), ip.is_ipv6()));
    found.dedup();
    if found.is_empty() {
        found.push(Ipv4Addr::LOCALHOST.into());
    }
    found.into_iter().map(|ip| SocketAddr::new(ip, address.port())).collect()
}

/// Link-local IPv6 addresses mean nothing without an interface, so no URL can name them.
fn is_useful(ip: IpAddr, listens_on_v6: bool) -> bool {
    match ip {
        IpAddr::V4(_) => true,
        IpAddr::V6(ip) => listens_on_v6 && !ip.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_is_an_address_and_a_port() {
        assert_eq!(listen("[::]:8080"), Ok((std::net::Ipv6Addr::UNSPECIFIED, 8080).into()));
        for bad in ["8080", "localhost:80", ":80", "10.0.0.5", "::1:80"] {
            assert!(listen(bad).is_err_and(|said| said.contains("0.0.0.0:8080 or [::]:8080")), "{bad}");
        }
    }

    #[test]
    fn a_listener_on_one_address_is_reached_there() {
        let address: SocketAddr = "10.1.2.3:80".parse().unwrap();
        assert_eq!(reachable(address), [address]);
    }

    #[test]
    fn a_listener_on_any_address_is_reached_on_the_machines_own() {
        let found = reachable("0.0.0.0:81".parse().unwrap());
        assert!(found.iter().all(|at| at.is_ipv4() && !at.ip().is_unspecified() && at.port() == 81), "{found:?}");
        assert!(!found.is_empty());
    }
}
