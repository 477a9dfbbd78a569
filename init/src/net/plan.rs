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
    let Lease { address, prefix, routes, .. } = &terms.lease;
    // Setting an MTU takes some drivers off the wire for a moment, so only a different one is set. It comes first: a
    // route copies it.
    let mtu = terms.mtu.filter(|mtu| u32::from(*mtu) != link.mtu).map(Step::Mtu);
    let ours = [Step::Clear { but: Some(*address) }, Step::Address { address: *address, prefix: *prefix }];
    let routes = routes.iter().map(|route| Step::Route {
        route: route.clone(),
        source: *address,
        onlink: route.gateway.is_some_and(|gateway| !is_neighbour(gateway, *address, *prefix)),
    });
    mtu.into_iter().chain(ours).chain(routes).collect()
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

    fn steps(address: &str, prefix: u8, gateway: Option<&str>, mtu: Option<u16>) -> Vec<String> {
        let words = StaticAddress {
            address: address.parse().unwrap(),
            prefix,
            gateway: gateway.map(|gateway| gateway.parse().unwrap()),
            hostname: None,
            dns: vec![],
        };
        let link = link(1, "eth0");
        let terms = Terms { mtu, ..fixed(&words, &link, &[]) };
        configure(&link, &terms).iter().map(Step::to_string).collect()
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
