//! Whose turn it is among the links that have a lease: one that leads to no source of the image gives way to the next.
//! Time is an argument.

use crate::label::Label;
use crate::messages::NetOrder;
use std::fmt;
use std::time::{Duration, Instant};

/// So much longer than a source may be silent a link may lead nowhere for each: these are asked one after another.
const MARGIN: Duration = Duration::from_secs(5);
/// So long the lease of a link that had no turn yet is waited for, before the round is over.
const OTHERS: Duration = Duration::from_secs(10);
/// Each round doubles a turn, up to this or to what one source may take: whoever waits for a server waits no longer on a
/// wrong link.
const MOST: Duration = Duration::from_secs(60);
/// No round has more links: their names must fit a message.
const LINKS: usize = 64;

/// The turns of the links.
#[derive(Debug)]
pub struct Turns {
    /// Whether the operator left it open which link it is.
    open: bool,
    present: Option<Present>,
    /// Those whose turn in this round was in vain.
    had: Vec<Had>,
    /// The ends of turns that were told of before.
    told: Vec<(Label, End)>,
    /// Whether a source answered by any.
    came: bool,
    /// How long a turn lasts at first, now, and at most.
    first: Duration,
    pause: Duration,
    most: Duration,
    /// The search for another link, where one goes on.
    search: Option<Search>,
    searches: u32,
}

/// The link whose turn it is.
#[derive(Debug)]
struct Present {
    link: Label,
    since: Instant,
    /// Whether a source answered by it.
    reached: bool,
    /// Whether waiting on it mends nothing.
    failed: bool,
}

/// A turn that was in vain.
#[derive(Debug)]
struct Had {
    link: Label,
    failed: bool,
}

#[derive(Debug)]
struct Search {
    number: u32,
    since: Instant,
    /// Whether there is no link that it could ask.
    alone: bool,
}

/// How the turn of a link ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// No source had answered by it.
    InVain,
    /// The boot had failed by it, for good.
    Failed,
    /// A source had answered by it, and its lease was lost.
    Lost,
}

/// The turn of a link that has ended. `Display` is a sentence about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turn {
    /// The link.
    pub link: Label,
    /// The one that is next.
    pub next: Label,
    /// How long it lasted.
    pub lasted: Duration,
    /// How it ended.
    pub end: End,
    /// Whether a source has answered by any link so far.
    pub came: bool,
    /// Whether a turn of this link ended in the same way before.
    pub again: bool,
}

impl fmt::Display for Turn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { link, next, lasted, end, .. } = self;
        match end {
            End::Lost => write!(f, "{link} has no lease any more: the boot goes on by {next}"),
            End::Failed => write!(f, "{link} does not lead to the image: the boot turns to {next}"),
            End::InVain => {
                let seconds = lasted.as_secs_f64();
                write!(
                    f,
                    "no source of the image answered by way of {link} in {seconds:.1} s: the boot turns to {next}"
                )
            }
        }
    }
}

impl Turns {
    /// No link has a lease yet; they take turns where it is `open` which one it is. So many sources are asked by each, and
    /// each may be silent for `stall`; the boot ends after `limit`, in which two links have their turns at least.
    pub fn new(open: bool, sources: usize, stall: Duration, limit: Option<Duration>) -> Self {
        let each = stall.saturating_add(MARGIN);
        let most = MOST.max(each).min(limit.map_or(Duration::MAX, |limit| limit / 3));
        let first = each.saturating_mul(u32::try_from(sources).unwrap_or(u32::MAX)).min(most);
        Self {
            open,
            present: None,
            had: Vec::new(),
            told: Vec::new(),
            came: false,
            first,
            pause: first,
            most,
            search: None,
            searches: 0,
        }
    }

    /// The boot is tried again, and each link may have its turn again where no source answers by the present one. What the
    /// net worker is to be told.
    pub fn anew(&mut self, now: Instant) -> Option<NetOrder> {
        self.had.clear();
        self.pause = self.first;
        if let Some(present) = &mut self.present {
            (present.since, present.failed) = (now, false);
        }
        self.search.take().map(|_| NetOrder::Stay)
    }

    /// A lease came on `link`: the turn that ended with that, if that of another link did. What the net worker is to be told.
    pub fn leased(&mut self, link: &Label, now: Instant) -> (Option<NetOrder>, Option<Turn>) {
        let search = self.search.take();
        if let Some(same) = self.present.as_mut().filter(|present| present.link == *link) {
            same.since = now;
            // The order may have crossed the news: then the worker searches though the link has its turn anew.
            return (search.map(|_| NetOrder::Stay), None);
        }
        (None, self.ended_by(link, now))
    }

    /// The turn that ends as that of `link` begins; the search has ended with its lease.
    fn ended_by(&mut self, link: &Label, now: Instant) -> Option<Turn> {
        let next = Present { link: link.clone(), since: now, reached: false, failed: false };
        let Present { link: before, since, reached, failed } = self.present.replace(next)?;
        if self.had.iter().any(|had| had.link == *link) {
            self.next_round();
        }
        // Whoever led to a source is the first to be asked where the next one does not.
        if !reached {
            self.had.push(Had { link: before.clone(), failed });
        }
        let end = match (reached, failed) {
            (true, _) => End::Lost,
            (false, true) => End::Failed,
            (false, false) => End::InVain,
        };
        let told = (before, end);
        let again = self.told.contains(&told) || self.told.len() >= LINKS;
        if !again {
            self.told.push(told.clone());
        }
        let (lasted, came) = (now.saturating_duration_since(since), self.came);
        Some(Turn { link: told.0, next: link.clone(), lasted, end, came, again })
    }

    /// A source answered, with whatever: the link stays. What the net worker is to be told.
    pub fn reached(&mut self) -> Option<NetOrder> {
        self.came = true;
        if let Some(present) = &mut self.present {
            present.reached = true;
        }
        self.search.take().map(|_| NetOrder::Stay)
    }

    /// The search of that number has no link that it could ask.
    pub fn alone(&mut self, number: u32) {
        if let Some(search) = self.search.as_mut().filter(|search| search.number == number) {
            search.alone = true;
        }
    }

    /// What the net worker is to be told now; at once where the boot `failed` by the present link.
    pub fn order(&mut self, failed: bool, now: Instant) -> Option<NetOrder> {
        let present = self.present.as_mut().filter(|present| self.open && !present.reached)?;
        present.failed |= failed;
        let lasted = now.saturating_duration_since(present.since);
        match &self.search {
            None if present.failed || lasted >= self.pause => {}
            Some(search) if search.is_over(now) && self.has_more_rounds() => self.next_round(),
            _ => return None,
        }
        if self.had.len() >= LINKS {
            self.had.clear();
        }
        self.searches = self.searches.wrapping_add(1);
        let number = self.searches;
        self.search = Some(Search { number, since: now, alone: false });
        let held = self.present.as_ref()?.link.clone();
        let but = self.had.iter().map(|had| had.link.clone()).collect();
        Some(NetOrder::Elsewhere { number, held, but })
    }

    /// Whether a link that is not out of the question had its turn: a boot that failed on all of its links says so.
    fn has_more_rounds(&self) -> bool {
        let failed = self.present.as_ref().is_some_and(|present| present.failed);
        self.had.iter().any(|had| !failed || !had.failed)
    }

    /// Whether another link may still get its turn, where the boot failed by the present one.
    pub fn is_hopeful(&self, now: Instant) -> bool {
        self.search.as_ref().is_some_and(|search| !search.is_over(now))
    }

    fn next_round(&mut self) {
        self.had.clear();
        self.pause = self.pause.saturating_mul(2).min(self.most);
    }
}

impl Search {
    fn is_over(&self, now: Instant) -> bool {
        self.alone || now.saturating_duration_since(self.since) >= OTHERS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn label(text: &str) -> Label {
        Label::new(text).unwrap()
    }

    /// Of an order its links: the one that is kept, and those that are not asked.
    fn links(order: Option<NetOrder>) -> Option<(String, Vec<String>)> {
        order.map(|order| match order {
            NetOrder::Elsewhere { held, but, .. } => (held.to_string(), but.iter().map(Label::to_string).collect()),
            other => panic!("{other:?}"),
        })
    }

    fn elsewhere(held: &str, but: &[&str]) -> Option<(String, Vec<String>)> {
        Some((held.to_owned(), but.iter().map(|name| (*name).to_owned()).collect()))
    }

    const STALL: Duration = Duration::from_secs(10);

    /// Turns of which eth0 has the first, and a clock in seconds from then on.
    fn begun(open: bool) -> (Turns, impl Fn(u64) -> Instant) {
        let start = Instant::now();
        let mut turns = Turns::new(open, 1, STALL, None);
        assert_eq!(turns.leased(&label("eth0"), start), (None, None));
        (turns, move |seconds| start + Duration::from_secs(seconds))
    }

    /// The first turn of a link by which nothing came so far.
    fn vain(link: &str, next: &str, seconds: u64) -> Turn {
        let (link, next, lasted) = (label(link), label(next), Duration::from_secs(seconds));
        Turn { link, next, lasted, end: End::InVain, came: false, again: false }
    }

    /// Nothing for the net worker, and this turn.
    fn only(turn: Turn) -> (Option<NetOrder>, Option<Turn>) {
        (None, Some(turn))
    }

    #[test]
    fn a_link_that_leads_nowhere_gives_way_after_fifteen_seconds_and_another_than_those_before_follows() {
        let (mut turns, at) = begun(true);
        assert_eq!(turns.order(false, at(14)), None);
        assert_eq!(links(turns.order(false, at(15))), elsewhere("eth0", &[]));
        // It stays until there is another lease, however long that takes.
        for second in [16, 30, 3600] {
            assert_eq!(turns.order(false, at(second)), None);
        }
        assert_eq!(turns.leased(&label("eth1"), at(3601)), only(vain("eth0", "eth1", 3601)));
        assert_eq!(turns.order(false, at(3615)), None);
        assert_eq!(links(turns.order(false, at(3616))), elsewhere("eth1", &["eth0"]));
        assert_eq!(turns.leased(&label("eth2"), at(3617)), only(vain("eth1", "eth2", 16)));
    }

    #[test]
    fn a_source_has_five_seconds_more_than_it_may_be_silent_and_a_turn_a_minute_unless_one_source_needs_more() {
        let start = Instant::now();
        let (none, limit) = (None, |seconds| Some(Duration::from_secs(seconds)));
        for (sources, stall, limit, seconds) in [
            (1, 10, none, 15),
            (2, 10, none, 30),
            (256, 10, none, 60),
            (1, 90, none, 95),
            (3, 90, none, 95),
            (2, 10, limit(30), 10),
            (2, 10, limit(600), 30),
        ] {
            let mut turns = Turns::new(true, sources, Duration::from_secs(stall), limit);
            turns.leased(&label("eth0"), start);
            assert_eq!(turns.order(false, start + Duration::from_secs(seconds - 1)), None);
            assert_eq!(links(turns.order(false, start + Duration::from_secs(seconds))), elsewhere("eth0", &[]));
        }
    }

    #[test]
    fn when_all_had_their_turn_it_goes_round_again_with_longer_turns_of_a_minute_at_most() {
        let (mut turns, at) = begun(true);
        assert_eq!(links(turns.order(false, at(15))), elsewhere("eth0", &[]));
        assert_eq!(turns.leased(&label("eth1"), at(15)), only(vain("eth0", "eth1", 15)));
        assert_eq!(links(turns.order(false, at(30))), elsewhere("eth1", &["eth0"]));
        // A third one has no carrier, or no server.
        assert_eq!(turns.order(false, at(39)), None);
        assert_eq!(links(turns.order(false, at(40))), elsewhere("eth1", &[]));
        assert_eq!(turns.leased(&label("eth0"), at(40)), only(vain("eth1", "eth0", 25)));
        assert_eq!(turns.order(false, at(69)), None);
        assert_eq!(links(turns.order(false, at(70))), elsewhere("eth0", &["eth1"]));
        // Where there is no third one it need not be waited for.
        turns.alone(4);
        assert_eq!(links(turns.order(false, at(70))), elsewhere("eth0", &[]));
        let told = Turn { again: true, ..vain("eth0", "eth1", 31) };
        assert_eq!(turns.leased(&label("eth1"), at(71)), only(told));
        assert_eq!(turns.order(false, at(130)), None);
        assert_eq!(links(turns.order(false, at(131))), elsewhere("eth1", &["eth0"]));
        (0..9).for_each(|_| turns.next_round());
        assert_eq!(turns.pause, MOST);
    }

    #[test]
    fn a_link_by_which_a_source_answered_stays() {
        let (mut turns, at) = begun(true);
        assert_eq!(turns.reached(), None);
        assert_eq!(turns.order(false, at(3600)), None);
        assert_eq!(turns.order(true, at(3600)), None, "what fails then is no matter of the link");
        assert!(!turns.is_hopeful(at(3600)));
        let (mut turns, at) = begun(true);
        assert_eq!(links(turns.order(false, at(15))), elsewhere("eth0", &[]));
        assert_eq!(turns.reached(), Some(NetOrder::Stay), "the others are asked no more");
        assert_eq!(turns.reached(), None);
        assert_eq!(turns.order(false, at(3600)), None);
    }

    #[test]
    fn a_link_that_follows_one_that_was_lost_has_to_lead_to_a_source_as_well_or_that_one_is_asked_again() {
        let (mut turns, at) = begun(true);
        turns.reached();
        let lost = Turn { end: End::Lost, came: true, ..vain("eth0", "eth1", 60) };
        assert_eq!(turns.leased(&label("eth1"), at(60)), only(lost));
        assert_eq!(links(turns.order(false, at(75))), elsewhere("eth1", &[]));
        // Had anew by the same link, a lease begins a turn and ends none; a search that was under way has no end by itself.
        assert_eq!(turns.leased(&label("eth1"), at(76)), (Some(NetOrder::Stay), None));
        assert_eq!(turns.leased(&label("eth1"), at(76)), (None, None));
        assert_eq!(turns.order(false, at(90)), None);
        let turn = Turn { came: true, ..vain("eth1", "eth0", 15) };
        assert_eq!(turns.leased(&label("eth0"), at(91)), only(turn));
    }

    #[test]
    fn a_boot_that_failed_by_each_of_its_links_says_so_without_a_second_round() {
        let (mut turns, at) = begun(true);
        assert_eq!(links(turns.order(true, at(0))), elsewhere("eth0", &[]));
        assert!(turns.is_hopeful(at(9)) && !turns.is_hopeful(at(10)));
        let failed = Turn { end: End::Failed, ..vain("eth0", "eth1", 3) };
        assert_eq!(turns.leased(&label("eth1"), at(3)), only(failed));
        assert_eq!(links(turns.order(true, at(4))), elsewhere("eth1", &["eth0"]));
        assert!(turns.is_hopeful(at(4)));
        turns.alone(1);
        assert!(turns.is_hopeful(at(4)), "that is the answer to the search before");
        turns.alone(2);
        assert_eq!(turns.order(true, at(60)), None);
        assert!(!turns.is_hopeful(at(4)));
        // The next attempt has a round of its own, and begins with what the net worker knows.
        assert_eq!(turns.anew(at(100)), Some(NetOrder::Stay));
        assert_eq!(turns.anew(at(100)), None);
        assert_eq!(turns.order(false, at(114)), None);
        assert_eq!(links(turns.order(true, at(114))), elsewhere("eth1", &[]));
        assert!(turns.is_hopeful(at(114)));
    }

    #[test]
    fn a_boot_that_failed_by_one_link_goes_back_to_another_that_only_waits_for_its_server() {
        let (mut turns, at) = begun(true);
        assert_eq!(links(turns.order(false, at(15))), elsewhere("eth0", &[]));
        assert_eq!(turns.leased(&label("eth1"), at(16)), only(vain("eth0", "eth1", 16)));
        assert_eq!(links(turns.order(true, at(17))), elsewhere("eth1", &["eth0"]));
        turns.alone(2);
        assert_eq!(links(turns.order(true, at(17))), elsewhere("eth1", &[]));
        assert!(turns.is_hopeful(at(17)));
        let failed = Turn { end: End::Failed, ..vain("eth1", "eth0", 2) };
        assert_eq!(turns.leased(&label("eth0"), at(18)), only(failed));
        // There it has twice the time.
        assert_eq!(turns.order(false, at(47)), None);
        assert_eq!(links(turns.order(false, at(48))), elsewhere("eth0", &["eth1"]));
        // Where none gives a lease any more, the failure by the one that does is told.
        let told = Turn { again: true, ..vain("eth0", "eth1", 31) };
        assert_eq!(turns.leased(&label("eth1"), at(49)), only(told));
        assert_eq!(links(turns.order(true, at(50))), elsewhere("eth1", &["eth0"]));
        assert_eq!(links(turns.order(true, at(60))), elsewhere("eth1", &[]));
        assert!(turns.is_hopeful(at(69)));
        assert_eq!(turns.order(true, at(70)), None);
        assert!(!turns.is_hopeful(at(70)));
    }

    #[test]
    fn where_the_operator_says_which_link_it_is_there_are_no_turns() {
        let (mut turns, at) = begun(false);
        for failed in [false, true] {
            assert_eq!(turns.order(failed, at(3600)), None);
            assert!(!turns.is_hopeful(at(3600)));
        }
    }

    #[test]
    fn a_turn_is_told_in_a_sentence() {
        let turn = Turn { lasted: Duration::from_millis(10_420), ..vain("eth0", "eth1", 0) };
        assert_eq!(
            turn.to_string(),
            "no source of the image answered by way of eth0 in 10.4 s: the boot turns to eth1"
        );
        let failed = Turn { end: End::Failed, ..turn.clone() };
        assert_eq!(failed.to_string(), "eth0 does not lead to the image: the boot turns to eth1");
        let lost = Turn { end: End::Lost, ..turn };
        assert_eq!(lost.to_string(), "eth0 has no lease any more: the boot goes on by eth1");
    }
}
