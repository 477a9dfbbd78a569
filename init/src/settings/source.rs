//! URLs of images: checked, filled in with the facts of the machine, and shown without what may be secret.

use super::values::Expected;
use crate::facts::{Facts, WORDS};
use crate::label::Label;
use std::fmt;
use url::Url;

/// What stands in a text where something secret was.
pub const HIDDEN: &str = "***";
/// What a source is.
pub const A_URL: &str = "a URL such as http://server/web.squashfs";

/// A URL that an image can be fetched from. Behind its host it may hold `{words}` that stand for facts of the machine
/// until [`fill`](Self::fill). `Display` and `Debug` hide the values of its query: a signed URL's key stands there.
#[derive(Clone, PartialEq, Eq)]
pub struct Source {
    /// The text as it was given, where it holds words.
    template: Option<String>,
    /// The URL; of a template, with `x` for every word.
    url: Url,
}

/// A word of a URL that this machine has nothing for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfilled {
    /// The machine does not have it, or not in a form that a URL can hold.
    #[error("this machine has no {{{0}}}")]
    Missing(String),
    /// With the values it is no URL of an image.
    #[error("filled in, it is not {0}")]
    Unfit(Expected),
}

impl Source {
    /// Reads an http or https URL with a host and without credentials.
    pub fn parse(text: &str) -> Result<Self, Expected> {
        let (start, rest) = text.split_at(authority_end(text));
        if start.contains(['{', '}']) {
            return Err(Expected::that("a URL with its {words} behind the host"));
        }
        let sample = replace(rest, |word| {
            let known = WORDS.contains(&word).then(|| "x".to_owned());
            known.ok_or_else(|| {
                Expected(format!("a URL whose words are of {}", WORDS.map(|w| format!("{{{w}}}")).join(" ")))
            })
        })?;
        let template = (sample != rest).then(|| text.to_owned());
        Ok(Self { template, url: check(&format!("{start}{sample}"))? })
    }

    /// Whether its query has a part of that name.
    pub fn asks(&self, name: &str) -> bool {
        self.url.query().is_some_and(|query| query.split('&').any(|part| part == name))
    }

    /// A file beside this one, its words filled in; the query stays, as it does for all that lies beside an image.
    pub fn beside(&self, name: &Label) -> Result<Self, Expected> {
        let mut url = self.url.clone();
        // Only URLs without a host have no segments.
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop().push(name.as_str());
        }
        Ok(Self { template: None, url: check(url.as_str())? })
    }

    /// The same with the machine's values for its words.
    pub fn fill(&self, facts: &Facts) -> Result<Self, Unfilled> {
        let Some(template) = &self.template else { return Ok(self.clone()) };
        let text = replace(template, |word| facts.escaped(word).ok_or_else(|| Unfilled::Missing(word.to_owned())))?;
        Ok(Self { template: None, url: check(&text).map_err(Unfilled::Unfit)? })
    }

    /// The words that it holds.
    pub fn words(&self) -> impl Iterator<Item = &'static str> {
        let text = self.template.as_deref().unwrap_or_default();
        WORDS.into_iter().filter(move |word| text.contains(&format!("{{{word}}}")))
    }

    /// The URL as text, whole: for the workers, not for a log.
    pub fn as_str(&self) -> &str {
        self.url.as_str()
    }

    /// Scheme, host and port: to whom this machine shows its credentials.
    pub fn origin(&self) -> url::Origin {
        self.url.origin()
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Url keeps its text in ASCII with control characters escaped.
        f.write_str(&public(self.template.as_deref().unwrap_or(self.url.as_str())))
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Source({self})")
    }
}

fn check(text: &str) -> Result<Url, Expected> {
    let url = Url::parse(text).map_err(|_| Expected::that(A_URL))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(Expected::that("a URL that begins with http:// or https://"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(Expected::that(
            "a URL without user and password: `rootbeam pack --token` or rootbeam.header= carries credentials",
        ));
    }
    if url.path().ends_with('/') {
        return Err(Expected::that("the URL of a file, not of a folder"));
    }
    Ok(url)
}

/// Where scheme and host of a URL end and its path begins.
fn authority_end(text: &str) -> usize {
    let host = text.find("://").map_or(0, |at| at + 3);
    let behind = text.get(host..).unwrap_or_default();
    behind.find(['/', '?', '#']).map_or(text.len(), |at| host + at)
}

/// `text` with each `{word}` replaced.
fn replace<E>(text: &str, mut value: impl FnMut(&str) -> Result<String, E>) -> Result<String, E> {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, behind)) = rest.split_once('{') {
        // A brace that is never closed has no word, which nobody knows.
        let (word, after) = behind.split_once('}').unwrap_or(("", behind));
        out.push_str(before);
        out.push_str(&value(word)?);
        rest = after;
    }
    out.push_str(rest);
    Ok(out)
}

/// The text of a URL, or of several with commas between, without user, password and values of the query; also of
/// what only tries to be one.
pub fn public(text: &str) -> String {
    text.split(',').map(public_url).collect::<Vec<_>>().join(",")
}

fn public_url(text: &str) -> String {
    let (url, query) = text.split_once('?').map_or((text, None), |(url, query)| (url, Some(query)));
    let (start, path) = url.split_at(authority_end(url));
    let mut out = match (start.find("://"), start.rfind('@')) {
        (Some(scheme), Some(at)) if at > scheme => {
            let (scheme, host) = (start.get(..scheme + 3), start.get(at..));
            format!("{}{HIDDEN}{}", scheme.unwrap_or_default(), host.unwrap_or_default())
        }
        _ => start.to_owned(),
    };
    out.push_str(path);
    if let Some(query) = query {
        let hidden =
            |part: &str| part.split_once('=').map_or(HIDDEN.to_owned(), |(name, _)| format!("{name}={HIDDEN}"));
        out.push('?');
        out.push_str(&query.split('&').map(hidden).collect::<Vec<_>>().join("&"));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_urls_that_cannot_be_an_image() {
        for bad in ["", "web.squashfs", "ftp://h/x", "http://", "http://u:p@h/x", "http://h/", "http:///x"] {
            let source = Source::parse(bad);
            // "http:///x" names host x and no file.
            assert!(source.is_err(), "{bad:?} became {source:?}");
        }
        assert_eq!(Source::parse("http://[fd00::1]:8080/a b").unwrap().as_str(), "http://[fd00::1]:8080/a%20b");
    }

    fn facts() -> Facts {
        let some = |text: &str| Some(text.to_owned());
        Facts { mac: some("52-54-00-12-34-56"), serial: some("A/1"), arch: some("x86_64"), ..Facts::default() }
    }

    #[test]
    fn words_become_the_machines_values() {
        let source = Source::parse("https://h:8443/{arch}/node-{mac}.img?s={serial}").unwrap();
        assert_eq!(source.to_string(), "https://h:8443/{arch}/node-{mac}.img?s=***");
        let filled = source.fill(&facts()).unwrap();
        assert_eq!(filled.as_str(), "https://h:8443/x86_64/node-52-54-00-12-34-56.img?s=A%2F1");
        assert_eq!(filled.origin(), source.origin());
        assert_eq!(source.words().collect::<Vec<_>>(), ["mac", "serial", "arch"]);
        assert_eq!(filled.words().count(), 0);
        assert_eq!(filled.fill(&Facts::default()), Ok(filled));
    }

    #[test]
    fn a_file_beside_keeps_folder_and_query() {
        let beside = |url: &str| Source::parse(url).unwrap().beside(&Label::new("site.manifest").unwrap()).unwrap();
        assert_eq!(beside("https://h:8443/a/b/web.img?sig=1/2").as_str(), "https://h:8443/a/b/site.manifest?sig=1/2");
        assert_eq!(beside("http://h/web.img").as_str(), "http://h/site.manifest");
    }

    #[test]
    fn an_unknown_word_and_a_missing_fact_are_named() {
        let expected = "a URL whose words are of {mac} {uuid} {serial} {hostname} {arch}";
        for bad in ["http://h/{colour}.img", "http://h/{mac", "http://h/{}"] {
            assert_eq!(Source::parse(bad).unwrap_err().0, expected, "{bad}");
        }
        let missing = Source::parse("http://h/{hostname}.img").unwrap().fill(&facts()).unwrap_err();
        assert_eq!(missing.to_string(), "this machine has no {hostname}");
    }

    #[test]
    fn words_do_not_choose_the_host() {
        for bad in ["http://{hostname}/x", "http://h{arch}:80/x", "{arch}://h/x", "{mac}"] {
            assert!(Source::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn secrets_of_urls_are_not_shown() {
        for (url, shown) in [
            ("http://u:p@ss@h/a", "http://***@h/a"),
            (
                "https://h/a?X-Signature=abc&key&n=1,http://b/c?d=e",
                "https://h/a?X-Signature=***&***&n=***,http://b/c?d=***",
            ),
            ("http://h/a@b", "http://h/a@b"),
            ("http://u:p", "http://u:p"),
            ("not a url?x=y", "not a url?x=***"),
        ] {
            assert_eq!(public(url), shown);
        }
        let signed = Source::parse("https://h/a?sig=abc").unwrap();
        assert_eq!(format!("{signed} {signed:?}"), "https://h/a?sig=*** Source(https://h/a?sig=***)");
    }
}
