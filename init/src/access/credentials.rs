//! Headers that go to the servers of image and layers and to nobody else.

use crate::settings::reach::{Header, is_header_text};
use crate::settings::source::Source;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use url::{Origin, Url};

/// The longest token, in bytes: servers refuse longer header lines.
pub const LONGEST_TOKEN: usize = 4096;

/// What is shown, and to whom: scheme, host and port of the sources on the command line. A redirect or a manifest may
/// lead elsewhere, and nothing goes along there.
#[derive(Debug, Default)]
pub struct Credentials {
    origins: Vec<Origin>,
    headers: HeaderMap,
}

impl Credentials {
    /// `headers` and a bearer token for the servers of `sources`. An `Authorization` among the headers wins over the
    /// token, as the command line wins over what is packed.
    pub fn new<'a>(sources: impl IntoIterator<Item = &'a Source>, headers: &[Header], token: Option<&str>) -> Self {
        let mut map = HeaderMap::new();
        let bearer = token.and_then(self::token).map(|token| format!("Bearer {token}"));
        let bearer = bearer.as_deref().map(|value| (AUTHORIZATION.as_str(), value));
        for (name, value) in bearer.into_iter().chain(headers.iter().map(|header| (header.name(), header.value()))) {
            let (Ok(name), Ok(mut value)) = (HeaderName::try_from(name), HeaderValue::from_str(value)) else {
                continue;
            };
            // Neither a debug print nor a compression table shows it.
            value.set_sensitive(true);
            map.insert(name, value);
        }
        Self { origins: sources.into_iter().map(Source::origin).collect(), headers: map }
    }

    /// The headers for a request of `url`.
    pub fn of(&self, url: &Url) -> HeaderMap {
        if self.origins.contains(&url.origin()) { self.headers.clone() } else { HeaderMap::new() }
    }

    /// Whether a request of `url` shows them to everybody on the way.
    pub fn are_open(&self, url: &Url) -> bool {
        url.scheme() == "http" && !self.of(url).is_empty()
    }
}

/// The token of a token file: its only line, printing ASCII without blanks.
pub fn token(file: &str) -> Option<&str> {
    let token = file.trim();
    let fits = (1..=LONGEST_TOKEN).contains(&token.len()) && is_header_text(token);
    (fits && !token.contains([' ', '\t'])).then_some(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(credentials: &Credentials, url: &str) -> Vec<(String, String)> {
        let headers = credentials.of(&Url::parse(url).unwrap());
        let text = |value: &HeaderValue| value.to_str().unwrap().to_owned();
        headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect()
    }

    #[test]
    fn only_the_servers_of_the_sources_see_them() {
        let sources = ["https://h/{mac}.img", "http://b:8080/x"].map(|url| Source::parse(url).unwrap());
        let headers = [Header::parse("X-Node: 7").unwrap()];
        let credentials = Credentials::new(&sources, &headers, Some("abc.def\n"));
        let both = [("authorization", "Bearer abc.def"), ("x-node", "7")];
        let both = both.map(|(name, value)| (name.to_owned(), value.to_owned()));
        for url in ["https://h/other", "https://h:443/x.manifest", "http://b:8080/"] {
            assert_eq!(sent(&credentials, url), both, "{url}");
        }
        for url in ["http://h/x", "https://h:8443/x", "https://sub.h/x", "https://evil/x", "http://b/x"] {
            assert_eq!(sent(&credentials, url), [], "{url}");
        }
        assert!(!format!("{credentials:?}").contains("abc.def"), "{credentials:?}");
        let open = |url: &str| credentials.are_open(&Url::parse(url).unwrap());
        assert_eq!(["https://h/x", "http://b:8080/x", "http://evil/x"].map(open), [false, true, false]);
    }

    #[test]
    fn the_command_line_wins_over_the_packed_token() {
        let sources = [Source::parse("http://h/x").unwrap()];
        let headers = [Header::parse("Authorization: Basic eDp5").unwrap()];
        let credentials = Credentials::new(&sources, &headers, Some("abc"));
        assert_eq!(sent(&credentials, "http://h/x"), [("authorization".to_owned(), "Basic eDp5".to_owned())]);
    }

    #[test]
    fn a_token_is_one_word() {
        assert_eq!(token("abc\r\n"), Some("abc"));
        for bad in ["", "\n", "a b", "a\nb", "\u{e4}", &"x".repeat(LONGEST_TOKEN + 1)] {
            assert_eq!(token(bad), None, "{bad:?}");
        }
    }
}
