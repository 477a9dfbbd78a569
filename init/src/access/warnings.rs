//! What comes up on the way to the servers and is to be told to PID 1, which keeps the boot's log.

use crate::messages::FetchWarning;
use std::mem::discriminant;
use std::sync::Mutex;

/// Warnings, each kind once.
#[derive(Debug, Default)]
pub struct Warnings(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    all: Vec<FetchWarning>,
    /// How many of them were taken.
    taken: usize,
}

impl Warnings {
    /// Notes one, unless one of its kind was noted before.
    pub fn note(&self, warning: FetchWarning) {
        if let Ok(mut known) = self.0.lock()
            && !known.all.iter().any(|other| discriminant(other) == discriminant(&warning))
        {
            known.all.push(warning);
        }
    }

    /// Those that were noted since this was last asked.
    pub fn take(&self) -> Vec<FetchWarning> {
        let Ok(mut known) = self.0.lock() else { return Vec::new() };
        let new = known.all.iter().skip(known.taken).copied().collect();
        known.taken = known.all.len();
        new
    }
}
