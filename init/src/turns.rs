//! Whose turn it is among the links that have a lease: one that leads to no source of the image gives way to the next.
//! Time is an argument.

use crate::label::Label;
use crate::messages::NetOrder;
use std::time::{Duration, Instant};

/// So long a link may lead nowhere in the first round for each source, since these are asked one after another.
const FIRST: Duration = Duration::from_secs(10);
/// So long the lease of a link that had no turn yet is waited for, before the round is over.
const OTHERS: Duration = Duration::from_secs(10);
/// Each round doubles that, up to this: whoever waits for a server waits no longer on a wrong link.
const MOST: Duration = Duration::from_secs(60);
/// No round has more links: their names must fit a message.
const LINKS: usize = 64;

/// The turns of the links.
#[derive(Debug)]
pub struct Turns {
    /// Whether the operator left it open which link it is.
    open: bool,
    /// The one whose turn it is.
    present: Option<Label>,
    /// Since when.
    since: Instant,
    /// Whether a source answered by it.
    reached: bool,
    /// Whether one did by any.
    came: bool,
    /// Those that had their turn in this round.
    had: Vec<Label>,
    pause: Duration,
    /// Since when the others are asked, where they are.
    asking: Option<Instant>,
    /// Whether there are no others.
    alone: bool,
}

/// The turn of a link that has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turn {
    /// The link.
    pub link: Label,
    /// How long it lasted.
    pub lasted: Duration,
    /// Whether a source answered by it.
    pub reached: bool,
    /// Whether one has answered by any link so far.
    pub came: bool,
}

impl Turns {
    /// No link has a lease yet; they take turns where it is `open` which one it is. So many sources are asked by each.
    pub fn new(open: bool, sources: usize, now: Instant) -> Self {
        let pause = FIRST.saturating_mul(u32::try_from(sources).unwrap_or(u32::MAX)).min(MOST);
        Self {
            open,
            present: None,
            since: now,
            reached: false,
            came: false,
            had: Vec::new(),
            pause,
            asking: None,
            alone: false,
        }
    }

    /// The boot is tried again: with a round of its own.
    pub fn anew(&mut self, now: Instant) {
        (self.since, self.asking) = (now, None);
        self.had.clear();
    }

    /// A lease came on `link`: the turn that ended with that, if that of another link did.
    pub fn leased(&mut self, link: &Label, now: Instant) -> Option<Turn> {
        let lasted = self.lasted(now);
        (self.since, self.asking) = (now, None);
        if self.present.as_ref() == Some(link) {
            return None;
        }
        let before = self.present.replace(link.clone())?;
        if self.had.contains(link) {
            self.next_round();
        }
        self.had.push(before.clone());
        let reached = std::mem::take(&mut self.reached);
        Some(Turn { link: before, lasted, reached, came: self.came })
    }

    fn lasted(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.since)
    }

    /// A source answered, with whatever: the link stays. What the net worker is to be told.
    pub fn reached(&mut self) -> Option<NetOrder> {
        (self.reached, self.came) = (true, true);
        self.asking.take().map(|_| NetOrder::Stay)
    }

    /// There is no link but those that had their turn.
    pub fn alone(&mut self) {
        self.alone = true;
    }

    /// What the net worker is to be told now; at once where the boot `failed` by the present link.
    pub fn order(&mut self, failed: bool, now: Instant) -> Option<NetOrder> {
        let present = self.present.clone().filter(|_| self.open && !self.reached)?;
        match self.asking {
            None if failed || self.lasted(now) >= self.pause => {}
            // The round is over, but for a boot that failed on all of its links: the failure is told.
            Some(_) if !failed && !self.had.is_empty() && !self.is_hopeful(now) => self.next_round(),
            _ => return None,
        }
        if self.had.len() >= LINKS {
            self.had.clear();
        }
        (self.asking, self.alone) = (Some(now), false);
        Some(NetOrder::Elsewhere { but: self.had.iter().cloned().chain([present]).collect() })
    }

    /// Whether another link may still get its turn in this round.
    pub fn is_hopeful(&self, now: Instant) -> bool {
        let asked = self.asking.is_some_and(|since| now.saturating_duration_since(since) < OTHERS);
        asked && !self.alone && !self.reached
    }

    fn next_round(&mut self) {
        self.had.clear();
        self.pause = (self.pause * 2).min(MOST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn label(text: &str) -> Label {
        Label::new(text).unwrap()
    }

    fn elsewhere(but: &[&str]) -> Option<NetOrder> {
        Some(NetOrder::Elsewhere { but: but.iter().map(|name| label(name)).collect() })
    }

    /// Turns of which eth0 has the first, and a clock in seconds from then on.
    fn begun(open: bool) -> (Turns, impl Fn(u64) -> Instant) {
        let start = Instant::now();
        let mut turns = Turns::new(open, 1, start);
        assert_eq!(turns.leased(&label("eth0"), start), None);
        (turns, move |seconds| start + Duration::from_secs(seconds))
    }

    /// The turn of a link by which nothing came so far.
    fn vain(link: &str, seconds: u64) -> Option<Turn> {
        Some(Turn { link: label(link), lasted: Duration::from_secs(seconds), reached: false, came: false })
    }

    #[test]
    fn a_link_that_leads_nowhere_gives_way_after_ten_seconds_and_another_than_those_before_follows() {
        let (mut turns, at) = begun(true);
        assert_eq!(turns.order(false, at(9)), None);
        assert_eq!(turns.order(false, at(10)), elsewhere(&["eth0"]));
        // It stays until there is another lease, however long that takes.
        for second in [11, 30, 3600] {
            assert_eq!(turns.order(false, at(second)), None);
        }
        assert_eq!(turns.leased(&label("eth1"), at(3601)), vain("eth0", 3601));
        assert_eq!(turns.order(false, at(3610)), None);
        assert_eq!(turns.order(false, at(3611)), elsewhere(&["eth0", "eth1"]));
        assert_eq!(turns.leased(&label("eth2"), at(3612)), vain("eth1", 11));
    }

    #[test]
    fn each_source_has_its_time_but_no_turn_is_longer_than_a_minute() {
        let start = Instant::now();
        for (sources, seconds) in [(1, 10), (2, 20), (256, 60)] {
            let mut turns = Turns::new(true, sources, start);
            turns.leased(&label("eth0"), start);
            assert_eq!(turns.order(false, start + Duration::from_secs(seconds - 1)), None);
            assert_eq!(turns.order(false, start + Duration::from_secs(seconds)), elsewhere(&["eth0"]));
        }
    }

    #[test]
    fn when_all_had_their_turn_it_goes_round_again_with_longer_turns_of_a_minute_at_most() {
        let (mut turns, at) = begun(true);
        assert_eq!(turns.order(false, at(10)), elsewhere(&["eth0"]));
        assert_eq!(turns.leased(&label("eth1"), at(10)), vain("eth0", 10));
        assert_eq!(turns.order(false, at(20)), elsewhere(&["eth0", "eth1"]));
        // A third one has no carrier, or no server.
        assert_eq!(turns.order(false, at(29)), None);
        assert_eq!(turns.order(false, at(30)), elsewhere(&["eth1"]));
        assert_eq!(turns.leased(&label("eth0"), at(30)), vain("eth1", 20));
        assert_eq!(turns.order(false, at(49)), None);
        assert_eq!(turns.order(false, at(50)), elsewhere(&["eth1", "eth0"]));
        // Where there is no third one it need not be waited for.
        turns.alone();
        assert_eq!(turns.order(false, at(50)), elsewhere(&["eth0"]));
        assert_eq!(turns.leased(&label("eth1"), at(51)), vain("eth0", 21));
        assert_eq!(turns.order(false, at(90)), None);
        assert_eq!(turns.order(false, at(91)), elsewhere(&["eth0", "eth1"]));
        (0..9).for_each(|_| turns.next_round());
        assert_eq!(turns.pause, MOST);
    }

    #[test]
    fn a_link_by_which_a_source_answered_stays() {
        let (mut turns, at) = begun(true);
        assert_eq!(turns.reached(), None);
        assert_eq!(turns.order(false, at(3600)), None);
        assert_eq!(turns.order(true, at(3600)), None, "what fails then is no matter of the link");
        let (mut turns, at) = begun(true);
        assert_eq!(turns.order(false, at(10)), elsewhere(&["eth0"]));
        assert_eq!(turns.reached(), Some(NetOrder::Stay), "the others are asked no more");
        assert_eq!(turns.reached(), None);
        assert_eq!(turns.order(false, at(3600)), None);
    }

    #[test]
    fn a_link_that_follows_one_that_was_lost_has_to_lead_to_a_source_as_well_and_what_came_is_kept() {
        let (mut turns, at) = begun(true);
        turns.reached();
        let lost = Turn { link: label("eth0"), lasted: Duration::from_secs(60), reached: true, came: true };
        assert_eq!(turns.leased(&label("eth1"), at(60)), Some(lost));
        assert_eq!(turns.order(false, at(70)), elsewhere(&["eth0", "eth1"]));
        // Had anew by the same link, a lease begins a turn and ends none.
        assert_eq!(turns.leased(&label("eth1"), at(71)), None);
        assert_eq!(turns.order(false, at(80)), None);
        assert_eq!(turns.leased(&label("eth2"), at(81)), vain("eth1", 10).map(|turn| Turn { came: true, ..turn }));
    }

    #[test]
    fn a_boot_that_failed_waits_for_the_next_link_but_not_for_a_second_round() {
        let (mut turns, at) = begun(true);
        assert_eq!(turns.order(true, at(0)), elsewhere(&["eth0"]));
        assert!(turns.is_hopeful(at(9)) && !turns.is_hopeful(at(10)));
        turns.leased(&label("eth1"), at(3));
        assert_eq!(turns.order(true, at(4)), elsewhere(&["eth0", "eth1"]));
        assert!(turns.is_hopeful(at(4)));
        turns.alone();
        assert!(!turns.is_hopeful(at(4)));
        assert_eq!(turns.order(true, at(60)), None);
        // The next attempt has a round of its own.
        turns.anew(at(100));
        assert_eq!(turns.order(true, at(100)), elsewhere(&["eth1"]));
        assert!(turns.is_hopeful(at(100)));
    }

    #[test]
    fn where_the_operator_says_which_link_it_is_there_are_no_turns() {
        let (mut turns, at) = begun(false);
        for failed in [false, true] {
            assert_eq!(turns.order(failed, at(3600)), None);
            assert!(!turns.is_hopeful(at(3600)));
        }
    }
}
