//! Tests that need something of the machine. Where it is missing they are skipped, aloud and by name, and where
//! `ROOTBEAM_REQUIRE=all` they fail: to the standard harness a test that returns has passed.

#![allow(dead_code, reason = "each test program uses its part")]

use libtest_mimic::{Arguments, Completion, Trial};
use std::os::unix::fs::MetadataExt;
use std::process::{Command, ExitCode, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

/// A test that takes longer hangs: the slowest takes a minute.
const LONGEST: Duration = Duration::from_secs(600);

/// Tells what is missing, if anything.
pub type Need = fn() -> Option<String>;

/// A test of what `check` asserts.
pub fn test(name: &str, need: Need, check: impl FnOnce() + Send + 'static) -> Trial {
    let required = std::env::var("ROOTBEAM_REQUIRE").is_ok_and(|what| what == "all");
    let title = name.to_owned();
    Trial::ignorable_test(name, move || match need() {
        Some(missing) if required => Err(format!("required, and {missing}").into()),
        Some(missing) => Ok(Completion::ignored_with(missing)),
        None => {
            let bound = bounded(title);
            check();
            drop(bound);
            Ok(Completion::Completed)
        }
    })
}

/// Ends the process with a message where what it returns is not dropped in time: a thread that waits for a file system
/// whose server is stuck cannot be ended otherwise.
fn bounded(title: String) -> mpsc::Sender<()> {
    let (ended, end) = mpsc::channel();
    std::thread::spawn(move || {
        if end.recv_timeout(LONGEST) == Err(RecvTimeoutError::Timeout) {
            eprintln!("test {title} has not ended after {LONGEST:?}");
            std::process::abort();
        }
    });
    ended
}

/// The tests of this program, which are functions: `tests! { NEED => TEST, TEST; NEED => TEST; }`.
#[allow(unused_macros, reason = "some list their tests otherwise")]
macro_rules! tests {
    ($($need:path => $($check:path),+;)+) => {
        vec![$($($crate::needs::test(stringify!($check), $need, $check)),+),+]
    };
}
#[allow(unused_imports, reason = "the same")]
pub(crate) use tests;

/// Runs tests as `cargo test` does, by its arguments.
pub fn run(tests: Vec<Trial>) -> ExitCode {
    libtest_mimic::run(&Arguments::from_args(), tests).exit_code()
}

/// For tests that run anywhere.
pub fn nothing() -> Option<String> {
    None
}

/// For what only root may do.
pub fn root() -> Option<String> {
    // A process's folder in /proc belongs to its effective user.
    let user = std::fs::metadata("/proc/self").map(|folder| folder.uid());
    (user.ok() != Some(0)).then(|| "it needs root".to_owned())
}

/// For programs that not every machine has.
pub fn programs(names: &[&str]) -> Option<String> {
    let starts = |name: &str| {
        let mut command = Command::new(name);
        command.arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
    };
    let missing: Vec<&str> = names.iter().copied().filter(|name| !starts(name)).collect();
    (!missing.is_empty()).then(|| format!("it needs {}", missing.join(" and ")))
}
