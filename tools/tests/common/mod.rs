//! The built binary under test.

#![allow(dead_code, reason = "each test file uses its part")]

use std::process::{Command, Output};

/// The shipped `rootbeam`, with nothing of the caller's environment that changes what it does.
pub fn rootbeam() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rootbeam"));
    command.env_remove("SOURCE_DATE_EPOCH").env("NO_COLOR", "1");
    command
}

/// Runs it and returns code, standard output and standard error.
pub fn run(command: &mut Command) -> (i32, String, String) {
    let Output { status, stdout, stderr } = command.output().expect("the binary starts");
    let text = |bytes| String::from_utf8(bytes).expect("what it prints is UTF-8");
    (status.code().expect("it ends by itself"), text(stdout), text(stderr))
}

/// Runs it, which must succeed.
pub fn succeed(command: &mut Command) -> (String, String) {
    let (code, out, err) = run(command);
    assert_eq!(code, 0, "{command:?}\n{out}\n{err}");
    (out, err)
}

/// Whether this is root; else says that the test is skipped.
pub fn is_root(test: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("skipped: {test} needs root");
    }
    root
}
