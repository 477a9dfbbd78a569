//! What follows a failure: pure decisions, carried out by `aftermath`.

use crate::failure::{Failure, Retry};
use crate::settings::values::OnFailure;
use crate::sys::machine::End;
use std::fmt;
use std::time::Duration;

/// What is done about a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Wait, then go on where the boot stopped.
    Again(Duration),
    /// Let the diagnosis stand, then end the machine.
    End(Duration, End),
    /// A shell on the console; the boot goes on when it ends.
    Shell,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Again(pause) => write!(f, "trying again in {} s", pause.as_secs().max(1)),
            Self::End(Duration::ZERO, End::Reboot) => f.write_str("rebooting now"),
            Self::End(Duration::ZERO, End::Poweroff) => f.write_str("switching the machine off"),
            Self::End(Duration::ZERO, End::Halt) => f.write_str("the machine stops here"),
            Self::End(wait, _) => write!(f, "rebooting in {} s (rootbeam.on-failure= changes that)", wait.as_secs()),
            Self::Shell => f.write_str("starting a shell on the console; leave it with `exit` and the boot goes on"),
        }
    }
}

/// What the operator said about failures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// `rootbeam.on-failure=`.
    pub on_failure: Option<OnFailure>,
    /// `panic=`.
    pub panic: Option<i32>,
    /// A shell was packed and its root is still there.
    pub shell: bool,
}

impl Policy {
    /// Decides. `attempt` counts the retries so far, from 0; `random` is uniform in 0.0 to 1.0 and spreads a rack's
    /// retries over the pause.
    pub fn decide(&self, failure: &Failure, attempt: u32, random: f64) -> Action {
        match (self.on_failure.unwrap_or(OnFailure::Retry), failure.retry) {
            (OnFailure::Retry, Retry::Later) => Action::Again(pause(attempt, random)),
            (OnFailure::Retry, Retry::Never) => self.reboot(OnFailure::READ_IT),
            (OnFailure::Reboot { seconds }, _) => Action::End(Duration::from_secs(seconds.into()), End::Reboot),
            (OnFailure::Poweroff, _) => Action::End(Duration::ZERO, End::Poweroff),
            (OnFailure::Halt, _) => Action::End(Duration::ZERO, End::Halt),
            (OnFailure::Shell, _) if self.shell => Action::Shell,
            (OnFailure::Shell, _) => self.reboot(OnFailure::READ_IT),
        }
    }

    /// What follows a panic, after which nothing can go on.
    pub fn after_panic(&self) -> Action {
        match self.on_failure {
            Some(OnFailure::Poweroff) => Action::End(Duration::ZERO, End::Poweroff),
            Some(OnFailure::Halt) => Action::End(Duration::ZERO, End::Halt),
            Some(OnFailure::Reboot { seconds }) => Action::End(Duration::from_secs(seconds.into()), End::Reboot),
            Some(OnFailure::Retry | OnFailure::Shell) | None => self.reboot(OnFailure::READ_IT),
        }
    }

    /// `panic=` says after how many seconds the kernel reboots on a panic: 0 is never, below 0 at once.
    fn reboot(&self, usual: u32) -> Action {
        match self.panic {
            None => Action::End(Duration::from_secs(usual.into()), End::Reboot),
            Some(0) => Action::End(Duration::ZERO, End::Halt),
            Some(seconds) => Action::End(Duration::from_secs(u64::try_from(seconds).unwrap_or(0)), End::Reboot),
        }
    }
}

/// 2, 4, 8 … 60 seconds, of which a random half is taken off.
fn pause(attempt: u32, random: f64) -> Duration {
    let ceiling = 2_u32.saturating_pow(attempt.saturating_add(1)).min(60);
    Duration::from_secs_f64(f64::from(ceiling) * (0.5 + random.clamp(0.0, 1.0) / 2.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Step;

    fn failure(retry: Retry) -> Failure {
        Failure { retry, ..Failure::new(Step::Image, "o", "c", "r") }
    }

    #[test]
    fn every_policy_meets_every_failure() {
        let later = failure(Retry::Later);
        let never = failure(Retry::Never);
        let seconds = Duration::from_secs;
        let reboot = |s| Action::End(seconds(s), End::Reboot);
        let table = [
            (None, false, Action::Again(seconds(2)), reboot(60)),
            (Some(OnFailure::Retry), false, Action::Again(seconds(2)), reboot(60)),
            (Some(OnFailure::Reboot { seconds: 5 }), false, reboot(5), reboot(5)),
            (
                Some(OnFailure::Poweroff),
                false,
                Action::End(Duration::ZERO, End::Poweroff),
                Action::End(Duration::ZERO, End::Poweroff),
            ),
            (
                Some(OnFailure::Halt),
                false,
                Action::End(Duration::ZERO, End::Halt),
                Action::End(Duration::ZERO, End::Halt),
            ),
            (Some(OnFailure::Shell), true, Action::Shell, Action::Shell),
            (Some(OnFailure::Shell), false, reboot(60), reboot(60)),
        ];
        for (on_failure, shell, after_later, after_never) in table {
            let policy = Policy { on_failure, panic: None, shell };
            assert_eq!(policy.decide(&later, 0, 1.0), after_later, "{on_failure:?}");
            assert_eq!(policy.decide(&never, 0, 1.0), after_never, "{on_failure:?}");
        }
    }

    #[test]
    fn the_kernels_panic_option_is_honoured() {
        let decide = |panic| Policy { panic: Some(panic), ..Policy::default() }.decide(&failure(Retry::Never), 0, 0.5);
        assert_eq!(decide(7), Action::End(Duration::from_secs(7), End::Reboot));
        assert_eq!(decide(0), Action::End(Duration::ZERO, End::Halt));
        assert_eq!(decide(-1), Action::End(Duration::ZERO, End::Reboot));
    }

    #[test]
    fn pauses_grow_to_a_minute_and_are_spread() {
        let pauses: Vec<u64> = (0..8).map(|attempt| pause(attempt, 1.0).as_secs()).collect();
        assert_eq!(pauses, [2, 4, 8, 16, 32, 60, 60, 60]);
        assert_eq!(pause(0, 0.0), Duration::from_secs(1));
        assert_eq!(pause(u32::MAX, 0.0), Duration::from_secs(30));
    }

    #[test]
    fn after_a_panic_nothing_is_tried_again() {
        for on_failure in [None, Some(OnFailure::Retry), Some(OnFailure::Shell)] {
            let policy = Policy { on_failure, panic: None, shell: true };
            assert_eq!(policy.after_panic(), Action::End(Duration::from_secs(60), End::Reboot));
        }
    }
}
