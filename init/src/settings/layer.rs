//! `rootbeam.layer=`: an image to be stacked on the image.

use super::MAX_SOURCES;
use super::source::Source;
use super::values::Expected;

/// What marks a layer that may be missing, behind the last URL: the word of a query, with `?` or, where the URL has
/// a query of its own, with `&` before it. It is never sent.
const OPTIONAL: &str = "optional";

/// A layer by its sources.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// Where it is, best source first.
    pub sources: Vec<Source>,
    /// Whether the boot goes on without it where no source has it.
    pub optional: bool,
}

impl Layer {
    /// Reads `URL[,URL…][?optional]`. No URL may hold the mark anywhere else: a required layer that was meant to be
    /// optional shows itself only on the day when it is missing.
    pub fn parse(text: &str) -> Result<Self, Expected> {
        let has_query = |text: &&str| text.rsplit(',').next().is_some_and(|url| url.contains('?'));
        let unmarked = text
            .strip_suffix(OPTIONAL)
            .and_then(|text| text.strip_suffix('?').or_else(|| text.strip_suffix('&').filter(has_query)));
        let urls = unmarked.unwrap_or(text).split(',').filter(|url| !url.is_empty()).take(MAX_SOURCES);
        let sources = urls.map(Source::parse).collect::<Result<Vec<_>, _>>()?;
        if sources.is_empty() {
            return Err(Expected::that(
                "URLs with commas between, and ?optional behind the last where it may be missing",
            ));
        }
        if sources.iter().any(|source| source.asks(OPTIONAL)) {
            return Err(Expected::that("URLs with commas between, and ?optional only at the very end"));
        }
        Ok(Self { sources, optional: unmarked.is_some() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mark_stands_behind_the_last_url_and_is_no_part_of_it() {
        for (text, urls, optional) in [
            ("http://h/x", &["http://h/x"][..], false),
            ("http://h/x?optional", &["http://h/x"], true),
            ("http://h/x?key=1&optional", &["http://h/x?key=1"], true),
            ("http://h/x,http://b/{mac}.img?optional", &["http://h/x", "http://b/x.img"], true),
            ("http://h/x?key=optional", &["http://h/x?key=optional"], false),
            ("http://h/optional", &["http://h/optional"], false),
            ("http://h/x&optional", &["http://h/x&optional"], false),
        ] {
            let layer = Layer::parse(text).unwrap();
            let found: Vec<&str> = layer.sources.iter().map(Source::as_str).collect();
            assert_eq!((found.as_slice(), layer.optional), (urls, optional), "{text}");
        }
    }

    #[test]
    fn a_mark_elsewhere_and_anything_that_is_no_url_is_refused() {
        for bad in [
            "",
            "?optional",
            ",",
            "site.squashfs",
            "http://h/x?optional,http://b/x",
            "http://h/x?optional&key=1",
            "http://h/x?optional?optional",
            "http://h/x&optional?optional&optional",
            "http://h/?optional",
        ] {
            assert!(Layer::parse(bad).is_err(), "{bad:?} became {:?}", Layer::parse(bad));
        }
    }
}
