//! Reading published files over HTTP.

use anyhow::{Context, Result, bail};
use reqwest::blocking::{Client, Response};
use reqwest::{Certificate, StatusCode, Url};
use std::io::Read;
use std::path::Path;
use std::time::Duration;

/// Where Debian and its kin keep the certificates that the system trusts.
const SYSTEM_CA: &str = "/etc/ssl/certs/ca-certificates.crt";
/// How long a server may stay silent.
const STALL: Duration = Duration::from_secs(30);

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
            .timeout(None)
            .connect_timeout(STALL)
            .user_agent(concat!("rootbeam/", env!("CARGO_PKG_VERSION")))
            .build()
            .context("cannot set up the HTTP client")?;
        Ok(Self(client))
    }

    /// Begins to fetch `url`.
    pub fn open(&self, url: &Url) -> Result<Response> {
        let response = self.0.get(url.clone()).send().with_context(|| match url.scheme() {
            "https" => format!("cannot fetch {url} (for a certificate of your own authority give --ca PEM)"),
            _ => format!("cannot fetch {url}"),
        })?;
        match response.status() {
            StatusCode::OK => Ok(response),
            status => bail!("cannot fetch {url}: the server answered {status}"),
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

fn certificates(pem: &Path) -> Result<Vec<Certificate>> {
    let bytes = std::fs::read(pem).with_context(|| format!("cannot read the certificates in {}", pem.display()))?;
    let certificates = Certificate::from_pem_bundle(&bytes)
        .with_context(|| format!("{} does not hold certificates in PEM", pem.display()))?;
    if certificates.is_empty() {
        bail!("{} holds no certificate", pem.display());
    }
    Ok(certificates)
}

/// `url` with `suffix` appended to its path; the query stays.
pub fn beside(url: &Url, suffix: &str) -> Url {
    let mut url = url.clone();
    let path = format!("{}{suffix}", url.path());
    url.set_path(&path);
    url
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_beside_keeps_the_query() {
        let url = Url::parse("https://host:8443/a/web.squashfs?token=1").unwrap();
        assert_eq!(beside(&url, ".manifest").as_str(), "https://host:8443/a/web.squashfs.manifest?token=1");
    }
}
