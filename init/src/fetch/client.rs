//! The HTTP client: which redirects, which certificates, which names.

use super::Job;
use super::cause;
use crate::contract::LANES;
use crate::messages::FetchCause;
use crate::sys::names::{self, NameError};
use reqwest::blocking::{Client, Response};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::{IF_RANGE, RANGE};
use reqwest::redirect::{Action, Attempt, Policy};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::{ClientConfig, RootCertStore, time_provider::TimeProvider};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// The longest wait for a connection; the stall limit bounds it further.
const CONNECT: Duration = Duration::from_secs(15);
/// How many redirects are followed.
const REDIRECTS: usize = 10;

/// A client for the stall limit in use: reqwest's blocking reads take their time-out from the client.
pub struct Clients {
    tls: Option<ClientConfig>,
    current: Option<(Duration, Client)>,
}

impl Clients {
    /// Trusts the certificates of `pem` and no other.
    pub fn new(pem: &[u8], floor: SystemTime) -> Self {
        Self { tls: tls(pem, floor), current: None }
    }

    /// The client for that stall limit.
    pub fn client(&mut self, stall: Duration) -> Result<Client, FetchCause> {
        if let Some((_, client)) = self.current.as_ref().filter(|(limit, _)| *limit == stall) {
            return Ok(client.clone());
        }
        let client = self.build(stall).ok_or(FetchCause::Tls(crate::messages::TlsFault::Other))?;
        self.current = Some((stall, client.clone()));
        Ok(client)
    }

    fn build(&self, stall: Duration) -> Option<Client> {
        Client::builder()
            .tls_backend_preconfigured(self.tls.clone()?)
            // PID 1's environment comes from the kernel command line; no word of it may redirect the fetch.
            .no_proxy()
            .redirect(Policy::custom(redirect))
            .retry(reqwest::retry::never())
            .referer(false)
            .user_agent(concat!("rootbeam/", env!("CARGO_PKG_VERSION")))
            .timeout(stall)
            .connect_timeout(stall.min(CONNECT))
            .pool_max_idle_per_host(LANES)
            .http1_only()
            .dns_resolver(Arc::new(SystemNames))
            .build()
            .ok()
    }
}

/// Sends the request of `job` and waits for the head of an answer.
pub fn get(client: &Client, job: &Job) -> Result<Response, FetchCause> {
    let mut request = client.get(&job.url);
    if let Some(range) = job.range {
        let last = range.end.checked_sub(1).filter(|last| *last >= range.start).ok_or(FetchCause::Protocol)?;
        request = request.header(RANGE, format!("bytes={}-{last}", range.start));
        if let Some(validator) = &job.if_range {
            request = request.header(IF_RANGE, validator);
        }
    }
    request.send().map_err(|error| cause::of_request(&error))
}

/// Up to ten, and never from https to anything else.
fn redirect(attempt: Attempt<'_>) -> Action {
    let secure = attempt.previous().iter().any(|url| url.scheme() == "https");
    if attempt.previous().len() > REDIRECTS || (secure && attempt.url().scheme() != "https") {
        attempt.error(cause::RedirectRefused)
    } else {
        attempt.follow()
    }
}

fn tls(pem: &[u8], floor: SystemTime) -> Option<ClientConfig> {
    let mut roots = RootCertStore::empty();
    let (_, _) = roots.add_parsable_certificates(CertificateDer::pem_slice_iter(pem).flatten());
    let floor = floor.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_details(provider, Arc::new(Clock { floor }));
    let builder = builder.with_safe_default_protocol_versions().ok()?;
    Some(builder.with_root_certificates(roots).with_no_client_auth())
}

/// The wall clock, but never before the build of the archive: a machine without a clock chip starts in 1970.
#[derive(Debug)]
struct Clock {
    floor: Duration,
}

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Some(UnixTime::since_unix_epoch(now.max(self.floor)))
    }
}

/// Resolves with the C library and keeps its verdict.
struct SystemNames;

impl Resolve for SystemNames {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let host = name.as_str().to_owned();
            // On a thread of its own: the resolver blocks for seconds, and connections go on meanwhile.
            let found = tokio::task::spawn_blocking(move || names::lookup(&host)).await;
            let addresses = found.unwrap_or(Err(NameError::NoServer))?;
            Ok(Box::new(addresses.into_iter().map(|address| SocketAddr::new(address, 0))) as Addrs)
        })
    }
}
