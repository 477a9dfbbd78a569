//! Reading published files over HTTP.

use anyhow::{Context, Result, bail};
use reqwest::blocking::{Client, Response};
use reqwest::header::{ETAG, HeaderMap, IF_RANGE, LAST_MODIFIED, RANGE};
use reqwest::{Certificate, StatusCode, Url};
use rootbeam_init::trust::SUFFIX as SIGNATURE;
use std::io::{self, Read};
use std::path::Path;
use std::time::Duration;

/// Where Debian and its kin keep the certificates that the system trusts.
const SYSTEM_CA: &str = "/etc/ssl/certs/ca-certificates.crt";
/// How long a server may stay silent.
const STALL: Duration = Duration::from_secs(30);
/// How often a request or a download that breaks off is taken up again before it counts as failed; any byte begins the
/// count anew.
const TRIES: u32 = 5;
/// The pause before the first of these; each further one is twice as long.
const PAUSE: Duration = Duration::from_millis(200);

/// A client that trusts the certificates of `ca`, else those of the system.
pub struct Remote(Client);

impl Remote {
    /// A client for `url`. Certificates are read for https only.
    pub fn new(url: &Url, ca: Option<&Path>) -> Result<Self> {
        // Fails only where a provider is installed already, which then serves as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let certificates = match (url.scheme(), ca) {
            (_, Some(ca)) => certificates(ca)?,
            ("https", None) => certificates(Path::new(SYSTEM_CA))
                .context("the system's trusted certificates are missing: install ca-certificates or give --ca PEM")?,
            _ => Vec::new(),
        };
        let client = Client::builder()
            .no_proxy()
            .tls_certs_only(certificates)
            // Of each read, not of the whole.
            .timeout(STALL)
            .connect_timeout(STALL)
            .user_agent(concat!("rootbeam/", env!("CARGO_PKG_VERSION")))
            .build()
            .context("cannot set up the HTTP client")?;
        Ok(Self(client))
    }

    /// Begins to fetch `url`.
    pub fn open(&self, url: &Url) -> Result<Body> {
        let response = self.ask(url).with_context(|| match url.scheme() {
            "https" => format!("cannot fetch {url} (for a certificate of your own authority give --ca PEM)"),
            _ => format!("cannot fetch {url}"),
        })?;
        match response.status() {
            StatusCode::OK => Ok(Body::new(self.0.clone(), url.clone(), response)),
            status @ StatusCode::NOT_FOUND => bail!(
                "cannot fetch {url}: the server answered {status}: correct the URL, or put the file there, as `rootbeam \
                 image publish` does{}",
                if url.path().ends_with(SIGNATURE) { " with --sign-key" } else { "" }
            ),
            status => bail!("cannot fetch {url}: the server answered {status}"),
        }
    }

    /// Asks for `url`. A connection that was kept may be closed by the server at that very moment (RFC 9112, 9.5): then
    /// anew.
    fn ask(&self, url: &Url) -> reqwest::Result<Response> {
        let mut failures = 0;
        loop {
            match self.0.get(url.clone()).send() {
                Err(error) if error.is_request() && !error.is_connect() && !error.is_timeout() && failures < TRIES => {
                    std::thread::sleep(PAUSE * 2_u32.pow(failures));
                    failures += 1;
                }
                answer => return answer,
            }
        }
    }

    /// Fetches the whole of `url`, which may have at most `limit` bytes.
    pub fn get(&self, url: &Url, limit: u64) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let response = self.open(url)?;
        response.take(limit + 1).read_to_end(&mut bytes).with_context(|| format!("cannot fetch {url}"))?;
        if bytes.len() as u64 > limit {
            bail!("{url} has more than the {limit} bytes that it may have");
        }
        Ok(bytes)
    }
}

/// The bytes of a URL. Where the connection breaks off, the rest is asked for by range, and only of the same file.
pub struct Body {
    client: Client,
    url: Url,
    response: Option<Response>,
    /// How many bytes came.
    at: u64,
    size: Option<u64>,
    validator: Option<String>,
    failures: u32,
}

impl Body {
    fn new(client: Client, url: Url, response: Response) -> Self {
        let (size, validator) = (response.content_length(), validator(response.headers()));
        Self { client, url, response: Some(response), at: 0, size, validator, failures: 0 }
    }

    fn part(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let response = match &mut self.response {
            Some(response) => response,
            None => {
                std::thread::sleep(PAUSE * 2_u32.pow(self.failures.saturating_sub(1)));
                let response = self.rest()?;
                self.response.insert(response)
            }
        };
        let read = response.read(buffer)?;
        if read == 0 && self.size.is_some_and(|size| self.at < size) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(read)
    }

    /// Asks for what did not come yet.
    fn rest(&self) -> io::Result<Response> {
        let mut request = self.client.get(self.url.clone()).header(RANGE, format!("bytes={}-", self.at));
        if let Some(validator) = &self.validator {
            request = request.header(IF_RANGE, validator);
        }
        let response = request.send().map_err(io::Error::other)?;
        let begins = response.headers().get("content-range").and_then(|range| range.to_str().ok());
        let begins = begins.and_then(|range| range.strip_prefix("bytes ")?.split('-').next()?.parse().ok());
        match response.status() {
            StatusCode::PARTIAL_CONTENT if begins == Some(self.at) => Ok(response),
            StatusCode::PARTIAL_CONTENT | StatusCode::OK => Err(io::Error::other(format!(
                "the connection broke after {} bytes, and the server does not go on from there: the file was replaced, \
                 or it knows no ranges",
                self.at
            ))),
            status => Err(io::Error::other(format!("the server answered {status}"))),
        }
    }
}

impl Read for Body {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.part(buffer) {
                Ok(read) => {
                    self.at += read as u64;
                    self.failures = 0;
                    return Ok(read);
                }
                Err(error) => {
                    self.response = None;
                    self.failures += 1;
                    if self.failures > TRIES || self.size.is_none() {
                        return Err(error);
                    }
                }
            }
        }
    }
}

/// A strong ETag, else Last-Modified: what If-Range takes.
fn validator(headers: &HeaderMap) -> Option<String> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    text(ETAG).filter(|tag| tag.starts_with('"')).or_else(|| text(LAST_MODIFIED)).map(str::to_owned)
}

fn certificates(pem: &Path) -> Result<Vec<Certificate>> {
    let bytes = std::fs::read(pem).with_context(|| format!("cannot read the certificates in {}", pem.display()))?;
    let certificates = Certificate::from_pem_bundle(&bytes)
        .with_context(|| format!("{} does not hold certificates in PEM", pem.display()))?;
    if certificates.is_empty() {
        bail!("{} holds no certificate", pem.display());
    }
    Ok(certificates)
}
