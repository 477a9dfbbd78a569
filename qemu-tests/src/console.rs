//! What a machine writes on its console: kept whole, waited for by event, quoted when it never comes.

use crate::outcome::monotonic;
use anyhow::{Context, Result, bail};
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A console being read. Clones share it.
#[derive(Clone, Debug)]
pub struct Console {
    shared: Arc<Shared>,
    log: PathBuf,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    news: Condvar,
}

#[derive(Debug, Default)]
struct State {
    bytes: Vec<u8>,
    /// How many bytes were there at what time.
    arrivals: Vec<(usize, u64)>,
    closed: bool,
}

impl Console {
    /// Reads `source` to its end on a thread of its own, copying it to the file `log`.
    pub fn read(mut source: impl Read + Send + 'static, log: &Path) -> Result<Self> {
        let mut copy = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
        let shared = Arc::new(Shared { state: Mutex::default(), news: Condvar::new() });
        let console = Self { shared: Arc::clone(&shared), log: log.to_owned() };
        std::thread::spawn(move || {
            let mut buffer = [0; 8192];
            // A pty whose last user is gone answers EIO: the same as an end.
            while let Ok(count @ 1..) = source.read(&mut buffer) {
                let news = buffer.get(..count).unwrap_or_default();
                // A log that cannot be written must not cost the console.
                let _ = copy.write_all(news);
                let at = monotonic();
                let mut state = shared.lock();
                state.bytes.extend_from_slice(news);
                let length = state.bytes.len();
                state.arrivals.push((length, at));
                drop(state);
                shared.news.notify_all();
            }
            shared.lock().closed = true;
            shared.news.notify_all();
        });
        Ok(console)
    }

    /// Waits until `text` has been written, and returns all that was written up to and with it.
    pub fn wait_for(&self, text: &str, limit: Duration) -> Result<String> {
        let end = self.wait_for_after(0, text, limit)?;
        Ok(String::from_utf8_lossy(self.shared.lock().bytes.get(..end).unwrap_or_default()).into_owned())
    }

    /// The same for a `text` behind the first `start` bytes; where it ends.
    pub fn wait_for_after(&self, start: usize, text: &str, limit: Duration) -> Result<usize> {
        let end = |bytes: &[u8]| Some(start + find(bytes.get(start..)?, text.as_bytes())? + text.len());
        let state = self.wait(limit, |state| state.closed || end(&state.bytes).is_some());
        match end(&state.bytes) {
            Some(end) => Ok(end),
            None if state.closed => bail!("the console closed without {text:?}\n{}", self.quote(&state)),
            None => bail!("no {text:?} on the console within {limit:?}\n{}", self.quote(&state)),
        }
    }

    /// Waits until the machine has closed its console and returns all of it.
    pub fn wait_closed(&self, limit: Duration) -> Result<String> {
        let state = self.wait(limit, |state| state.closed);
        if !state.closed {
            bail!("the console is still open after {limit:?}\n{}", self.quote(&state));
        }
        Ok(text(&state))
    }

    /// When the first `text` was complete: `CLOCK_MONOTONIC` of the host in nanoseconds.
    pub fn arrived(&self, text: &str) -> Option<u64> {
        let state = self.shared.lock();
        let end = find(&state.bytes, text.as_bytes())? + text.len();
        state.arrivals.iter().find(|(length, _)| *length >= end).map(|(_, at)| *at)
    }

    /// All that was written so far.
    pub fn text(&self) -> String {
        text(&self.shared.lock())
    }

    /// The last lines, for messages, and where the rest is.
    pub fn last_lines(&self) -> String {
        self.quote(&self.shared.lock())
    }

    fn wait(&self, limit: Duration, done: impl Fn(&State) -> bool) -> MutexGuard<'_, State> {
        let deadline = Instant::now() + limit;
        let mut state = self.shared.lock();
        while !done(&state) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            state = self.shared.news.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        state
    }

    fn quote(&self, state: &State) -> String {
        let all = text(state);
        let lines: Vec<_> = all.lines().collect();
        let last = lines.split_at(lines.len().saturating_sub(30)).1.join("\n  | ");
        format!("the console's last lines ({}):\n  | {last}", self.log.display())
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn text(state: &State) -> String {
    String::from_utf8_lossy(&state.bytes).replace('\r', "")
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len().max(1)).position(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    const SOON: Duration = Duration::from_secs(5);

    fn console() -> (UnixStream, Console, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let (machine, host) = UnixStream::pair().unwrap();
        (machine, Console::read(host, &folder.path().join("log")).unwrap(), folder)
    }

    #[test]
    fn finds_text_that_arrives_in_pieces() {
        let (mut machine, console, _folder) = console();
        machine.write_all(b"one lo").unwrap();
        machine.write_all(b"gin: two").unwrap();
        assert_eq!(console.wait_for("login:", SOON).unwrap(), "one login:");
    }

    #[test]
    fn knows_when_a_text_was_complete() {
        let (mut machine, console, _folder) = console();
        let start = monotonic();
        machine.write_all(b"one lo").unwrap();
        console.wait_for("lo", SOON).unwrap();
        let between = monotonic();
        machine.write_all(b"gin: two").unwrap();
        console.wait_for("two", SOON).unwrap();
        let (one, login) = (console.arrived("one").unwrap(), console.arrived("login:").unwrap());
        assert!(start <= one && one <= between && between <= login && login <= monotonic());
        assert_eq!(console.arrived("three"), None);
    }

    #[test]
    fn says_what_was_last_seen_when_the_console_closes() {
        let (mut machine, console, folder) = console();
        machine.write_all(b"Kernel panic\r\n").unwrap();
        drop(machine);
        let error = console.wait_for("login:", SOON).unwrap_err().to_string();
        assert!(error.starts_with("the console closed without \"login:\""), "{error}");
        assert!(error.ends_with("| Kernel panic"), "{error}");
        assert_eq!(console.wait_closed(SOON).unwrap(), "Kernel panic\n");
        assert_eq!(std::fs::read(folder.path().join("log")).unwrap(), b"Kernel panic\r\n");
    }

    #[test]
    fn gives_up_at_the_limit() {
        let (_machine, console, _folder) = console();
        let error = console.wait_for("login:", Duration::from_millis(10)).unwrap_err().to_string();
        assert!(error.starts_with("no \"login:\" on the console within 10ms"), "{error}");
    }
}
