//! The HTTP client: which redirects, which certificates, which names, and what goes along with a request.

use super::cause;
use crate::access::Access;
use crate::access::time::Clock;
use crate::access::verifier;
use crate::access::warnings::Warnings;
use crate::contract::LANES;
use crate::messages::{FetchCause, FetchWarning, Range, TlsFault};
use crate::sys::machine;
use crate::sys::names::{self, NameError};
use reqwest::StatusCode;
use reqwest::blocking::Response;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::{IF_RANGE, LOCATION, RANGE};
use reqwest::redirect::Policy;
use rustls::ClientConfig;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use url::Url;

/// The longest wait for a connection; the stall limit bounds it further.
const CONNECT: Duration = Duration::from_secs(15);
/// How many redirects are followed.
const REDIRECTS: usize = 10;

/// What all requests share.
struct Shared {
    access: Access,
    clock: Arc<Clock>,
    warnings: Arc<Warnings>,
}

/// A client for the stall limit in use: reqwest's blocking reads take their time-out from the client.
pub struct Clients {
    shared: Arc<Shared>,
    tls: Option<ClientConfig>,
    current: Option<(Duration, Client)>,
}

/// What is asked of a server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// Where.
    pub url: String,
    /// The part of it, where not the whole is wanted.
    pub range: Option<Range>,
    /// The validator of the file that it must be part of still.
    pub if_range: Option<String>,
}

/// Sends requests; the lanes share one.
#[derive(Clone)]
pub struct Client {
    http: reqwest::blocking::Client,
    shared: Arc<Shared>,
}

impl Clients {
    /// Reaches servers as `access` says.
    pub fn new(access: Access) -> Self {
        let clock = Arc::new(Clock::new(access.built));
        let warnings = Arc::new(Warnings::default());
        let tls = verifier::configuration(&access, Arc::clone(&clock), Arc::clone(&warnings));
        Self { shared: Arc::new(Shared { access, clock, warnings }), tls, current: None }
    }

    /// The client for that stall limit.
    pub fn client(&mut self, stall: Duration) -> Result<Client, FetchCause> {
        if let Some((_, client)) = self.current.as_ref().filter(|(limit, _)| *limit == stall) {
            return Ok(client.clone());
        }
        let http = self.build(stall).ok_or(FetchCause::Tls(TlsFault::Setup))?;
        let client = Client { http, shared: Arc::clone(&self.shared) };
        self.current = Some((stall, client.clone()));
        Ok(client)
    }

    fn build(&self, stall: Duration) -> Option<reqwest::blocking::Client> {
        let mut builder = reqwest::blocking::Client::builder()
            .tls_backend_preconfigured(self.tls.clone()?)
            // PID 1's environment comes from the kernel command line; no word of it may redirect the fetch.
            .no_proxy()
            .redirect(Policy::none())
            .retry(reqwest::retry::never())
            .referer(false)
            .user_agent(concat!("rootbeam/", env!("CARGO_PKG_VERSION")))
            .timeout(stall)
            .connect_timeout(stall.min(CONNECT))
            .pool_max_idle_per_host(LANES)
            .http1_only()
            .dns_resolver(Arc::new(SystemNames::new()));
        if let Some(proxy) = &self.shared.access.proxy {
            builder = builder.proxy(reqwest::Proxy::all(proxy.clone()).ok()?);
        }
        builder.build().ok()
    }
}

impl Client {
    /// Sends `request` and waits for the head of an answer that is no redirect.
    pub fn get(&self, request: &Request) -> Result<Response, FetchCause> {
        let Shared { access, clock, .. } = &*self.shared;
        match self.follow(request) {
            // Once more by a better clock, where there is one.
            Err(FetchCause::Tls(TlsFault::Time { .. })) if access.time_servers.correct(clock) => self.follow(request),
            answer => answer,
        }
    }

    /// What a time server said, once.
    pub fn time_told(&self) -> Option<u64> {
        self.shared.clock.told()
    }

    /// What is to be told, each kind once.
    pub fn warnings(&self) -> Vec<FetchWarning> {
        self.shared.warnings.take()
    }

    /// Goes where the servers send, up to ten times. Done here, since only the redirects decide which servers may see
    /// this machine's credentials.
    fn follow(&self, request: &Request) -> Result<Response, FetchCause> {
        let mut url = Url::parse(&request.url).map_err(|_| FetchCause::Protocol)?;
        for _ in 0..=REDIRECTS {
            let response = self.send(&url, request)?;
            let location = response.headers().get(LOCATION).and_then(|location| location.to_str().ok());
            url = match location {
                Some(location) if is_redirect(response.status()) => {
                    redirect(&url, location).ok_or(FetchCause::Redirect)?
                }
                _ => return Ok(response),
            };
        }
        Err(FetchCause::Redirect)
    }

    fn send(&self, url: &Url, Request { range, if_range, .. }: &Request) -> Result<Response, FetchCause> {
        let Shared { access, warnings, .. } = &*self.shared;
        if access.credentials.are_open(url) {
            warnings.note(FetchWarning::Open);
        }
        let mut request = self.http.get(url.clone()).headers(access.credentials.of(url));
        if let Some(range) = range {
            let last = range.end.checked_sub(1).filter(|last| *last >= range.start).ok_or(FetchCause::Protocol)?;
            request = request.header(RANGE, format!("bytes={}-{last}", range.start));
            if let Some(validator) = if_range {
                request = request.header(IF_RANGE, validator);
            }
        }
        request.send().map_err(|error| cause::of_request(&error, access.proxy.is_some()))
    }
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// Where an answer of `from` sends: to http or https, and never from https to anything else.
fn redirect(from: &Url, location: &str) -> Option<Url> {
    let to = from.join(location).ok()?;
    let allowed = matches!((from.scheme(), to.scheme()), ("http", "http" | "https") | ("https", "https"));
    // Credentials that a server makes up are not this machine's to show.
    let bare = to.username().is_empty() && to.password().is_none();
    (allowed && bare).then_some(to)
}

/// Resolves with the C library and keeps its verdict. The addresses of a name share the load: each connection begins
/// at the next one, and each machine somewhere.
struct SystemNames {
    turn: AtomicUsize,
}

impl SystemNames {
    fn new() -> Self {
        let mut first = [0];
        machine::random(&mut first);
        Self { turn: AtomicUsize::new(first.into_iter().map(usize::from).sum()) }
    }
}

/// `addresses`, the first one being that whose turn it is.
fn from_turn(mut addresses: Vec<IpAddr>, turn: usize) -> Vec<IpAddr> {
    let first = turn.checked_rem(addresses.len()).unwrap_or(0);
    addresses.rotate_left(first);
    addresses
}

impl Resolve for SystemNames {
    fn resolve(&self, name: Name) -> Resolving {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        Box::pin(async move {
            let host = name.as_str().to_owned();
            // On a thread of its own: the resolver blocks for seconds, and connections go on meanwhile.
            let found = tokio::task::spawn_blocking(move || names::lookup(&host)).await;
            let addresses = from_turn(found.unwrap_or(Err(NameError::NoServer))?, turn);
            Ok(Box::new(addresses.into_iter().map(|address| SocketAddr::new(address, 0))) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_address_of_a_name_has_its_turn() {
        let addresses: Vec<IpAddr> = (1..4).map(|last| IpAddr::from([10, 0, 0, last])).collect();
        let firsts: Vec<_> = (5..9).map(|turn| from_turn(addresses.clone(), turn)[0]).collect();
        assert_eq!(firsts, [addresses[2], addresses[0], addresses[1], addresses[2]]);
        assert_eq!(from_turn(Vec::new(), 7), Vec::<IpAddr>::new());
    }

    #[test]
    fn a_redirect_keeps_https_and_shows_no_credentials() {
        let to = |from: &str, location: &str| redirect(&Url::parse(from).unwrap(), location).map(String::from);
        let allowed = [("http://h/a/b", "../c", "http://h/c"), ("http://h/a", "https://i/b", "https://i/b")];
        for (from, location, there) in allowed.into_iter().chain([("https://h/a", "//i:8443/b", "https://i:8443/b")]) {
            assert_eq!(to(from, location).as_deref(), Some(there));
        }
        for location in ["http://h/a", "ftp://h/a", "file:///etc/rootbeam/token", "https://u:p@h/a", "https://"] {
            assert_eq!(to("https://h/a", location), None, "{location}");
        }
    }
}
