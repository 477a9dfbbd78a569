//! How the keeper hears that the system shuts down: from then on nothing may wait for long. systemd stops a unit of ours,
//! and takes the unit's FIFO away with it; a sysvinit writes the run level into /run/utmp (utmp(5)).

use super::FOLDER;
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

/// So long a read may wait while the system shuts down.
pub const PATIENCE: Duration = Duration::from_secs(5);
/// The FIFO, in the folder.
pub const RUNNING: &str = "running";
/// Where a sysvinit keeps the run level, in /run.
pub const UTMP: &str = "utmp";
/// Units that live until the next boot (systemd.unit(5)).
const UNITS: &str = "/run/systemd/system";
/// The unit.
const UNIT: &str = "rootbeam-stream";
/// What starts it: as early as anything.
const WANTED_BY: &str = "sysinit.target.wants";

/// A FIFO, for systemd removes it by itself: no program of ours runs as root for that. Nobody writes into it.
fn socket() -> String {
    format!(
        "[Unit]\nDescription=RAM disk whose image is still being fetched\nDefaultDependencies=no\n\
         Conflicts=shutdown.target\nBefore=shutdown.target\nIgnoreOnIsolate=yes\n\n\
         [Socket]\nListenFIFO={FOLDER}/{RUNNING}\nSocketMode=0600\nRemoveOnStop=yes\n"
    )
}

/// A socket unit does not start without its service.
const SERVICE: &str = "[Unit]\nDescription=RAM disk whose image is still being fetched\nDefaultDependencies=no\n\
    RefuseManualStart=yes\n\n[Service]\nType=oneshot\nExecStart=/bin/true\n";

/// Has systemd, which is about to start, tell when it shuts down.
pub fn ask_systemd() -> io::Result<()> {
    let units = Path::new(UNITS);
    let wanted = units.join(WANTED_BY);
    fs::create_dir_all(&wanted)?;
    let socket_name = format!("{UNIT}.socket");
    fs::write(units.join(format!("{UNIT}.service")), SERVICE)?;
    fs::write(units.join(&socket_name), socket())?;
    match symlink(Path::new("..").join(&socket_name), wanted.join(&socket_name)) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        done => done,
    }
}

/// What was seen of the system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ending {
    /// Whether the FIFO was there.
    was_up: bool,
    /// Whether the system shuts down.
    pub now: bool,
}

impl Ending {
    /// Takes a look at whether the FIFO is there, and at the content of utmp. True where [`Self::now`] changed.
    pub fn look(&mut self, running: bool, utmp: &[u8]) -> bool {
        self.was_up |= running;
        // A soft reboot starts the unit anew.
        let ending = (self.was_up && !running) || halts(utmp);
        std::mem::replace(&mut self.now, ending) != ending
    }
}

/// Bytes of a record: on x86 the times are 32 bits wide, on the others of 64 bits as wide as a word (bits/utmp.h).
const RECORD: usize = if cfg!(target_arch = "x86_64") { 384 } else { 400 };
/// The type of the record that has the run level, as a character in the lowest byte of its process id.
const RUN_LVL: u8 = 1;

/// Whether the run level is that of a machine that halts or restarts.
fn halts(utmp: &[u8]) -> bool {
    utmp.chunks_exact(RECORD).any(|record| {
        let kind = (record.first(), record.get(1));
        kind == (Some(&RUN_LVL), Some(&0)) && matches!(record.get(4), Some(b'0' | b'6'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(kind: u8, level: u8) -> Vec<u8> {
        let mut record = vec![0; RECORD];
        record[0] = kind;
        record[4] = level;
        record
    }

    #[test]
    fn a_unit_that_is_stopped_ends_the_system_and_one_that_never_ran_does_not() {
        let mut ending = Ending::default();
        assert!(!ending.look(false, b""));
        assert!(!ending.look(true, b""));
        assert!(ending.look(false, b"") && ending.now);
        assert!(!ending.look(false, b""));
        // A soft reboot: it runs again.
        assert!(ending.look(true, b"") && !ending.now);
    }

    #[test]
    fn run_levels_0_and_6_end_the_system() {
        let boot = record(2, b'0');
        for (level, ends) in [(b'0', true), (b'6', true), (b'2', false), (b'S', false)] {
            let utmp = [boot.clone(), record(RUN_LVL, level), record(7, 99)].concat();
            assert_eq!(Ending::default().look(false, &utmp), ends, "{level}");
        }
        assert!(!halts(&record(RUN_LVL, b'6')[..RECORD - 1]));
    }
}
