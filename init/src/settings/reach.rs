//! Options of how servers are reached: headers, proxy, time servers.

use super::source::HIDDEN;
use super::values::Expected;
use crate::label::Label;
use std::fmt;
use std::net::IpAddr;
use url::Url;

/// The headers that are kept; a kernel command line has room for few more.
pub const MAX_HEADERS: usize = 16;
/// The time servers that are kept.
const MAX_TIME_SERVERS: usize = 4;

/// Headers that a request has of its own, or that would change what it means.
const OWN_HEADERS: [&str; 10] = [
    "accept-encoding",
    "connection",
    "content-length",
    "expect",
    "host",
    "if-range",
    "range",
    "te",
    "transfer-encoding",
    "upgrade",
];

/// A request header. What it says may be a secret: neither `Display` nor `Debug` shows the value.
#[derive(Clone, PartialEq, Eq)]
pub struct Header {
    name: String,
    value: String,
}

impl Header {
    /// Reads `NAME:VALUE`: a token, then printing ASCII, blanks around it cut.
    pub fn parse(text: &str) -> Result<Self, Expected> {
        let expected = || Expected::that("a header such as X-Node:web1");
        let (name, value) = text.split_once(':').ok_or_else(expected)?;
        let (name, value) = (name.trim().to_ascii_lowercase(), value.trim());
        // RFC 9110, 5.6.2.
        let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
        if name.is_empty() || !name.bytes().all(token) || value.is_empty() || !is_header_text(value) {
            return Err(expected());
        }
        if OWN_HEADERS.contains(&name.as_str()) || name.starts_with("proxy-") {
            return Err(Expected(format!("a header that rootbeam does not send by itself, as it does {name}")));
        }
        Ok(Self { name, value: value.to_owned() })
    }

    /// Its name, in lower case.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its value, for the request alone.
    pub fn value(&self) -> &str {
        &self.value
    }
}

impl fmt::Debug for Header {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {HIDDEN}", self.name)
    }
}

/// Whether `text` can be the value of a header: printing ASCII and blanks.
pub fn is_header_text(text: &str) -> bool {
    text.bytes().all(|b| matches!(b, b'\t' | b' '..=b'~'))
}

/// Reads an HTTP proxy's URL: scheme, host and port.
pub fn proxy(text: &str) -> Result<Url, Expected> {
    let expected = || Expected::that("the URL of an HTTP proxy such as http://proxy:3128, without user and password");
    let url = Url::parse(text).map_err(|_| expected())?;
    let plain = url.username().is_empty() && url.password().is_none() && url.query().is_none();
    let fits = matches!(url.scheme(), "http" | "https") && url.has_host() && url.path() == "/" && plain;
    if fits { Ok(url) } else { Err(expected()) }
}

/// Reads names or addresses of time servers with commas between.
pub fn time_servers(text: &str) -> Result<Vec<String>, Expected> {
    let servers: Option<Vec<String>> =
        text.split(',').filter(|s| !s.is_empty()).take(MAX_TIME_SERVERS).map(host).collect();
    servers.filter(|servers| !servers.is_empty()).ok_or_else(|| Expected::that("names or addresses of time servers"))
}

/// A name, or an address with or without brackets.
fn host(text: &str) -> Option<String> {
    let inner = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text);
    let address = inner.parse::<IpAddr>().ok().map(|address| address.to_string());
    let name = || Label::new(text).ok().filter(|name| !name.as_str().contains(':')).map(String::from);
    address.or_else(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_a_token_and_printing_text() {
        let header = Header::parse("X-Node: web 1 ").unwrap();
        assert_eq!((header.name(), header.value()), ("x-node", "web 1"));
        assert_eq!(format!("{header:?}"), "x-node: ***");
        let own = ["Host:evil", "Range:bytes=0-", "Transfer-Encoding:chunked", "Proxy-Authorization:Basic x"];
        let not = ["", "X", ":x", "X:", "X Y:z", "X:a\r\nY:b", "X:\u{e4}", "X\u{e4}:y"];
        for bad in own.into_iter().chain(not) {
            assert!(Header::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_proxy_is_a_host_and_perhaps_a_port() {
        assert_eq!(proxy("http://proxy:3128").unwrap().as_str(), "http://proxy:3128/");
        for bad in ["", "proxy:3128", "socks5://p", "http://u:p@proxy", "http://proxy/path", "http://proxy/?q", "none"]
        {
            assert!(proxy(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn time_servers_are_names_or_addresses() {
        let servers = time_servers("ntp.example,10.0.0.1,[fd00::1],fd00::2,five").unwrap();
        assert_eq!(servers, ["ntp.example", "10.0.0.1", "fd00::1", "fd00::2"]);
        for bad in ["", ",", "a b", "http://x", "a:b", "../x"] {
            assert!(time_servers(bad).is_err(), "{bad:?}");
        }
    }
}
