//! `rootbeam status` in the booted system: how far the streamed image is. The program is the workers' own; it goes with
//! them.

use super::keeper::Status;
use super::{FOLDER, PIDS, STATUS};
use crate::settings::values::human;
use crate::sys::worker;
use std::path::Path;
use std::time::Duration;

/// What `--help` prints.
pub const HELP: &str = "\
How far the image is that this machine runs from while it is fetched.

Usage: rootbeam status [--wait] [--json]

  --wait   return when the image is whole in memory, and server and network are not needed any more, or is lost
  --json   print it for scripts: complete, total, verified, fetched, waits, lost

Exit codes: 0 the image is whole, 1 it is not yet, 2 wrong usage, 3 nothing is streamed, 4 it is lost.";

/// How often the file is looked at.
const LOOK: Duration = Duration::from_millis(200);

/// Carries the words out; what is to be printed, and the exit code.
pub fn answer(words: &[&str]) -> (String, u8) {
    let Some((&"status", options)) = words.split_first() else { return (HELP.to_owned(), 2) };
    if options.iter().any(|option| !["--wait", "--json"].contains(option)) {
        let code = if options.contains(&"--help") { 0 } else { 2 };
        return (HELP.to_owned(), code);
    }
    let folder = Path::new(FOLDER);
    let mut told = read(folder);
    while options.contains(&"--wait") && told.as_ref().is_some_and(|status| !status.complete && !status.lost) {
        std::thread::sleep(LOOK);
        told = read(folder);
    }
    let Some(status) = told else {
        return ("No image is streamed: all of it was in memory before the system started.".to_owned(), 3);
    };
    let json = || serde_json::to_string(&status).unwrap_or_default();
    let text = if options.contains(&"--json") { json() } else { sentence(&status) };
    let code = if status.lost { 4 } else { u8::from(!status.complete) };
    (text, code)
}

/// What the keeper has told in its folder. Where somebody has ended all workers, nobody could tell that.
fn read(folder: &Path) -> Option<Status> {
    // Looked at before: one that ends because the image is whole has told that by then.
    let gone = std::fs::read_to_string(folder.join(PIDS)).is_ok_and(|list| {
        let mut numbers = list.lines().filter_map(|line| line.parse().ok()).peekable();
        numbers.peek().is_some() && !numbers.any(worker::is_there)
    });
    let text = std::fs::read_to_string(folder.join(STATUS)).ok()?;
    let status: Status = serde_json::from_str(&text).ok()?;
    Some(Status { lost: status.lost || gone && !status.complete, ..status })
}

fn sentence(status: &Status) -> String {
    let Status { complete, total, verified, waits, lost, .. } = status;
    let percent = (u128::from(*verified) * 100).checked_div(u128::from(*total)).unwrap_or(0);
    if *lost {
        return "The image is lost: what was not read before cannot be read any more, and nothing on this machine mends \
                that. Restart it."
            .to_owned();
    }
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
        let mut status = Status {
            complete: false,
            total: 100 << 20,
            verified: 25 << 20,
            fetched: 26 << 20,
            waits: false,
            lost: false,
        };
        assert_eq!(sentence(&status), "25.0 MiB of 100.0 MiB (25 %) are in memory; the rest is being fetched.");
        status.waits = true;
        assert!(sentence(&status).contains("something waits to be read"));
        status.complete = true;
        assert_eq!(sentence(&status), "The image is whole in memory (100.0 MiB); server and network are not needed.");
        let lost = Status { complete: false, lost: true, ..status };
        assert!(sentence(&lost).starts_with("The image is lost: what was not read before cannot be read any more"));
    }

    #[test]
    fn an_image_whose_workers_are_all_gone_is_lost_unless_it_was_whole() {
        let folder = tempfile::tempdir().unwrap();
        let mut child = std::process::Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        let (own, gone) = (std::process::id().to_string(), child.id().to_string());
        for (pids, complete, lost) in [
            (format!("{gone}\n"), false, true),
            (format!("{gone}\n{own}\n"), false, false),
            (format!("{gone}\n"), true, false),
            (String::new(), false, false),
        ] {
            let told = Status { complete, total: 2, verified: 1, fetched: 1, waits: false, lost: false };
            std::fs::write(folder.path().join(STATUS), serde_json::to_vec(&told).unwrap()).unwrap();
            std::fs::write(folder.path().join(PIDS), &pids).unwrap();
            assert_eq!(read(folder.path()), Some(Status { lost, ..told }), "{pids:?} {complete}");
        }
        // PIDs of workers are told after the status, and not everywhere.
        std::fs::remove_file(folder.path().join(PIDS)).unwrap();
        assert!(read(folder.path()).is_some_and(|status| !status.lost));
    }

    #[test]
    fn teaches_whoever_asks_wrongly() {
        assert_eq!(answer(&["status", "--help"]), (HELP.to_owned(), 0));
        for wrong in [&[][..], &["stop"], &["status", "now"]] {
            assert_eq!(answer(wrong), (HELP.to_owned(), 2), "{wrong:?}");
        }
    }
}
