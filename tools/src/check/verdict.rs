//! What a check found, and what it amounts to.

use crate::cli;
use serde::Serialize;
use std::fmt;

/// How a finding bears on a boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// It boots, and something is not as one would want it; or it could not be told.
    Warning,
    /// It does not boot.
    Failure,
}

impl Level {
    /// The exit code of a check whose worst finding is this.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Ok => cli::OK,
            Self::Warning => cli::WARNED,
            Self::Failure => cli::MISMATCH,
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Failure => "failure",
        })
    }
}

/// What a finding is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum About {
    /// Words of the command line and of the packed settings.
    Options,
    /// The initramfs.
    Archive,
    /// Kernel modules in it.
    Drivers,
    /// A URL that the image comes from.
    Source,
    /// The image's filesystem.
    Image,
    /// Whether it is used before it is whole.
    Stream,
    /// RAM.
    Memory,
    /// What is in the image.
    System,
}

impl fmt::Display for About {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Options => "options",
            Self::Archive => "archive",
            Self::Drivers => "drivers",
            Self::Source => "source",
            Self::Image => "image",
            Self::Stream => "stream",
            Self::Memory => "memory",
            Self::System => "system",
        })
    }
}

/// One finding, in a sentence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// How it bears on a boot.
    pub level: Level,
    /// What it is about.
    pub about: About,
    /// The sentence, with the remedy where there is one.
    pub text: String,
}

impl About {
    /// A good finding.
    pub fn ok(self, text: impl Into<String>) -> Verdict {
        Verdict { level: Level::Ok, about: self, text: text.into() }
    }

    /// One that does not keep it from booting.
    pub fn warning(self, text: impl Into<String>) -> Verdict {
        Verdict { level: Level::Warning, about: self, text: text.into() }
    }

    /// One that does.
    pub fn failure(self, text: impl Into<String>) -> Verdict {
        Verdict { level: Level::Failure, about: self, text: text.into() }
    }
}

/// The worst of them.
pub fn worst(verdicts: &[Verdict]) -> Level {
    verdicts.iter().map(|verdict| verdict.level).max().unwrap_or(Level::Ok)
}

/// The finding as a line; `colour` is for terminals.
pub fn line(verdict: &Verdict, colour: bool) -> String {
    let Verdict { level, about, text } = verdict;
    let (begin, end) = match (colour, level) {
        (false, _) => ("", ""),
        (true, Level::Ok) => ("\x1b[32m", "\x1b[0m"),
        (true, Level::Warning) => ("\x1b[1;33m", "\x1b[0m"),
        (true, Level::Failure) => ("\x1b[1;31m", "\x1b[0m"),
    };
    format!("{begin}{level:<7}{end}  {about:<7}  {text}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_finding_is_the_exit_code() {
        let (ok, warning, failure) = (About::Image.ok("a"), About::Image.warning("b"), About::Image.failure("c"));
        let code = |verdicts: &[Verdict]| worst(verdicts).exit_code();
        assert_eq!(code(&[]), 0);
        assert_eq!(code(std::slice::from_ref(&ok)), 0);
        assert_eq!(code(&[ok.clone(), warning.clone()]), 4);
        assert_eq!(code(&[failure.clone(), warning, ok]), 3);
        assert_eq!(line(&failure, false), "failure  image    c");
        assert_eq!(line(&failure, true), "\x1b[1;31mfailure\x1b[0m  image    c");
    }
}
