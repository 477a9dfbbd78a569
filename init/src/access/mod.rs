//! What the fetch worker brings along to the servers: whom it trusts and by which clock, what it shows of this machine,
//! and through which proxy it goes. It is read from the archive and the command line before the sandbox closes; no
//! message carries any of it, and no line of a log shows the secrets among it.

pub mod certificates;
pub mod credentials;
pub mod sntp;
pub mod time;
pub mod verifier;
pub mod warnings;

use crate::settings::Settings;
use crate::{clock, contract};
use certificates::Identity;
use credentials::Credentials;
use std::path::Path;
use time::TimeServers;
use url::Url;

/// How servers are reached.
#[derive(Debug, Default)]
pub struct Access {
    /// Trusted root certificates, PEM.
    pub roots: Vec<u8>,
    /// What this machine shows to servers that ask for a client certificate.
    pub identity: Option<Identity>,
    /// When the archive was built, in seconds since 1970: no certificate is judged by an earlier time.
    pub built: u64,
    /// Who is asked for the time where a certificate fails for it.
    pub time_servers: TimeServers,
    /// Whether every byte that counts is held against a packed key or a hash from the command line. Then a
    /// certificate whose only fault is time does no harm: the clock may be wrong, and the bytes cannot be. (Credentials
    /// are shown to such a server too: its chain and its name hold.)
    pub pinned: bool,
    /// Headers, and for whom.
    pub credentials: Credentials,
    /// The HTTP proxy.
    pub proxy: Option<Url>,
}

impl Access {
    /// From the archive unpacked at `root`, and the settings.
    pub fn packed(root: &Path, settings: &Settings) -> Self {
        let keys = std::fs::read_dir(root.join(contract::KEYS)).is_ok_and(|mut keys| keys.next().is_some());
        let access = Self::of(|path| std::fs::read(root.join(path)).ok(), keys, settings);
        Self { time_servers: access.time_servers.and_those_of_the_lease(), ..access }
    }

    /// From the archive's files, whose bytes `read` gives by their paths, and the settings; `keys` says whether there are
    /// files in [`contract::KEYS`].
    pub fn of(read: impl Fn(&str) -> Option<Vec<u8>>, keys: bool, settings: &Settings) -> Self {
        let identity = match (read(contract::CLIENT_CERTIFICATE), read(contract::CLIENT_KEY)) {
            (Some(certificate), Some(key)) => Some(Identity { certificate, key }),
            _ => None,
        };
        let token = read(contract::TOKEN).and_then(|token| String::from_utf8(token).ok());
        Self {
            roots: read(contract::CA).unwrap_or_default(),
            identity,
            built: read(contract::BUILD_TIME).and_then(|text| clock::built(&text)).unwrap_or(0),
            time_servers: TimeServers::new(settings),
            // The hashes are the image's alone.
            pinned: keys || (settings.sha256.or(settings.manifest).is_some() && settings.layers.is_empty()),
            credentials: Credentials::new(settings.sources_named(), &settings.headers, token.as_deref()),
            proxy: settings.proxy.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packed_key_and_either_hash_of_the_line_pin_the_content() {
        let root = tempfile::tempdir().unwrap();
        let pinned = |line: &str| Access::packed(root.path(), &Settings::parse(b"", line.as_bytes()).0).pinned;
        let hash = "ab".repeat(32);
        assert!(pinned(&format!("rootbeam.sha256={hash}")) && pinned(&format!("rootbeam.manifest=sha256:{hash}")));
        assert!(!pinned(&format!("rootbeam.sha256={hash} rootbeam.layer=http://h/l")), "no hash is a layer's");
        // A demand alone proves nothing, and what a server says of its own file neither.
        assert!(!pinned("") && !pinned("rootbeam.verify=require"));
        std::fs::create_dir_all(root.path().join(contract::KEYS)).unwrap();
        assert!(!pinned(""));
        std::fs::write(root.path().join(contract::KEYS).join("web.pub"), "RWQ").unwrap();
        assert!(pinned(""));
    }
}
