//! The consoles, the kernel's log, and descriptors 0 to 2.

use rustix::fs::{Mode, OFlags};
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};

/// Where a line for people goes. The kernel's log reaches every console that the command line names; a console that
/// has no /dev/kmsg (a container's) is written to directly.
#[derive(Debug)]
pub enum Console {
    /// `/dev/kmsg`: one write is one record, the level in front as `<N>`; and the highest level that consoles show.
    KernelLog(OwnedFd, u8),
    /// Descriptor 2.
    StandardError,
}

/// Longest record that is written; the kernel refuses more than about 1000 bytes (PRINTKRB_RECORD_MAX).
const RECORD: usize = 900;

impl Console {
    /// Opens the kernel's log, or falls back to descriptor 2.
    pub fn open() -> Self {
        match rustix::fs::open("/dev/kmsg", OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOCTTY, Mode::empty()) {
            Ok(log) => Self::KernelLog(log, shown(&std::fs::read_to_string(PRINTK).unwrap_or_default())),
            Err(_) => Self::StandardError,
        }
    }

    /// Writes one line at a syslog level, 3 (error) to 7 (debug); at the highest that consoles show where that is
    /// lower, since `rootbeam.log=` has let the line through. Errors are ignored: a lost line must not cost the boot.
    pub fn line(&self, level: u8, text: &str) {
        match self {
            Self::KernelLog(log, shown) => {
                let level = level.min(*shown);
                let mut record = format!("<{level}>rootbeam: {text}");
                let mut end = record.len().min(RECORD);
                while !record.is_char_boundary(end) {
                    end -= 1;
                }
                record.truncate(end);
                record.push('\n');
                let _ = rustix::io::write(log, record.as_bytes());
            }
            Self::StandardError => {
                let _ = io::stderr().write_all(format!("rootbeam: {text}\n").as_bytes());
            }
        }
    }
}

/// The kernel drops lines of a writer that has more than ten in five seconds unless this is `on`; returns what was
/// set before. Not possible where `printk.devkmsg=` was given on the command line. The kernel takes a known word only
/// with exactly one character behind it (devkmsg_sysctl_set_loglvl), the line's end.
pub fn unlimit_kernel_log() -> Option<String> {
    let before = std::fs::read_to_string(PRINTK_DEVKMSG).ok()?;
    std::fs::write(PRINTK_DEVKMSG, "on\n").ok()?;
    Some(before.trim().to_owned())
}

/// Puts the limit back.
pub fn relimit_kernel_log(before: &str) {
    let _ = std::fs::write(PRINTK_DEVKMSG, format!("{before}\n"));
}

/// The highest level that reaches the consoles: they show what is below the first number of /proc/sys/kernel/printk.
/// Never below an error: what is graver the system's log would cry out on every terminal.
fn shown(printk: &str) -> u8 {
    let limit: Option<u8> = printk.split_whitespace().next().and_then(|number| number.parse().ok());
    limit.map_or(7, |limit| limit.saturating_sub(1).clamp(3, 7))
}

const PRINTK: &str = "/proc/sys/kernel/printk";
const PRINTK_DEVKMSG: &str = "/proc/sys/kernel/printk_devkmsg";

/// Opens `/dev/console` as descriptors 0 to 2. The ones that the kernel gave belong to the initramfs's own node.
pub fn take_standard_descriptors() -> io::Result<()> {
    let console = rustix::fs::open("/dev/console", OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::stdio::dup2_stdin(console.as_fd())?;
    rustix::stdio::dup2_stdout(console.as_fd())?;
    Ok(rustix::stdio::dup2_stderr(console.as_fd())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_written_at_levels_that_consoles_show() {
        // Debian's own, `quiet`, `debug`, `loglevel=0`, and no /proc.
        for (printk, level) in [("7\t4\t1\t7\n", 6), ("4\t4\t1\t7\n", 3), ("10 4 1 7", 7), ("0 4 1 7", 3), ("", 7)] {
            assert_eq!(shown(printk), level, "{printk:?}");
        }
    }
}
