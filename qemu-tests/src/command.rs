//! Other programs, run to their end: what they said is in the error.

use anyhow::{Context, Result, bail};
use std::process::{Command, Stdio};

/// Runs `command` and returns its standard output; anything but success is an error that quotes what it wrote.
pub fn run(command: &mut Command) -> Result<String> {
    let name = format!("{command:?}");
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot run {name}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if !output.status.success() {
        let said = text(&output.stderr) + &text(&output.stdout);
        let lines: Vec<_> = said.lines().collect();
        let last = lines.split_at(lines.len().saturating_sub(25)).1.join("\n");
        bail!("{name}: {}\n{last}", output.status);
    }
    Ok(text(&output.stdout))
}

/// Runs a program by name with arguments separated by blanks.
pub fn run_line(line: &str) -> Result<String> {
    let mut words = line.split_whitespace();
    let program = words.next().context("empty command")?;
    run(Command::new(program).args(words))
}

/// Whether a program of this name is on the search path (or in the folders of the superuser).
pub fn exists(program: &str) -> bool {
    let path = std::env::var("PATH").unwrap_or_default();
    path.split(':').chain(["/usr/sbin", "/sbin"]).any(|folder| std::path::Path::new(folder).join(program).is_file())
}
