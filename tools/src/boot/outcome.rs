//! How a boot ended, by what its init said on the console last.

use rootbeam_init::label::printable;
use rootbeam_init::policy::Action;
use rootbeam_init::sys::machine::End;
use std::time::Duration;

/// How init's lines begin, behind the kernel's time.
const INIT: &str = "rootbeam: ";

/// The diagnosis of a boot that failed for good: one after which init ended the machine. None where it went on, be it
/// after a pause, after a shell, or where reboots are let (`reboots`) with another boot.
pub fn failure(console: &[u8], reboots: bool) -> Option<String> {
    let text = String::from_utf8_lossy(console);
    let mut said = text.lines().filter_map(|line| line.split_once(INIT)).map(|(_, said)| said.trim_end());
    let mut failed = None;
    while let Some(line) = said.next() {
        if line.starts_with("FAILED") {
            let action = said.clone().find_map(Next::of);
            failed = action.is_none_or(|next| next.is_the_end(reboots)).then(|| printable(line, 1000));
        }
    }
    failed
}

/// What follows a diagnosis.
enum Next {
    Boot,
    Reboot,
    End,
}

impl Next {
    /// By the line in which init says it; none of any other line.
    fn of(line: &str) -> Option<Self> {
        let ends = [End::Poweroff, End::Halt].map(|end| Action::End(Duration::ZERO, end).to_string());
        match line {
            _ if ends.iter().any(|end| line == end) => Some(Self::End),
            _ if line.starts_with("rebooting ") => Some(Self::Reboot),
            _ if line.starts_with("trying again ") || line.starts_with("starting a shell ") => Some(Self::Boot),
            _ => None,
        }
    }

    fn is_the_end(&self, reboots: bool) -> bool {
        match self {
            Self::Boot => false,
            Self::Reboot => !reboots,
            Self::End => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHY: &str = "FAILED at image: http://h/x: the server answered 404 Not Found. Remedy: correct the path.";

    /// A console with that diagnosis, what init does then, and what came after it.
    fn console(action: Action, after: &str) -> Vec<u8> {
        format!(
            "[    0.1] Linux\r\n[    2.0] rootbeam: {WHY}\r\n[    2.1] rootbeam: state: link eth0 has 10.0.2.15/24\r\n\
             [    2.2] rootbeam: {action}\r\n{after}"
        )
        .into_bytes()
    }

    #[test]
    fn a_boot_has_failed_where_init_ended_the_machine_after_a_diagnosis() {
        let minute = Duration::from_secs(60);
        for (action, failed, failed_with_reboots) in [
            (Action::End(Duration::ZERO, End::Poweroff), true, true),
            (Action::End(Duration::ZERO, End::Halt), true, true),
            (Action::End(Duration::ZERO, End::Reboot), true, false),
            (Action::End(minute, End::Reboot), true, false),
            (Action::Again(minute), false, false),
            (Action::Shell, false, false),
        ] {
            let console = console(action, "[    3.0] reboot: Power down\r\n");
            let found = [false, true].map(|reboots| failure(&console, reboots));
            let expected = [failed, failed_with_reboots].map(|failed| failed.then(|| WHY.to_owned()));
            assert_eq!(found, expected, "{action}");
        }
    }

    #[test]
    fn the_last_diagnosis_counts_and_without_one_nothing_failed() {
        let again = console(Action::Again(Duration::from_secs(2)), "");
        let end = console(Action::End(Duration::ZERO, End::Poweroff), "");
        assert_eq!(failure(&[again.clone(), end.clone()].concat(), false).as_deref(), Some(WHY));
        assert_eq!(failure(&[end, again].concat(), true), None);
        assert_eq!(failure(b"[1.0] rootbeam: handing over to /sbin/init\nweb login: \xff", false), None);
        assert_eq!(failure(b"[1.234] FAILED at network: from a log that somebody shows\n", false), None);
        // Cut off before what follows.
        assert_eq!(failure(format!("rootbeam: {WHY}").as_bytes(), false).as_deref(), Some(WHY));
    }
}
