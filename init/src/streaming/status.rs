//! `rootbeam status` in the booted system: how far the streamed image is. The program is the workers' own; it goes with
//! them.

use super::keeper::Status;
use super::{FOLDER, STATUS};
use crate::settings::values::human;
use std::path::Path;
use std::time::Duration;

/// What `--help` prints.
pub const HELP: &str = "\
How far the image is that this machine runs from while it is fetched.

Usage: rootbeam status [--wait] [--json]

  --wait   return when the image is whole in memory, and server and network are not needed any more
  --json   print it for scripts: complete, total, verified, fetched, waits

Exit codes: 0 the image is whole, 1 it is not yet, 2 wrong usage, 3 nothing is streamed.";

/// How often the file is looked at.
const LOOK: Duration = Duration::from_millis(200);

/// Carries the words out; what is to be printed, and the exit code.
pub fn answer(words: &[&str]) -> (String, u8) {
    let Some((&"status", options)) = words.split_first() else { return (HELP.to_owned(), 2) };
    if options.iter().any(|option| !["--wait", "--json"].contains(option)) {
        let code = if options.contains(&"--help") { 0 } else { 2 };
        return (HELP.to_owned(), code);
    }
    let mut told = read();
    while options.contains(&"--wait") && told.as_ref().is_some_and(|(status, _)| !status.complete) {
        std::thread::sleep(LOOK);
        told = read();
    }
    let Some((status, text)) = told else {
        return ("No image is streamed: all of it was in memory before the system started.".to_owned(), 3);
    };
    let text = if options.contains(&"--json") { text.trim_end().to_owned() } else { sentence(&status) };
    (text, u8::from(!status.complete))
}

fn read() -> Option<(Status, String)> {
    let text = std::fs::read_to_string(Path::new(FOLDER).join(STATUS)).ok()?;
    Some((serde_json::from_str(&text).ok()?, text))
}

fn sentence(status: &Status) -> String {
    let Status { complete, total, verified, waits, .. } = status;
    let percent = (u128::from(*verified) * 100).checked_div(u128::from(*total)).unwrap_or(0);
    match (complete, waits) {
        (true, _) => format!("The image is whole in memory ({}); server and network are not needed.", human(*total)),
        (false, false) => {
            format!("{} of {} ({percent} %) are in memory; the rest is being fetched.", human(*verified), human(*total))
        }
        (false, true) => format!(
            "{} of {} ({percent} %) are in memory; something waits to be read, and no server brings it: look at the \
             console, the servers and the network.",
            human(*verified),
            human(*total)
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_in_a_sentence_how_far_it_is() {
        let mut status =
            Status { complete: false, total: 100 << 20, verified: 25 << 20, fetched: 26 << 20, waits: false };
        assert_eq!(sentence(&status), "25.0 MiB of 100.0 MiB (25 %) are in memory; the rest is being fetched.");
        status.waits = true;
        assert!(sentence(&status).contains("something waits to be read"));
        status.complete = true;
        assert_eq!(sentence(&status), "The image is whole in memory (100.0 MiB); server and network are not needed.");
    }

    #[test]
    fn teaches_whoever_asks_wrongly() {
        assert_eq!(answer(&["status", "--help"]), (HELP.to_owned(), 0));
        for wrong in [&[][..], &["stop"], &["status", "now"]] {
            assert_eq!(answer(wrong), (HELP.to_owned(), 2), "{wrong:?}");
        }
    }
}
