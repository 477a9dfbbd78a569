//! What the boot's own code would write into its log while it asks the servers: it becomes findings.

use super::verdict::{About, Verdict};
use log::{Level, LevelFilter, Log, Metadata, Record};
use std::sync::{Mutex, PoisonError};

/// Whose words count.
const BOOT: &str = "rootbeam_init::";

struct Said(Mutex<Vec<(Level, String)>>);

static SAID: Said = Said(Mutex::new(Vec::new()));

impl Log for Said {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with(BOOT)
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            let line = (record.level(), record.args().to_string());
            self.0.lock().unwrap_or_else(PoisonError::into_inner).push(line);
        }
    }

    fn flush(&self) {}
}

/// From now on the boot's warnings and errors are kept.
pub fn listen() {
    // Fails only where it was called before.
    let _ = log::set_logger(&SAID);
    log::set_max_level(LevelFilter::Warn);
}

/// A warning of the boot's code.
pub fn finding(text: &str) -> Verdict {
    About::Source.warning(format!("A boot will say: {text}."))
}

/// What was said since.
pub fn findings() -> Vec<Verdict> {
    let lines = std::mem::take(&mut *SAID.0.lock().unwrap_or_else(PoisonError::into_inner));
    let of_line = |(level, text): (Level, String)| match level {
        Level::Error => About::Source.failure(format!("A boot will say: {text}.")),
        _ => finding(&text),
    };
    lines.into_iter().map(of_line).collect()
}
