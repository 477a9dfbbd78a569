//! What a person sees: progress, remarks, errors. All of it goes to standard error; results go to standard output.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::fmt;
use std::io::{IsTerminal, Write};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// How standard error is to be written to.
#[derive(Clone, Copy, Debug)]
pub struct Term {
    quiet: bool,
    interactive: bool,
    colour: bool,
}

impl Term {
    /// Looks at standard error and at `NO_COLOR`.
    pub fn detect(quiet: bool) -> Self {
        let interactive = std::io::stderr().is_terminal();
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self { quiet, interactive, colour: interactive && !no_color }
    }

    /// Whether only results are wanted.
    pub fn is_quiet(&self) -> bool {
        self.quiet
    }

    fn painted(&self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// An error with its chain of causes, as one sentence a line.
    pub fn error(&self, error: &anyhow::Error) {
        eprintln!("{} {error:#}", self.painted("1;31", "error:"));
    }

    /// Something that the user should know and may want to change; shown under `--quiet` too.
    pub fn warn(&self, text: impl fmt::Display) {
        eprintln!("{} {text}", self.painted("1;33", "warning:"));
    }

    /// A remark on what is done.
    pub fn note(&self, text: impl fmt::Display) {
        if !self.quiet {
            eprintln!("{text}");
        }
    }

    /// Begins to show progress over `total` bytes: a bar on a terminal, else a line every ten percent, and only of
    /// work that takes longer than two seconds.
    pub fn progress(&self, label: &str, total: u64) -> Progress {
        let shown = if self.quiet || total == 0 {
            Shown::Nothing
        } else if self.interactive {
            Shown::Bar(bar(label, total))
        } else {
            Shown::Lines(Mutex::new(Lines::new(label, total, Instant::now())))
        };
        Progress(shown)
    }
}

fn bar(label: &str, total: u64) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
    let template = "{msg} {wide_bar} {percent:>3} %  {binary_bytes}/{binary_total_bytes}  {binary_bytes_per_sec}";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.set_message(label.to_owned());
    bar
}

/// Prints a line of the result on standard output. A reader like `head` that has seen enough is no failure.
pub fn result(line: impl fmt::Display) -> anyhow::Result<()> {
    match writeln!(std::io::stdout().lock(), "{line}") {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// A running display of progress; may be moved on from several threads.
pub struct Progress(Shown);

enum Shown {
    Nothing,
    Bar(ProgressBar),
    Lines(Mutex<Lines>),
}

impl Progress {
    /// `bytes` more are done.
    pub fn add(&self, bytes: u64) {
        match &self.0 {
            Shown::Nothing => {}
            Shown::Bar(bar) => bar.inc(bytes),
            Shown::Lines(lines) => {
                let line = lines.lock().ok().and_then(|mut lines| lines.add(bytes, Instant::now()));
                if let Some(line) = line {
                    eprintln!("{line}");
                }
            }
        }
    }

    /// Takes the bar off the screen.
    pub fn finish(self) {
        if let Shown::Bar(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

/// The lines of a progress where there is no terminal.
struct Lines {
    label: String,
    total: u64,
    done: u64,
    tenths: u64,
    began: Instant,
}

impl Lines {
    fn new(label: &str, total: u64, began: Instant) -> Self {
        Self { label: label.to_owned(), total, done: 0, tenths: 0, began }
    }

    fn add(&mut self, bytes: u64, now: Instant) -> Option<String> {
        self.done = self.done.saturating_add(bytes).min(self.total);
        let tenths = (u128::from(self.done) * 10 / u128::from(self.total)) as u64;
        let elapsed = now.duration_since(self.began);
        if tenths <= self.tenths || elapsed < Duration::from_secs(2) {
            return None;
        }
        self.tenths = tenths;
        let rate = Rate { bytes: self.done, time: elapsed };
        Some(format!("{}: {} % of {}, {rate}", self.label, tenths * 10, Bytes(self.total)))
    }
}

/// A number of bytes as a person reads it: `97.4 MiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut value = self.0 as f64;
        let mut unit = "bytes";
        for larger in ["KiB", "MiB", "GiB", "TiB"] {
            if value < 1024.0 {
                break;
            }
            value /= 1024.0;
            unit = larger;
        }
        if unit == "bytes" { write!(f, "{} {unit}", self.0) } else { write!(f, "{value:.1} {unit}") }
    }
}

/// Bytes in a time, as a rate.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    /// How many bytes.
    pub bytes: u64,
    /// In what time.
    pub time: Duration,
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.time.as_secs_f64().max(1e-6);
        write!(f, "{}/s", Bytes((self.bytes as f64 / seconds) as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_as_a_person_says_them() {
        let text = |n| Bytes(n).to_string();
        assert_eq!(text(0), "0 bytes");
        assert_eq!(text(1023), "1023 bytes");
        assert_eq!(text(1024), "1.0 KiB");
        assert_eq!(text(100 << 20), "100.0 MiB");
        assert_eq!(text(u64::MAX), "16777216.0 TiB");
    }

    #[test]
    fn prints_a_line_every_ten_percent_of_work_that_takes_long() {
        let began = Instant::now();
        let after = |seconds| began + Duration::from_secs(seconds);
        let mut lines = Lines::new("hashing", 1000, began);
        assert_eq!(lines.add(150, after(1)), None, "work that is done within two seconds stays silent");
        assert_eq!(lines.add(200, after(3)).as_deref(), Some("hashing: 30 % of 1000 bytes, 116 bytes/s"));
        assert_eq!(lines.add(40, after(3)), None);
        assert_eq!(lines.add(10, after(4)).as_deref(), Some("hashing: 40 % of 1000 bytes, 100 bytes/s"));
        assert_eq!(lines.add(5000, after(5)).as_deref(), Some("hashing: 100 % of 1000 bytes, 200 bytes/s"));
    }
}
