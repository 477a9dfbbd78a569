//! What follows a failed request: for which cause it is tried again, how fast, and how slowly in the end.

use super::Millis;
use crate::messages::{FetchCause, TlsFault};

/// The longest pause that a server may ask for by Retry-After.
const WISH_MAX: Millis = 300_000;

/// The ceilings of the pauses for a cause that may pass; a pause is drawn evenly from nothing up to its ceiling, so
/// that a rack whose server died does not come back as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pauses {
    /// Ceiling of the first.
    pub first: Millis,
    /// Each further one doubles it, up to this.
    pub most: Millis,
    /// No pause is shorter: the server's own wish.
    pub wish: Millis,
}

impl Pauses {
    /// The ceiling after so many failures in a row before this one.
    pub fn ceiling(&self, failures: u32) -> Millis {
        self.first.saturating_mul(1 << failures.min(16)).min(self.most)
    }
}

/// The pauses for a cause; none where the same request cannot succeed later by itself.
pub fn pauses(cause: &FetchCause) -> Option<Pauses> {
    let pauses = |first, most| Some(Pauses { first, most, wish: 0 });
    if !cause.is_passing() {
        return None;
    }
    match cause {
        // Our own worker: the server has no part in it.
        FetchCause::WorkerDied => pauses(0, 0),
        // The server was there a moment ago, and most likely is again.
        FetchCause::Reset | FetchCause::Short | FetchCause::Tls(TlsFault::Broken) => pauses(250, 30_000),
        // It was waited for already.
        FetchCause::Stalled | FetchCause::Unreachable => pauses(250, 15_000),
        FetchCause::Refused | FetchCause::Proxy | FetchCause::NameServer => pauses(500, 15_000),
        // What is wrong there stays so until somebody puts it right.
        FetchCause::WrongBytes => pauses(1000, 300_000),
        FetchCause::Status { status: 408 | 425, .. } => pauses(500, 15_000),
        // It is busy, and does not get less so by being asked.
        FetchCause::Status { retry_after, .. } => {
            let wish = Millis::from(retry_after.unwrap_or(0)).saturating_mul(1000).min(WISH_MAX);
            Some(Pauses { first: 1000, most: 60_000, wish })
        }
        FetchCause::NameUnknown | FetchCause::Tls(_) | FetchCause::Redirect | FetchCause::Protocol => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_their_ceiling() {
        let pauses = pauses(&FetchCause::Refused).unwrap();
        let ceilings: Vec<Millis> = (0..8).map(|failures| pauses.ceiling(failures)).collect();
        assert_eq!(ceilings, [500, 1000, 2000, 4000, 8000, 15_000, 15_000, 15_000]);
        assert_eq!(pauses.ceiling(u32::MAX), 15_000);
    }

    #[test]
    fn a_server_may_ask_for_a_pause_but_not_for_ever() {
        let wish = |seconds| {
            let cause = FetchCause::Status { status: 429, retry_after: Some(seconds) };
            pauses(&cause).unwrap().wish
        };
        assert_eq!((wish(5), wish(u32::MAX)), (5000, WISH_MAX));
    }
}
