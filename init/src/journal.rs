//! The log of a boot: to the consoles as it happens, and kept for `/run/rootbeam/boot.log`.

use crate::sys::console::{self, Console};
use crate::sys::machine;
use std::io::{self, Write};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Bytes of log that are kept; what is beyond is dropped, and the log says so.
const KEPT: usize = 256 << 10;

/// What was logged so far.
#[derive(Clone, Debug, Default)]
pub struct Journal {
    kept: Arc<Mutex<Vec<u8>>>,
    limit: Arc<Mutex<Option<String>>>,
}

impl Journal {
    /// Installs the logger of a worker: what it says goes to the consoles. Before the sandbox closes.
    pub fn install_in_worker() {
        Self::default().set_up();
        log::set_max_level(log::LevelFilter::Warn);
    }

    /// Installs the logger, printing everything until [`set_level`](Self::set_level).
    pub fn install() -> Self {
        let journal = Self::default();
        journal.set_up();
        journal.unlimit();
        log::set_max_level(log::LevelFilter::Info);
        journal
    }

    fn set_up(&self) {
        let sink = Tee { console: Console::open(), kept: self.clone() };
        let mut builder = env_logger::Builder::new();
        builder
            .filter(Some("rootbeam_init"), log::LevelFilter::Debug)
            .target(env_logger::Target::Pipe(Box::new(sink)))
            .format(|out, record| {
                let (level, time) = (syslog_level(record.level()), stamp(machine::uptime()));
                // The tee takes the first byte as the level; a record is one write.
                writeln!(out, "{level}{time} {}", record.args())
            });
        // A second call finds the first one's logger in place.
        let _ = builder.try_init();
    }

    /// From now on, what is below `level` is neither printed nor kept.
    pub fn set_level(&self, level: log::LevelFilter) {
        log::set_max_level(level);
    }

    /// Sees to it that the kernel does not drop lines of a burst, and remembers what was set before.
    fn unlimit(&self) {
        if let (Console::KernelLog(..), Ok(mut before)) = (Console::open(), self.limit.lock()) {
            *before = console::unlimit_kernel_log();
        }
    }

    /// Leaves the kernel's log as it was found.
    pub fn close(&self) {
        if let Some(before) = self.limit.lock().ok().and_then(|mut limit| limit.take()) {
            console::relimit_kernel_log(&before);
        }
    }

    /// The log so far.
    pub fn text(&self) -> Vec<u8> {
        self.kept.lock().map(|kept| kept.clone()).unwrap_or_default()
    }

    fn keep(&self, line: &[u8]) {
        let Ok(mut kept) = self.kept.lock() else { return };
        if kept.len() + line.len() <= KEPT {
            kept.extend_from_slice(line);
        } else if kept.len() < KEPT {
            kept.extend_from_slice(b"(the log is full)\n");
            let full = KEPT.max(kept.len());
            kept.resize(full, b'\n');
        }
    }
}

struct Tee {
    console: Console,
    kept: Journal,
}

impl Write for Tee {
    fn write(&mut self, record: &[u8]) -> io::Result<usize> {
        let Some((level, line)) = record.split_first() else { return Ok(0) };
        self.kept.keep(line);
        // The kernel's log has its own clock.
        let text = String::from_utf8_lossy(line);
        let text = match self.console {
            Console::KernelLog(..) => text.split_once(' ').map_or(&*text, |(_, rest)| rest),
            Console::StandardError => &text,
        };
        self.console.line(level.saturating_sub(b'0'), text.trim_end());
        Ok(record.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// syslog(3): what `quiet` (loglevel 4) still shows is an error.
fn syslog_level(level: log::Level) -> u8 {
    match level {
        log::Level::Error => 3,
        log::Level::Warn => 4,
        log::Level::Info => 6,
        log::Level::Debug | log::Level::Trace => 7,
    }
}

/// Seconds since the kernel started, with milliseconds.
fn stamp(uptime: Duration) -> String {
    format!("[{}.{:03}]", uptime.as_secs(), uptime.subsec_millis())
}
