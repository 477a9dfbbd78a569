//! Waiting for links and carriers: what is seen goes in, what is to be done comes out. Time is an argument, counted
//! from the order.

use super::link::{Link, is_selected};
use crate::label::Label;
use crate::messages::{Carrier, LeaseFault, NetCause, NetNews, Selection};
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::Duration;

/// How long a link that would not be set up is left alone: its driver may be waiting for firmware.
const RAISE_AGAIN: Duration = Duration::from_secs(1);

/// The most link names in one message; a host with hundreds of virtual functions still fits a packet.
const NAMES: usize = 64;

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Set the link up.
    Raise(Link),
    /// Tell PID 1.
    Tell(NetNews),
    /// The link has carrier: configure it.
    Begin(Link),
    /// The link of this index lost its carrier, or is gone: stop asking on it.
    Leave(u32),
    /// The time is up.
    GiveUp(NetCause),
}

/// An unusable answer of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unusable {
    /// Where it came.
    pub link: Label,
    /// Who sent it.
    pub server: Option<Ipv4Addr>,
    /// What is wrong with it.
    pub fault: LeaseFault,
}

/// A link that takes part.
#[derive(Debug)]
struct Followed {
    link: Link,
    raise_after: Duration,
    refused: Option<i32>,
}

/// The wait of one `Up` order.
#[derive(Debug)]
pub struct Watch {
    selection: Selection,
    carrier_limit: Duration,
    lease_limit: Duration,
    followed: BTreeMap<u32, Followed>,
    shown: BTreeSet<Label>,
    first_link: Option<Duration>,
    first_carrier: Option<Duration>,
    asked: BTreeSet<Label>,
    unusable: Option<Unusable>,
}

impl Watch {
    /// Begins at time zero.
    pub fn new(selection: Selection, carrier_limit: Duration, lease_limit: Duration) -> Self {
        Self {
            selection,
            carrier_limit,
            lease_limit,
            followed: BTreeMap::new(),
            shown: BTreeSet::new(),
            first_link: None,
            first_carrier: None,
            asked: BTreeSet::new(),
            unusable: None,
        }
    }

    /// When the wait is over: the carrier's time counts from the first selected link, since drivers load meanwhile;
    /// the lease's from the first carrier.
    pub fn deadline(&self) -> Duration {
        match self.first_carrier {
            Some(since) => since.saturating_add(self.lease_limit),
            None => self.first_link.unwrap_or_default().saturating_add(self.carrier_limit),
        }
    }

    /// The kernel would not set the link up.
    pub fn refused(&mut self, index: u32, errno: i32) {
        if let Some(followed) = self.followed.get_mut(&index) {
            followed.refused = Some(errno);
        }
    }

    /// The selected links other than the one of that index.
    pub fn others(&self, index: u32) -> impl Iterator<Item = &Link> {
        self.links().filter(move |link| link.index != index)
    }

    /// The selected links.
    pub fn links(&self) -> impl Iterator<Item = &Link> {
        self.followed.values().map(|followed| &followed.link)
    }

    /// A server answered with something unusable.
    pub fn unusable(&mut self, answer: Unusable) {
        self.unusable = Some(answer);
    }

    /// Takes all Ethernet links that the kernel shows at `now`.
    pub fn observe(&mut self, links: &[Link], now: Duration) -> Vec<Action> {
        let mut actions = Vec::new();
        let present: BTreeSet<u32> = self.selected(links).map(|link| link.index).collect();
        self.followed.retain(|index, followed| {
            let stays = present.contains(index);
            if !stays && followed.link.carrier == Carrier::Up {
                actions.push(Action::Leave(*index));
            }
            stays
        });
        self.shown = links.iter().map(|link| link.name.clone()).collect();
        for link in links.iter().filter(|link| is_selected(link, &self.selection)) {
            self.first_link.get_or_insert(now);
            let before = self.followed.get(&link.index).map(|followed| followed.link.carrier);
            let followed = self.followed.entry(link.index).or_insert_with(|| Followed {
                link: link.clone(),
                raise_after: now,
                refused: None,
            });
            followed.link = link.clone();
            if link.up {
                followed.refused = None;
            } else if now >= followed.raise_after {
                followed.raise_after = now.saturating_add(RAISE_AGAIN);
                actions.push(Action::Raise(link.clone()));
            }
            if before != Some(link.carrier) {
                let Link { name, mac, carrier, .. } = link.clone();
                actions.push(Action::Tell(NetNews::Link { name, mac, carrier }));
                match (before, link.carrier) {
                    (_, Carrier::Up) => {
                        self.first_carrier.get_or_insert(now);
                        self.asked.insert(link.name.clone());
                        actions.push(Action::Begin(link.clone()));
                    }
                    (Some(Carrier::Up), Carrier::Down) => actions.push(Action::Leave(link.index)),
                    (_, Carrier::Down) => {}
                }
            }
        }
        if now >= self.deadline() {
            actions.push(Action::GiveUp(self.cause()));
        }
        actions
    }

    fn selected<'a>(&'a self, links: &'a [Link]) -> impl Iterator<Item = &'a Link> {
        links.iter().filter(|link| is_selected(link, &self.selection))
    }

    /// Why there is no network, by what was seen.
    fn cause(&self) -> NetCause {
        let names = |names: &mut dyn Iterator<Item = &Label>| names.take(NAMES).cloned().collect::<Vec<_>>();
        if let Some(Unusable { link, server, fault }) = self.unusable.clone() {
            return NetCause::UnusableLease { link, server, fault };
        }
        if self.first_carrier.is_some() {
            let seconds = u32::try_from(self.lease_limit.as_secs()).unwrap_or(u32::MAX);
            return NetCause::NoLease { links: names(&mut self.asked.iter()), seconds };
        }
        if self.followed.is_empty() {
            return match (&self.selection, self.shown.is_empty()) {
                (Selection::All, _) | (_, true) => NetCause::NoLink,
                _ => NetCause::NoSuchLink { present: names(&mut self.shown.iter()) },
            };
        }
        // A refusal explains the missing carrier only where no link could be set up at all.
        let mut refusals = self.followed.values().map(|followed| Some((followed.link.name.clone(), followed.refused?)));
        match refusals.next().flatten() {
            Some((link, errno)) if refusals.all(|refusal| refusal.is_some()) => NetCause::Kernel { link, errno },
            _ => NetCause::NoCarrier { links: names(&mut self.followed.values().map(|followed| &followed.link.name)) },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::link::tests::link;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// 10 s for a carrier, 30 s for a lease.
    fn watch(selection: Selection) -> Watch {
        Watch::new(selection, seconds(10), seconds(30))
    }

    fn with_carrier(link: Link) -> Link {
        Link { carrier: Carrier::Up, ..link }
    }

    fn not_set_up(link: Link) -> Link {
        Link { up: false, ..link }
    }

    fn tell(link: &Link) -> Action {
        let Link { name, mac, carrier, .. } = link.clone();
        Action::Tell(NetNews::Link { name, mac, carrier })
    }

    fn label(text: &str) -> Label {
        Label::new(text).unwrap()
    }

    /// What the kernel shows, and when, against what is to be done.
    fn check(mut watch: Watch, events: Vec<(u64, Vec<Link>, Vec<Action>)>) -> Watch {
        for (now, links, expected) in events {
            assert_eq!(watch.observe(&links, seconds(now)), expected, "after {now} s");
        }
        watch
    }

    #[test]
    fn a_link_is_set_up_and_asked_on_when_its_carrier_comes() {
        let eth0 = link(1, "eth0");
        let fresh = not_set_up(eth0.clone());
        let live = with_carrier(eth0.clone());
        check(
            watch(Selection::All),
            vec![
                (0, vec![], vec![]),
                (2, vec![fresh.clone()], vec![Action::Raise(fresh.clone()), tell(&fresh)]),
                (2, vec![eth0.clone()], vec![]),
                (4, vec![live.clone()], vec![tell(&live), Action::Begin(live.clone())]),
                (5, vec![live], vec![]),
            ],
        );
    }

    #[test]
    fn a_link_whose_carrier_comes_later_joins() {
        let (slow, fast) = (link(1, "eth0"), with_carrier(link(2, "eth1")));
        let late = with_carrier(slow.clone());
        check(
            watch(Selection::All),
            vec![
                (0, vec![slow.clone(), fast.clone()], vec![tell(&slow), tell(&fast), Action::Begin(fast.clone())]),
                (25, vec![late.clone(), fast], vec![tell(&late), Action::Begin(late.clone())]),
            ],
        );
    }

    #[test]
    fn a_lost_carrier_or_link_is_left_and_asked_on_again_when_it_is_back() {
        let down = link(1, "eth0");
        let live = with_carrier(down.clone());
        let begin = vec![tell(&live), Action::Begin(live.clone())];
        check(
            watch(Selection::All),
            vec![
                (0, vec![live.clone()], begin.clone()),
                (1, vec![down.clone()], vec![tell(&down), Action::Leave(1)]),
                (2, vec![live.clone()], begin.clone()),
                (3, vec![], vec![Action::Leave(1)]),
                (4, vec![live.clone()], begin),
            ],
        );
    }

    #[test]
    fn the_lease_has_its_time_from_the_first_carrier_on() {
        let live = with_carrier(link(1, "eth0"));
        let gone = link(1, "eth0");
        let cause = NetCause::NoLease { links: vec![label("eth0")], seconds: 30 };
        let watch = check(
            watch(Selection::All),
            vec![
                (9, vec![live.clone()], vec![tell(&live), Action::Begin(live.clone())]),
                (38, vec![gone.clone()], vec![tell(&gone), Action::Leave(1)]),
                (39, vec![gone], vec![Action::GiveUp(cause)]),
            ],
        );
        assert_eq!(watch.deadline(), seconds(39));
    }

    #[test]
    fn an_unusable_answer_is_the_cause_that_is_told() {
        let live = with_carrier(link(1, "eth0"));
        let mut watch = watch(Selection::All);
        watch.observe(std::slice::from_ref(&live), seconds(0));
        let fault = LeaseFault::Mask(Ipv4Addr::UNSPECIFIED);
        watch.unusable(Unusable { link: label("eth0"), server: None, fault });
        let cause = NetCause::UnusableLease { link: label("eth0"), server: None, fault };
        assert_eq!(watch.observe(&[live], seconds(30)), [Action::GiveUp(cause)]);
    }

    #[test]
    fn the_carrier_has_its_time_from_the_first_link_on() {
        let eth0 = link(1, "eth0");
        let cause = NetCause::NoCarrier { links: vec![label("eth0")] };
        check(
            watch(Selection::All),
            vec![
                (8, vec![eth0.clone()], vec![tell(&eth0)]),
                (17, vec![eth0.clone()], vec![]),
                (18, vec![eth0], vec![Action::GiveUp(cause)]),
            ],
        );
    }

    #[test]
    fn without_a_link_the_cause_names_what_there_is() {
        let bond = Link { uplink: false, ..link(3, "bond0") };
        let other = link(1, "eth0");
        let cases = [
            (Selection::All, vec![], NetCause::NoLink),
            (Selection::All, vec![bond.clone()], NetCause::NoLink),
            (Selection::Mac([2; 6]), vec![], NetCause::NoLink),
            (
                Selection::Mac([2; 6]),
                vec![other.clone(), bond],
                NetCause::NoSuchLink { present: vec![label("bond0"), label("eth0")] },
            ),
            (Selection::Named(label("eth9")), vec![other], NetCause::NoSuchLink { present: vec![label("eth0")] }),
        ];
        for (selection, links, cause) in cases {
            let mut watch = watch(selection);
            assert_eq!(watch.observe(&links, Duration::from_millis(9999)), []);
            assert_eq!(watch.observe(&links, seconds(10)), [Action::GiveUp(cause)]);
        }
    }

    #[test]
    fn a_refused_link_is_tried_again_and_the_kernels_error_told_if_there_is_no_other() {
        let dead = not_set_up(link(1, "eth0"));
        let mut watch = watch(Selection::All);
        assert_eq!(watch.observe(std::slice::from_ref(&dead), seconds(0)), [Action::Raise(dead.clone()), tell(&dead)]);
        watch.refused(1, 2);
        assert_eq!(watch.observe(std::slice::from_ref(&dead), Duration::from_millis(999)), []);
        assert_eq!(watch.observe(std::slice::from_ref(&dead), seconds(1)), [Action::Raise(dead.clone())]);
        watch.refused(1, 2);
        let cause = NetCause::Kernel { link: label("eth0"), errno: 2 };
        assert_eq!(
            watch.observe(std::slice::from_ref(&dead), seconds(10)),
            [Action::Raise(dead.clone()), Action::GiveUp(cause)]
        );
        let other = link(2, "eth1");
        let cause = NetCause::NoCarrier { links: vec![label("eth0"), label("eth1")] };
        assert_eq!(
            watch.observe(&[dead.clone(), other.clone()], seconds(11)),
            [Action::Raise(dead), tell(&other), Action::GiveUp(cause)]
        );
    }
}
