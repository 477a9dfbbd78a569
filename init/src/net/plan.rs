//! How a link is configured, as steps.

use super::lease::{Terms, is_neighbour};
use super::link::Link;
use crate::messages::{Lease, Route};
use std::fmt;
use std::net::Ipv4Addr;

/// One change to a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Sets the MTU.
    Mtu(u16),
    /// Removes every IPv4 address but this one: what an earlier lease, a crashed worker or the kernel's own `ip=` has
    /// left, and with it the routes from that source.
    Clear {
        /// The address that stays, if it is there.
        but: Option<Ipv4Addr>,
    },
    /// Removes an address, if it is there as this worker has set it.
    Remove {
        /// The address.
        address: Ipv4Addr,
    },
    /// Sets the address, without an end: an address with a lifetime would vanish from the booted system some time
    /// after the hand-over, when nobody renews it. While the worker runs, it removes the address of a lost lease.
    Address {
        /// The address.
        address: Ipv4Addr,
        /// The length of its network prefix.
        prefix: u8,
    },
    /// Sets a route.
    Route {
        /// The route.
        route: Route,
        /// Its source address.
        source: Ipv4Addr,
        /// The kernel refuses a gateway that no route leads to; with this it takes it as a neighbour (a lease with
        /// prefix 32 has no neighbours otherwise).
        onlink: bool,
    },
}

/// The steps that configure `link` by `terms`, in order.
pub fn configure(link: &Link, terms: &Terms) -> Vec<Step> {
    let address = terms.lease.address;
    // Setting an MTU takes some drivers off the wire for a moment, so only a different one is set. It comes first: a
    // route copies it.
    let mtu = terms.mtu.filter(|mtu| u32::from(*mtu) != link.mtu).map(Step::Mtu);
    mtu.into_iter().chain([Step::Clear { but: Some(address) }]).chain(address_and_routes(&terms.lease)).collect()
}

/// The steps that configure a link by a renewed lease where the booted system has set it up too: what is not of `ours`, the
/// address until now, stays as it is.
pub fn beside(ours: Option<Ipv4Addr>, terms: &Terms) -> Vec<Step> {
    let former = ours.filter(|ours| *ours != terms.lease.address).map(|address| Step::Remove { address });
    former.into_iter().chain(address_and_routes(&terms.lease)).collect()
}

fn address_and_routes(lease: &Lease) -> impl Iterator<Item = Step> {
    let Lease { address, prefix, routes, .. } = lease;
    let routes = routes.iter().map(|route| Step::Route {
        route: route.clone(),
        source: *address,
        onlink: route.gateway.is_some_and(|gateway| !is_neighbour(gateway, *address, *prefix)),
    });
    [Step::Address { address: *address, prefix: *prefix }].into_iter().chain(routes)
}

/// An IPv4 address that is on a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Present {
    /// The address.
    pub address: Ipv4Addr,
    /// Whether it has no end.
    pub lasting: bool,
    /// Whether others reach it beyond the link.
    pub global: bool,
}

impl Present {
    /// Whether it is `address` as this worker sets it. Network managers give an address by DHCP its lease's lifetime, so
    /// one with an end is theirs, though it be the same.
    pub fn is_own(&self, address: Ipv4Addr) -> bool {
        self.address == address && self.lasting
    }
}

/// Whether somebody has put an address of their own in the place of `ours`. Where there is none of ours, since its lease was
/// lost, what an administrator has added to it may still be there; a lease of another's is then known by its end.
pub fn is_taken_over(present: &[Present], ours: Option<Ipv4Addr>) -> bool {
    let mut global = present.iter().filter(|there| there.global);
    match ours {
        Some(ours) => !present.iter().any(|there| there.is_own(ours)) && global.next().is_some(),
        None => global.any(|there| !there.lasting),
    }
}

/// The steps that take a lost lease off its link.
pub fn forget() -> Vec<Step> {
    vec![Step::Clear { but: None }]
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mtu(mtu) => write!(f, "mtu {mtu}"),
            Self::Clear { but: Some(address) } => write!(f, "remove addresses but {address}"),
            Self::Clear { but: None } => f.write_str("remove addresses"),
            Self::Remove { address } => write!(f, "remove address {address}"),
            Self::Address { address, prefix } => write!(f, "address {address}/{prefix}"),
            Self::Route { route: Route { destination, prefix, gateway }, source, onlink } => {
                write!(f, "route {destination}/{prefix}")?;
                if let Some(gateway) = gateway {
                    write!(f, " via {gateway}")?;
                }
                write!(f, " from {source}{}", if *onlink { " onlink" } else { "" })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::messages::StaticAddress;
    use crate::net::lease::fixed;
    use crate::net::link::tests::link;

    fn terms(address: &str, prefix: u8, gateway: Option<&str>, mtu: Option<u16>) -> Terms {
        let words = StaticAddress {
            address: address.parse().unwrap(),
            prefix,
            gateway: gateway.map(|gateway| gateway.parse().unwrap()),
            hostname: None,
            dns: vec![],
        };
        Terms { mtu, ..fixed(&words, &link(1, "eth0"), &[]) }
    }

    fn texts(steps: &[Step]) -> Vec<String> {
        steps.iter().map(Step::to_string).collect()
    }

    fn steps(address: &str, prefix: u8, gateway: Option<&str>, mtu: Option<u16>) -> Vec<String> {
        texts(&configure(&link(1, "eth0"), &terms(address, prefix, gateway, mtu)))
    }

    #[test]
    fn beside_the_booted_system_only_the_own_address_is_changed() {
        let renewed = terms("10.0.0.5", 24, Some("10.0.0.1"), Some(1450));
        let set = ["address 10.0.0.5/24", "route 0.0.0.0/0 via 10.0.0.1 from 10.0.0.5"];
        assert_eq!(texts(&beside(Some(Ipv4Addr::new(10, 0, 0, 5)), &renewed)), set);
        let moved = texts(&beside(Some(Ipv4Addr::new(10, 0, 0, 4)), &renewed));
        assert_eq!(texts(&beside(None, &renewed)), set);
        assert_eq!(moved, [["remove address 10.0.0.4"].as_slice(), &set].concat());
    }

    #[test]
    fn a_link_is_taken_over_by_a_global_address_in_the_place_of_the_own() {
        let ours = Ipv4Addr::new(10, 0, 0, 5);
        let own = Present { address: ours, lasting: true, global: true };
        let theirs = Present { address: Ipv4Addr::new(10, 0, 0, 9), ..own };
        let the_same = Present { lasting: false, ..own };
        let local = Present { address: Ipv4Addr::new(169, 254, 7, 7), global: false, ..own };
        let leased = Present { lasting: false, ..theirs };
        for (present, taken_over, without_ours) in [
            (vec![], false, false),
            (vec![own], false, false),
            (vec![own, theirs], false, false),
            (vec![local], false, false),
            (vec![theirs], true, false),
            (vec![the_same], true, true),
            (vec![local, leased], true, true),
        ] {
            assert_eq!(is_taken_over(&present, Some(ours)), taken_over, "{present:?}");
            assert_eq!(is_taken_over(&present, None), without_ours, "{present:?}");
        }
    }

    #[test]
    fn a_link_gets_its_mtu_its_only_address_and_its_routes() {
        assert_eq!(
            steps("10.0.0.5", 24, Some("10.0.0.1"), Some(1450)),
            [
                "mtu 1450",
                "remove addresses but 10.0.0.5",
                "address 10.0.0.5/24",
                "route 0.0.0.0/0 via 10.0.0.1 from 10.0.0.5"
            ]
        );
    }

    #[test]
    fn a_gateway_beyond_the_network_is_made_a_neighbour() {
        assert_eq!(
            steps("10.0.0.5", 32, Some("10.0.0.1"), None),
            [
                "remove addresses but 10.0.0.5",
                "address 10.0.0.5/32",
                "route 0.0.0.0/0 via 10.0.0.1 from 10.0.0.5 onlink"
            ]
        );
    }

    #[test]
    fn an_mtu_that_is_already_set_is_left_alone() {
        assert_eq!(steps("10.0.0.5", 24, None, Some(1500)), ["remove addresses but 10.0.0.5", "address 10.0.0.5/24"]);
    }
}
