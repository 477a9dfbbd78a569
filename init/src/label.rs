//! Short names that came from outside: checked once, safe to print and to use as a file name afterwards.

use serde::{Deserialize, Serialize};
use std::fmt;

/// A name of 1 to 64 characters from `A-Z a-z 0-9 . _ : + ~ -` that does not begin with a dot or a dash: an
/// interface, a host, a kernel release. It can neither leave a directory nor steer a terminal.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Label(String);

/// The text is not a [`Label`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a name has 1 to 64 characters from A-Z a-z 0-9 . _ : + ~ - and begins with none of . -")]
pub struct NotALabel;

impl Label {
    /// The longest label, in bytes.
    pub const MAX: usize = 64;

    /// Checks `text` and keeps it.
    pub fn new(text: &str) -> Result<Self, NotALabel> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b':' | b'+' | b'~' | b'-');
        let fits = (1..=Self::MAX).contains(&text.len()) && text.bytes().all(allowed);
        if fits && !text.starts_with(['.', '-']) { Ok(Self(text.to_owned())) } else { Err(NotALabel) }
    }

    /// The text of the label.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Label {
    type Error = NotALabel;
    fn try_from(text: String) -> Result<Self, NotALabel> {
        Self::new(&text)
    }
}

impl From<Label> for String {
    fn from(label: Label) -> Self {
        label.0
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// `text` with control characters and everything beyond ASCII escaped, cut after `limit` characters: what a
/// stranger wrote, made fit for a console.
pub fn printable(text: &str, limit: usize) -> String {
    let mut out = String::new();
    for character in text.chars().take(limit) {
        match character {
            ' '..='~' => out.push(character),
            _ => out.extend(character.escape_default()),
        }
    }
    if text.chars().nth(limit).is_some() {
        out.push('…');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_names_that_leave_a_directory_or_steer_a_terminal() {
        for bad in ["", ".", "..", "-x", "a/b", "a\x1b[2J", "a b", "ä", &"x".repeat(65)] {
            assert_eq!(Label::new(bad), Err(NotALabel), "{bad:?}");
        }
        assert_eq!(Label::new("eth0.5").map(String::from), Ok("eth0.5".into()));
    }

    #[test]
    fn a_label_is_checked_when_it_is_decoded_too() {
        assert!(serde_json::from_str::<Label>("\"../x\"").is_err());
    }

    #[test]
    fn escapes_control_characters_and_cuts() {
        assert_eq!(printable("a\x1b[2Jb", 3), "a\\u{1b}[…");
        assert_eq!(printable("uses \"lzma\"\n\u{85}ä", 80), "uses \"lzma\"\\n\\u{85}\\u{e4}");
    }
}
