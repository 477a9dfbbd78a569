//! `--exclude`: which paths stay out.

use anyhow::{Result, bail};
use std::cell::Cell;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Paths that stay out, with all that is in them.
#[derive(Debug)]
pub struct Exclude(Vec<Pattern>);

#[derive(Debug)]
struct Pattern {
    text: String,
    names: Vec<Vec<u8>>,
    used: Cell<bool>,
}

impl Exclude {
    /// Takes paths from the image's root, with or without a leading slash; `*` and `?` match within a name.
    pub fn new(patterns: &[String]) -> Result<Self> {
        let parse = |text: &String| {
            let names: Vec<_> = text.split('/').filter(|name| !name.is_empty() && *name != ".").collect();
            if names.is_empty() || names.contains(&"..") {
                bail!("--exclude {text:?} names no path below the root of the image");
            }
            let names = names.iter().map(|name| name.as_bytes().to_vec()).collect();
            Ok(Pattern { text: text.clone(), names, used: Cell::new(false) })
        };
        patterns.iter().map(parse).collect::<Result<_>>().map(Self)
    }

    /// Whether `path` itself is named; what is in an excluded folder is the caller's to leave out.
    pub fn names(&self, path: &Path) -> bool {
        let names: Vec<&[u8]> = path.iter().map(OsStrExt::as_bytes).collect();
        let mut found = false;
        for pattern in &self.0 {
            let equal = pattern.names.len() == names.len()
                && pattern.names.iter().zip(&names).all(|(pattern, name)| matches(pattern, name));
            if equal {
                pattern.used.set(true);
                found = true;
            }
        }
        found
    }

    /// The excluded ancestor of `path`, or itself.
    pub fn root_of<'a>(&self, path: &'a Path) -> Option<&'a Path> {
        path.ancestors().filter(|ancestor| *ancestor != Path::new("")).filter(|ancestor| self.names(ancestor)).last()
    }

    /// Patterns that named nothing so far.
    pub fn unused(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter(|pattern| !pattern.used.get()).map(|pattern| pattern.text.as_str())
    }
}

/// Whether `name` fits a pattern with `*` and `?`. Goes back to the last star only, so its time is bounded by the
/// product of the lengths.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n) = (0, 0);
    let mut star = None;
    while let Some(byte) = name.get(n) {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(wanted) if *wanted == b'?' || wanted == byte => {
                p += 1;
                n += 1;
            }
            _ => match star {
                Some((at, taken)) => {
                    star = Some((at, taken + 1));
                    p = at + 1;
                    n = taken + 1;
                }
                None => return false,
            },
        }
    }
    pattern.iter().skip(p).all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_match_within_a_name() {
        for (pattern, name, expected) in [
            ("a", "a", true),
            ("a", "b", false),
            ("*", "", true),
            ("*.pyc", "x.pyc", true),
            ("*.pyc", "x.py", false),
            ("a*b*c", "aXbYbZc", true),
            ("a*b*c", "aXbYbZ", false),
            ("?", "é", false),
            ("??", "é", true),
            ("**", "x", true),
            ("", "x", false),
        ] {
            assert_eq!(matches(pattern.as_bytes(), name.as_bytes()), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn names_whole_paths_from_the_root() {
        let exclude = Exclude::new(&["/boot".into(), "var/cache/*".into(), "nothing".into()]).unwrap();
        assert!(exclude.names(Path::new("boot")));
        assert!(!exclude.names(Path::new("usr/boot")));
        assert!(!exclude.names(Path::new("var/cache")));
        assert!(exclude.names(Path::new("var/cache/apt")));
        assert_eq!(exclude.root_of(Path::new("var/cache/apt/pkg.bin")), Some(Path::new("var/cache/apt")));
        assert_eq!(exclude.root_of(Path::new("var/lib")), None);
        assert_eq!(exclude.unused().collect::<Vec<_>>(), ["nothing"]);
        assert!(Exclude::new(&["/".into()]).is_err());
        assert!(Exclude::new(&["../x".into()]).is_err());
    }
}
