//! Every option of rootbeam's own, once: the parser, the README's table and the spelling help read this list.

/// An option under the name `rootbeam.*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OptionInfo {
    /// Its whole name.
    pub name: &'static str,
    /// What its value looks like.
    pub value: &'static str,
    /// What it does, a sentence without a full stop.
    pub meaning: &'static str,
    /// What holds where it is not given.
    pub default: &'static str,
}

const fn option(name: &'static str, value: &'static str, default: &'static str, meaning: &'static str) -> OptionInfo {
    OptionInfo { name, value, meaning, default }
}

/// The options, in the order of the README.
pub const OPTIONS: [OptionInfo; 19] = [
    option(
        "rootbeam.image",
        "URL[,URL…]",
        "required",
        "Where the image is, http or https; several sources are used at once",
    ),
    option(
        "rootbeam.layer",
        "URL[,URL…][?optional]",
        "none",
        "An image to stack on the image; may be repeated, the last is on top",
    ),
    option(
        "rootbeam.header",
        "NAME:VALUE",
        "none",
        "A request header for the servers of `rootbeam.image=` and `rootbeam.layer=`, no others; may be repeated",
    ),
    option("rootbeam.proxy", "http://HOST:PORT", "none", "The HTTP proxy that all requests go through; `proxy=` too"),
    option("rootbeam.ntp", "HOST[,HOST…]", "the lease's", "Time servers, asked where a certificate fails for time"),
    option("rootbeam.sha256", "HEX", "none", "The SHA-256 that the whole image must have"),
    option("rootbeam.manifest", "sha256:HEX", "none", "The SHA-256 that the image's manifest must have"),
    option("rootbeam.verify", "default|require", "default", "`require` refuses an image with nothing to verify it by"),
    option(
        "rootbeam.mode",
        "ram|stream|auto",
        "ram",
        "Start the real init when the image is whole, or as soon as it can run",
    ),
    option(
        "rootbeam.stream.stall",
        "wait|eio:SECONDS|reboot:SECONDS",
        "wait",
        "While streaming, what becomes of a read whose bytes no server brings",
    ),
    option(
        "rootbeam.stream.trace",
        "SECONDS",
        "none",
        "While streaming, for so long record what the booted system reads first, for `rootbeam trace`",
    ),
    option("rootbeam.overlay.size", "SIZE|N%", "half of what the image leaves", "Limit of the writable layer in RAM"),
    option("rootbeam.reserve", "SIZE", "8M", "RAM that must stay free beside image and overlay"),
    option(
        "rootbeam.on-failure",
        "retry|reboot[:SECONDS]|poweroff|halt|shell",
        "retry, else reboot after 60 s",
        "What follows a failure",
    ),
    option(
        "rootbeam.timeout",
        "SECONDS",
        "none",
        "How long the download may take, streaming until the real init can run; the network has its own bounds",
    ),
    option("rootbeam.stall", "SECONDS", "10", "How long a connection may be silent before it is given up"),
    option("rootbeam.net.carrier", "SECONDS", "30", "How long to wait for a link with carrier"),
    option("rootbeam.net.lease", "SECONDS", "30", "How long to wait for a DHCP lease"),
    option("rootbeam.log", "error|warn|info|debug", "info; warn with quiet", "What is printed on the consoles"),
];

/// The option whose name is nearest to `name`, where one is near enough to be meant.
pub fn nearest(name: &str) -> Option<&'static str> {
    let begun = |option: &&OptionInfo| name.len() > "rootbeam.".len() && option.name.starts_with(name);
    let close = || OPTIONS.iter().filter(|o| edits(name, o.name) <= 3).min_by_key(|o| edits(name, o.name));
    OPTIONS.iter().find(begun).or_else(close).map(|option| option.name)
}

/// Edits (insert, delete, replace a byte) from `a` to `b`; names over 64 bytes are far from everything.
fn edits(a: &str, b: &str) -> usize {
    if a.len() > 64 {
        return usize::MAX;
    }
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.bytes().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        if let Some(first) = row.first_mut() {
            *first = left;
        }
        for (cell, to) in row.iter_mut().skip(1).zip(b.bytes()) {
            let replaced = diagonal + usize::from(from != to);
            diagonal = *cell;
            left = replaced.min(left + 1).min(*cell + 1);
            *cell = left;
        }
    }
    row.last().copied().unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_option_that_was_meant() {
        assert_eq!(nearest("rootbeam.imgae"), Some("rootbeam.image"));
        assert_eq!(nearest("rootbeam.on_failure"), Some("rootbeam.on-failure"));
        assert_eq!(nearest("rootbeam.overlay"), Some("rootbeam.overlay.size"));
        assert_eq!(nearest("rootbeam.teleport"), None);
        assert_eq!(nearest(&"x".repeat(10_000)), None);
    }

    #[test]
    fn counts_edits() {
        assert_eq!(edits("kitten", "sitting"), 3);
        assert_eq!(edits("", "abc"), 3);
        assert_eq!(edits("abc", "abc"), 0);
    }
}
