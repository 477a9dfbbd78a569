//! Names and patterns: `-` and `_` are one character to the module tools, and aliases are shell patterns.

/// The longest name or alias that is looked at, in bytes. The kernel's own requests are shorter than 256.
pub const MAX_NAME: usize = 4096;

/// `name` with every `-` as `_`, except inside of brackets, where it is a range of an alias pattern: the spelling
/// that depmod writes and that /proc/modules shows.
pub fn canonical(name: &str) -> String {
    let mut bracket = false;
    name.chars()
        .map(|c| {
            match c {
                '[' => bracket = true,
                ']' => bracket = false,
                _ => {}
            }
            if c == '-' && !bracket { '_' } else { c }
        })
        .collect()
}

/// The canonical name of a module file: `kernel/fs/nls/nls_iso8859-1.ko.xz` is `nls_iso8859_1`.
pub fn of_path(path: &str) -> Option<String> {
    let file = path.rsplit('/').next()?;
    let stem = file.split_once(".ko").filter(|(stem, rest)| !stem.is_empty() && is_suffix(rest))?.0;
    Some(canonical(stem))
}

fn is_suffix(rest: &str) -> bool {
    matches!(rest, "" | ".gz" | ".xz" | ".zst")
}

/// Whether the shell pattern `pattern` (`*`, `?`, `[a-f]`, `[!x]`, `\` before a literal) matches all of `text`, as
/// fnmatch(3) without flags does. Time is bounded by the product of the lengths.
pub fn matches(pattern: &str, text: &str) -> bool {
    let (mut pattern, mut text) = (pattern.as_bytes(), text.as_bytes());
    // Where to go on if the text after the last `*` turns out wrong: that star then takes one more byte.
    let mut retry: Option<(&[u8], &[u8])> = None;
    loop {
        if let [b'*', rest @ ..] = pattern {
            retry = Some((rest, text));
            pattern = rest;
            continue;
        }
        let step = match text {
            [] if pattern.is_empty() => return true,
            [] => return false,
            [byte, rest @ ..] => single(pattern, *byte).map(|p| (p, rest)),
        };
        (pattern, text) = match (step, retry) {
            (Some(next), _) => next,
            (None, Some((after_star, [_, rest @ ..]))) => {
                retry = Some((after_star, rest));
                (after_star, rest)
            }
            (None, _) => return false,
        };
    }
}

/// The pattern after its first element, if that element (no star) matches `byte`.
fn single(pattern: &[u8], byte: u8) -> Option<&[u8]> {
    match pattern {
        [b'?', rest @ ..] => Some(rest),
        [b'[', rest @ ..] => match class(rest, byte) {
            Some((hit, rest)) => hit.then_some(rest),
            None => (byte == b'[').then_some(rest),
        },
        [b'\\', literal, rest @ ..] => (*literal == byte).then_some(rest),
        [literal, rest @ ..] => (*literal == byte).then_some(rest),
        [] => None,
    }
}

/// Whether `byte` is in the class that begins after `[`, and the pattern after its `]`; nothing if it never closes.
fn class(pattern: &[u8], byte: u8) -> Option<(bool, &[u8])> {
    let (negated, mut rest) = match pattern {
        [b'!' | b'^', rest @ ..] => (true, rest),
        _ => (false, pattern),
    };
    let (mut hit, mut first) = (false, true);
    loop {
        rest = match rest {
            [b']', rest @ ..] if !first => return Some((hit != negated, rest)),
            [low, b'-', high, rest @ ..] if *high != b']' => {
                hit |= (*low..=*high).contains(&byte);
                rest
            }
            [one, rest @ ..] => {
                hit |= *one == byte;
                rest
            }
            [] => return None,
        };
        first = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dash_and_underscore_are_one_outside_of_brackets() {
        assert_eq!(canonical("nls_iso8859-1"), "nls_iso8859_1");
        assert_eq!(canonical("a-b[0-9]c-d"), "a_b[0-9]c_d");
    }

    #[test]
    fn a_module_file_has_its_name_whatever_its_compression() {
        for path in ["virtio-rng.ko", "kernel/x/virtio-rng.ko.xz", "a/virtio_rng.ko.zst", "virtio_rng.ko.gz"] {
            assert_eq!(of_path(path).as_deref(), Some("virtio_rng"), "{path}");
        }
        for path in ["", "modules.dep", ".ko", "a/x.ko.sig", "x.kox"] {
            assert_eq!(of_path(path), None, "{path}");
        }
    }

    #[test]
    fn matches_as_fnmatch_does() {
        let device = "pci:v00001AF4d00001000sv00001AF4sd00000001bc02sc00i00";
        for (pattern, text, expected) in [
            ("pci:v00001AF4d*sv*sd*bc*sc*i*", device, true),
            ("pci:v00008086d*sv*sd*bc*sc*i*", device, false),
            ("*bc02sc00i0", device, false),
            ("", "", true),
            ("", "x", false),
            ("*", "", true),
            ("a*", "b", false),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("a[0-9a-f]", "ae", true),
            ("a[!0-9]", "a5", false),
            ("a[]]", "a]", true),
            ("a[x", "a[x", true),
            ("a\\*", "a*", true),
            ("a\\*", "ab", false),
            ("*a*b", "aXbXab", true),
            ("*a*b", "aXbXa", false),
            ("fs_squashfs", "fs_squashfs", true),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern:?} against {text:?}");
        }
    }

    #[test]
    fn a_pattern_of_many_stars_ends_in_bounded_time() {
        assert!(!matches(&format!("{}b", "*a".repeat(200)), &"a".repeat(4000)));
    }
}
