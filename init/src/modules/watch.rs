//! A driver's probe may hang, and keeps PID 1 in the kernel then: another process looks at the time, says what hangs, and
//! ends the machine where it never ends.

use crate::aftermath;
use crate::policy::Action;
use crate::sys::channel::wait;
use crate::sys::worker::{self, Worker};
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// After so long a module is said to take its time.
const LONG: Duration = Duration::from_secs(10);
/// After so long it counts as one that never ends; a card that waits for firmware gives up after one minute.
const ENDLESS: Duration = Duration::from_secs(300);
/// How long the watcher, which has nothing left to do, may take to end.
const FAREWELL: Duration = Duration::from_secs(2);

/// The watcher of the loading that goes on. Dropped, it ends.
#[derive(Debug)]
pub struct Watch {
    line: Option<PipeWriter>,
    watcher: Worker,
}

impl Watch {
    /// Starts a watcher that follows `action` where a module never ends.
    pub fn start(action: Action) -> io::Result<Self> {
        let (reader, line) = io::pipe()?;
        // The child's copy of the writing end would keep it from seeing that of PID 1 go.
        let mut lines = Some(line);
        let watcher = worker::fork(|| {
            aftermath::guard_child();
            drop(lines.take());
            match watch(reader, [LONG, ENDLESS], |name, took, endless| say(name, took, endless.then_some(action))) {
                Ok(End::Endless) => match action {
                    Action::End(wait, how) => aftermath::end(wait, how),
                    Action::Again(_) | Action::Shell => 0,
                },
                Ok(End::Over) => 0,
                Err(_) => 1,
            }
        })?;
        Ok(Self { line: lines, watcher })
    }

    /// From now on this module is being loaded; with an empty name, none is.
    pub fn begins(&mut self, name: &str) {
        // A watcher that is gone watches no more; the loading goes on.
        if self.line.as_mut().is_some_and(|line| line.write_all(format!("{name}\n").as_bytes()).is_err()) {
            self.line = None;
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.line = None;
        if let Err(error) = self.watcher.await_end(Instant::now() + FAREWELL) {
            log::debug!("modules: the watcher's end: {error}");
        }
    }
}

fn say(name: &str, took: Duration, follows: Option<Action>) {
    let seconds = took.as_secs();
    match follows {
        None => log::warn!(
            "modules: {name} has been loading for {seconds} s, and the boot waits for it; if it never ends, keep it out with \
             modprobe.blacklist={name}"
        ),
        Some(action) => log::error!(
            "FAILED at modules: {name}: it has been loading for {seconds} s. Remedy: keep it out with \
             modprobe.blacklist={name}; {action}"
        ),
    }
}

/// How a watch ended.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// Nothing is loaded any more.
    Over,
    /// A module never ended.
    Endless,
}

/// Reads what is being loaded, a name a line, and says so where that takes longer than the first limit; ends at the second,
/// or with the last writer.
fn watch(
    mut line: PipeReader,
    [long, endless]: [Duration; 2],
    mut say: impl FnMut(&str, Duration, bool),
) -> io::Result<End> {
    let (mut name, mut since, mut said) = (String::new(), Instant::now(), false);
    loop {
        let took = since.elapsed();
        if !name.is_empty() && took >= endless {
            say(&name, took, true);
            return Ok(End::Endless);
        }
        if !name.is_empty() && took >= long && !said {
            said = true;
            say(&name, took, false);
        }
        let limit = if said { endless } else { long };
        let readable = wait(&[line.as_fd()], if name.is_empty() { endless } else { limit.saturating_sub(took) })?;
        if !readable.contains(&true) {
            continue;
        }
        let mut bytes = [0; 4096];
        let Some(read) = line.read(&mut bytes).map(|length| bytes.get(..length))? else { continue };
        if read.is_empty() {
            return Ok(End::Over);
        }
        // A short write of a line is one piece (pipe(7)); of several the last one counts, and it may be empty.
        let text = String::from_utf8_lossy(read);
        let last = text.strip_suffix('\n').unwrap_or(&text).rsplit('\n').next().unwrap_or_default();
        (name, since, said) = (last.to_owned(), Instant::now(), false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(2)];

    /// What a watch comes to, and what it says, while `write` goes on.
    fn watched(write: impl FnOnce(&mut PipeWriter)) -> (End, Vec<(String, bool)>) {
        let (reader, mut writer) = io::pipe().unwrap();
        let watcher = std::thread::spawn(move || {
            let mut said = Vec::new();
            let end = watch(reader, LIMITS, |name, _, endless| said.push((name.to_owned(), endless)));
            (end.unwrap(), said)
        });
        write(&mut writer);
        drop(writer);
        watcher.join().unwrap()
    }

    #[test]
    fn what_takes_long_is_named_once_and_what_never_ends_ends_it() {
        let (end, said) = watched(|writer| {
            writer.write_all(b"e1000\n\ntg3\nixgbe\n").unwrap();
            // Readable is what a writing end never is; but its reader's end shows.
            assert_eq!(wait(&[writer.as_fd()], LIMITS[1] * 10).unwrap(), [true], "it never ended");
        });
        assert_eq!(end, End::Endless);
        assert_eq!(said, [("ixgbe".to_owned(), false), ("ixgbe".to_owned(), true)]);
    }

    #[test]
    fn what_has_ended_is_not_spoken_of_however_long_nothing_is_loaded() {
        for ended in ["e1000\n\n", "\n", "e1000\ntg3\n\n"] {
            let said = watched(|writer| {
                writer.write_all(ended.as_bytes()).unwrap();
                std::thread::sleep(LIMITS[0] + Duration::from_millis(200));
            });
            assert_eq!(said, (End::Over, vec![]), "{ended:?}");
        }
    }
}
