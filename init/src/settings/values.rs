//! Values of options: sizes, policies, hardware addresses.

use serde::{Deserialize, Serialize};
use std::fmt;

/// What an option's value should have been.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Expected(pub String);

impl Expected {
    /// A description that holds whatever was given.
    pub fn that(text: &str) -> Self {
        Self(text.to_owned())
    }
}

/// An amount of memory: bytes, or a share of what is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Amount {
    /// So many bytes.
    Bytes(u64),
    /// 1 to 100 percent.
    Percent(u8),
}

impl Amount {
    /// Reads `512M`, `1G`, `65536`, `50%`.
    pub fn parse(text: &str) -> Result<Self, Expected> {
        let expected = || Expected::that("a size such as 512M, 2G or 50%");
        if let Some(percent) = text.strip_suffix('%') {
            let percent = percent.parse().ok().filter(|p| (1..=100).contains(p));
            return percent.map(Self::Percent).ok_or_else(expected);
        }
        // To a tmpfs, nothing is no limit at all (tmpfs(5)).
        bytes(text).ok().filter(|bytes| *bytes > 0).map(Self::Bytes).ok_or_else(expected)
    }

    /// The amount in bytes, of `whole`.
    pub fn of(self, whole: u64) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Percent(percent) => whole / 100 * u64::from(percent),
        }
    }
}

/// Reads a size in bytes with an optional suffix K, M, G or T (powers of 1024, either case).
pub fn bytes(text: &str) -> Result<u64, Expected> {
    let expected = || Expected::that("a size such as 65536, 512M or 2G");
    let (digits, shift) = match text.char_indices().last() {
        Some((at, 'k' | 'K')) => (text.get(..at), 10),
        Some((at, 'm' | 'M')) => (text.get(..at), 20),
        Some((at, 'g' | 'G')) => (text.get(..at), 30),
        Some((at, 't' | 'T')) => (text.get(..at), 40),
        _ => (Some(text), 0),
    };
    let digits = digits.filter(|d| d.bytes().all(|b| b.is_ascii_digit())).ok_or_else(expected)?;
    let number: u64 = digits.parse().map_err(|_| expected())?;
    number.checked_mul(1 << shift).ok_or_else(expected)
}

/// Bytes as a person reads them: `100.0 MiB`.
pub fn human(bytes: u64) -> String {
    const UNITS: [(&str, u64); 3] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    match UNITS.iter().find(|(_, unit)| bytes >= *unit) {
        Some((name, unit)) => {
            let tenths = (u128::from(bytes) * 10 + u128::from(*unit) / 2) / u128::from(*unit);
            format!("{}.{} {name}", tenths / 10, tenths % 10)
        }
        None => format!("{bytes} bytes"),
    }
}

/// `rootbeam.on-failure=`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFailure {
    /// Try again what can succeed later, with growing pauses; else as `Reboot`.
    Retry,
    /// Print the diagnosis, wait, reboot.
    Reboot {
        /// How long the diagnosis stands.
        seconds: u32,
    },
    /// Switch the machine off.
    Poweroff,
    /// Stop and stay.
    Halt,
    /// A shell on the console, where one was packed.
    Shell,
}

impl OnFailure {
    /// How long a diagnosis stands before a reboot, where nothing else was said, in seconds.
    pub const READ_IT: u32 = 60;

    /// Reads `retry|reboot[:SECONDS]|poweroff|halt|shell`.
    pub fn parse(text: &str) -> Result<Self, Expected> {
        let expected = || Expected::that("one of retry, reboot, reboot:SECONDS, poweroff, halt, shell");
        match text.split_once(':') {
            None => match text {
                "retry" => Ok(Self::Retry),
                "reboot" => Ok(Self::Reboot { seconds: Self::READ_IT }),
                "poweroff" => Ok(Self::Poweroff),
                "halt" => Ok(Self::Halt),
                "shell" => Ok(Self::Shell),
                _ => Err(expected()),
            },
            Some(("reboot", seconds)) => {
                seconds.parse().map(|seconds| Self::Reboot { seconds }).map_err(|_| expected())
            }
            Some(_) => Err(expected()),
        }
    }
}

impl fmt::Display for OnFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Retry => f.write_str("retry"),
            Self::Reboot { seconds } => write!(f, "reboot:{seconds}"),
            Self::Poweroff => f.write_str("poweroff"),
            Self::Halt => f.write_str("halt"),
            Self::Shell => f.write_str("shell"),
        }
    }
}

/// Reads `BOOTIF=`: an optional hardware type (`01-`), then six bytes with dashes or colons.
pub fn bootif(text: &str) -> Result<[u8; 6], Expected> {
    let expected = || Expected::that("a hardware address such as 01-52-54-00-12-34-56");
    let mut parts: Vec<&str> = text.split(['-', ':']).collect();
    if parts.len() == 7 {
        parts.remove(0);
    }
    let mut mac = [0; 6];
    if parts.len() != mac.len() {
        return Err(expected());
    }
    for (byte, part) in mac.iter_mut().zip(parts) {
        let digits = part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit());
        *byte = u8::from_str_radix(part, 16).ok().filter(|_| digits).ok_or_else(expected)?;
    }
    Ok(mac)
}

/// A hardware address as `52:54:00:12:34:56`.
pub fn mac_text(mac: [u8; 6]) -> String {
    let [a, b, c, d, e, f] = mac;
    format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
}

/// `rootbeam.stream.stall=`: what becomes of a read whose bytes no server brings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StreamStall {
    /// It waits, however long that takes.
    #[default]
    Wait,
    /// It fails with EIO after so many seconds.
    Eio(u32),
    /// The machine is restarted after so many seconds.
    Reboot(u32),
}

impl StreamStall {
    /// Reads `wait|eio:SECONDS|reboot:SECONDS`.
    pub fn parse(text: &str) -> Result<Self, Expected> {
        let expected = || Expected("wait, eio:SECONDS or reboot:SECONDS".to_owned());
        let seconds = |text: &str| text.parse().ok().filter(|seconds| (1..=86_400 * 365).contains(seconds));
        match text.split_once(':') {
            None if text == "wait" => Ok(Self::Wait),
            Some(("eio", time)) => seconds(time).map(Self::Eio).ok_or_else(expected),
            Some(("reboot", time)) => seconds(time).map(Self::Reboot).ok_or_else(expected),
            _ => Err(expected()),
        }
    }
}

/// Reads the value of `rootbeam.stream.trace=`: for so many seconds it is recorded what the booted system reads.
pub fn trace(text: &str) -> Result<u32, Expected> {
    let seconds = text.parse().ok().filter(|seconds| (1..=86_400).contains(seconds));
    seconds.ok_or_else(|| Expected("a number of seconds from 1 to 86400".to_owned()))
}

/// `rootbeam.mode=`: when the real init is started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// When the whole image is in memory.
    #[default]
    Ram,
    /// As soon as what it needs is there, with a warning where that cannot be.
    Stream,
    /// The same without the warning.
    Auto,
}

impl Mode {
    /// Reads the option's value.
    pub fn parse(text: &str) -> Result<Self, Expected> {
        match text {
            "ram" => Ok(Self::Ram),
            "stream" => Ok(Self::Stream),
            "auto" => Ok(Self::Auto),
            _ => Err(Expected("ram, stream or auto".to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_sizes_and_refuses_what_overflows() {
        assert_eq!(Amount::parse("512M"), Ok(Amount::Bytes(512 << 20)));
        assert_eq!(Amount::parse("50%").map(|a| a.of(1000)), Ok(500));
        for bad in ["", "0", "0M", "M", "-1", "1.5G", "0%", "101%", "99999999999999T", "1 G", "+1"] {
            assert!(Amount::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn writes_sizes_for_people() {
        let texts = [0, 1023, 1024, 100 << 20, (1 << 30) + (1 << 29), u64::MAX].map(human);
        assert_eq!(texts, ["0 bytes", "1023 bytes", "1.0 KiB", "100.0 MiB", "1.5 GiB", "17179869184.0 GiB"]);
    }

    #[test]
    fn every_failure_policy_reads_back_as_written() {
        for text in ["retry", "reboot:60", "reboot:0", "poweroff", "halt", "shell"] {
            assert_eq!(OnFailure::parse(text).map(|p| p.to_string()), Ok(text.to_owned()));
        }
        assert_eq!(OnFailure::parse("reboot"), Ok(OnFailure::Reboot { seconds: 60 }));
        for bad in ["", "reboot:", "reboot:-1", "poweroff:5", "explode"] {
            assert!(OnFailure::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn reads_bootif_as_pxelinux_and_ipxe_write_it() {
        let mac = [0x52, 0x54, 0, 0x12, 0x34, 0x56];
        assert_eq!(bootif("01-52-54-00-12-34-56"), Ok(mac));
        assert_eq!(bootif("52:54:00:12:34:56"), Ok(mac));
        assert_eq!(mac_text(mac), "52:54:00:12:34:56");
        for bad in ["", "01-52-54-00-12", "01-52-54-00-12-34-5", "01-52-54-00-12-34-+6", "eth0"] {
            assert!(bootif(bad).is_err(), "{bad:?}");
        }
    }
}
