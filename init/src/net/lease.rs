//! What of a server's answer is believed. Anybody on the wire can be the server, so every field is held against what
//! it can mean; what cannot be used is dropped, and where nothing can be configured the whole answer is refused.

use super::link::Link;
use crate::label::{Label, printable};
use crate::messages::{Lease, LeaseFault, Route, StaticAddress};
use mozim::DhcpV4Lease;
use std::net::{IpAddr, Ipv4Addr};

/// The most routes taken from a server.
const ROUTES: usize = 16;
/// The most name servers in all; libc asks three.
const NAME_SERVERS: usize = 6;
/// The most time servers taken from a server.
const TIME_SERVERS: usize = 4;
/// MTUs that are taken: every host must accept packets of 576 bytes, and an IPv4 packet has at most 65535.
const MTU: std::ops::RangeInclusive<u16> = 576..=u16::MAX;

/// What a link is configured with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// What PID 1 is told.
    pub lease: Lease,
    /// The MTU that the server wishes.
    pub mtu: Option<u16>,
}

impl Terms {
    /// Whether they lead beyond the link's own network.
    pub fn leads_on(&self) -> bool {
        self.lease.routes.iter().any(|route| route.gateway.is_some())
    }
}

/// The usable part of `answer`, which came on `link`. `nameservers` come before the server's.
pub fn judge(answer: &DhcpV4Lease, link: &Link, nameservers: &[IpAddr]) -> Result<Terms, LeaseFault> {
    let address = answer.yiaddr;
    if !is_unicast(address) {
        return Err(LeaseFault::Address(address));
    }
    let prefix = prefix_of(answer.subnet_mask).ok_or(LeaseFault::Mask(answer.subnet_mask))?;
    // A network of one or two addresses (RFC 3021) has neither network nor broadcast address.
    if prefix <= 30 && [0, !mask(prefix)].contains(&(address.to_bits() & !mask(prefix))) {
        return Err(LeaseFault::NotAHost { address, prefix });
    }
    let server = Some(answer.srv_id).filter(|server| is_unicast(*server));
    let lease = Lease {
        link: link.name.clone(),
        mac: link.mac,
        address,
        prefix,
        routes: routes(answer, address, prefix),
        dns: name_servers(nameservers, answer.dns_srvs.iter().flatten().copied().map(IpAddr::V4)),
        time_servers: time_servers(answer),
        domain: label(answer.domain_name.as_deref())
            .or_else(|| label(answer.domain_search.iter().flatten().next().map(String::as_str))),
        hostname: label(answer.host_name.as_deref()),
        server,
        // RFC 2131: all ones is for ever.
        seconds: Some(answer.lease_time_sec).filter(|seconds| *seconds != u32::MAX),
    };
    Ok(Terms { lease, mtu: answer.mtu.filter(|mtu| MTU.contains(mtu)) })
}

/// The operator's words for `link`. `nameservers` come before the address's own.
pub fn fixed(words: &StaticAddress, link: &Link, nameservers: &[IpAddr]) -> Terms {
    let default = |gateway| Route { destination: Ipv4Addr::UNSPECIFIED, prefix: 0, gateway: Some(gateway) };
    let lease = Lease {
        link: link.name.clone(),
        mac: link.mac,
        address: words.address,
        prefix: words.prefix.min(32),
        routes: words.gateway.map(default).into_iter().collect(),
        dns: name_servers(nameservers, words.dns.iter().copied()),
        time_servers: Vec::new(),
        domain: None,
        hostname: words.hostname.clone(),
        server: None,
        seconds: None,
    };
    Terms { lease, mtu: None }
}

/// The bits of a network prefix.
pub fn mask(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0)
}

/// Whether `gateway` is a neighbour of a host with `address`/`prefix`.
pub fn is_neighbour(gateway: Ipv4Addr, address: Ipv4Addr, prefix: u8) -> bool {
    (gateway.to_bits() ^ address.to_bits()) & mask(prefix) == 0
}

/// The length of the prefix that `netmask` stands for; none where it has holes or no bits.
fn prefix_of(netmask: Ipv4Addr) -> Option<u8> {
    let bits = netmask.to_bits();
    let length = bits.leading_ones();
    (length > 0 && length + bits.trailing_zeros() == 32).then_some(length as u8)
}

/// Whether a host can have this address. 240.0.0.0/4 is refused with the rest: the kernel routes it, nobody uses it.
fn is_unicast(address: Ipv4Addr) -> bool {
    let [first, ..] = address.octets();
    !matches!(first, 0 | 127 | 224..)
}

/// RFC 3442: where the server gives classless routes, its router option is void. Routes for addresses that never
/// leave the host, or through an address that is no gateway, are dropped. On-link ones come first, since the others
/// may need them.
fn routes(answer: &DhcpV4Lease, address: Ipv4Addr, prefix: u8) -> Vec<Route> {
    let mut routes: Vec<Route> = match &answer.classless_routes {
        Some(classless) => classless
            .iter()
            .filter(|route| route.prefix_length <= 32)
            .map(|route| Route {
                destination: Ipv4Addr::from_bits(route.destination.to_bits() & mask(route.prefix_length)),
                prefix: route.prefix_length,
                gateway: Some(route.router).filter(|router| !router.is_unspecified()),
            })
            .collect(),
        None => {
            // The first is the preferred one; the kernel would use a second only with another metric.
            let gateway = answer.gateways.iter().flatten().find(|gateway| is_gateway(**gateway, address));
            let default = |gateway| Route { destination: Ipv4Addr::UNSPECIFIED, prefix: 0, gateway: Some(gateway) };
            gateway.copied().map(default).into_iter().collect()
        }
    };
    routes.retain(|route| {
        let destination_leaves = route.prefix == 0 || is_unicast(route.destination);
        destination_leaves && route.gateway.is_none_or(|gateway| is_gateway(gateway, address))
    });
    // The kernel makes the route of the link's own network with the address.
    routes.retain(|route| route.gateway.is_some() || !same_network(route, address, prefix));
    let mut seen = Vec::new();
    routes.retain(|route| {
        let key = (route.destination, route.prefix);
        let new = !seen.contains(&key);
        seen.push(key);
        new
    });
    if routes.len() > ROUTES {
        log::warn!("net: {} of the server's {} routes are left out", routes.len() - ROUTES, routes.len());
        routes.truncate(ROUTES);
    }
    routes.sort_by_key(|route| route.gateway.is_some());
    routes
}

fn same_network(route: &Route, address: Ipv4Addr, prefix: u8) -> bool {
    route.prefix == prefix && is_neighbour(route.destination, address, prefix)
}

fn is_gateway(gateway: Ipv4Addr, own: Ipv4Addr) -> bool {
    is_unicast(gateway) && gateway != own
}

/// The operator's name servers, then the server's, each once.
fn name_servers(first: &[IpAddr], then: impl Iterator<Item = IpAddr>) -> Vec<IpAddr> {
    let given = then.filter(|server| match server {
        IpAddr::V4(server) => is_unicast(*server),
        IpAddr::V6(_) => true,
    });
    let mut servers = Vec::new();
    for server in first.iter().copied().chain(given) {
        if !servers.contains(&server) && servers.len() < NAME_SERVERS {
            servers.push(server);
        }
    }
    servers
}

fn time_servers(answer: &DhcpV4Lease) -> Vec<Ipv4Addr> {
    let given = answer.ntp_srvs.iter().flatten().copied();
    given.filter(|server| is_unicast(*server)).take(TIME_SERVERS).collect()
}

/// The server's text as a label. Some servers end it with NUL or write a domain with its final dot.
fn label(text: Option<&str>) -> Option<Label> {
    let text = text?.trim_end_matches('\0');
    let text = text.strip_suffix('.').unwrap_or(text);
    let label = Label::new(text);
    if label.is_err() && !text.is_empty() {
        log::warn!("net: the server's name {} is no name and is left out", printable(text, Label::MAX));
    }
    label.ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::link::tests::link;
    use mozim::DhcpV4ClasslessRoute;

    fn ip(text: &str) -> Ipv4Addr {
        text.parse().unwrap()
    }

    fn route(destination: &str, prefix: u8, gateway: Option<&str>) -> Route {
        Route { destination: ip(destination), prefix, gateway: gateway.map(ip) }
    }

    fn classless(destination: &str, prefix_length: u8, router: &str) -> DhcpV4ClasslessRoute {
        DhcpV4ClasslessRoute { destination: ip(destination), prefix_length, router: ip(router) }
    }

    /// What a plain home router answers.
    fn answer() -> DhcpV4Lease {
        let mut answer = DhcpV4Lease::default();
        answer.yiaddr = ip("192.168.1.20");
        answer.subnet_mask = ip("255.255.255.0");
        answer.srv_id = ip("192.168.1.1");
        answer.gateways = Some(vec![ip("192.168.1.1")]);
        answer.dns_srvs = Some(vec![ip("192.168.1.1"), ip("9.9.9.9")]);
        answer.ntp_srvs = Some(vec![ip("192.168.1.2"), ip("224.0.1.1")]);
        answer.domain_name = Some("home.example".into());
        answer.host_name = Some("node7".into());
        answer.lease_time_sec = 3600;
        answer.mtu = Some(1450);
        answer
    }

    fn terms() -> Terms {
        let lease = Lease {
            link: Label::new("eth0").unwrap(),
            mac: [2, 0, 0, 0, 0, 1],
            address: ip("192.168.1.20"),
            prefix: 24,
            routes: vec![route("0.0.0.0", 0, Some("192.168.1.1"))],
            dns: vec![ip("192.168.1.1").into(), ip("9.9.9.9").into()],
            time_servers: vec![ip("192.168.1.2")],
            domain: Some(Label::new("home.example").unwrap()),
            hostname: Some(Label::new("node7").unwrap()),
            server: Some(ip("192.168.1.1")),
            seconds: Some(3600),
        };
        Terms { lease, mtu: Some(1450) }
    }

    fn judged(answer: &DhcpV4Lease) -> Result<Terms, LeaseFault> {
        judge(answer, &link(1, "eth0"), &[])
    }

    #[test]
    fn an_honest_answer_is_taken_whole() {
        assert_eq!(judged(&answer()), Ok(terms()));
    }

    #[test]
    fn refuses_addresses_that_no_host_can_have() {
        for bad in ["0.0.0.0", "0.1.2.3", "127.0.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255"] {
            let mut answer = answer();
            answer.yiaddr = ip(bad);
            assert_eq!(judged(&answer), Err(LeaseFault::Address(ip(bad))));
        }
    }

    #[test]
    fn refuses_masks_that_are_none() {
        for bad in ["0.0.0.0", "255.0.255.0", "0.0.0.255", "128.0.0.1"] {
            let mut answer = answer();
            answer.subnet_mask = ip(bad);
            assert_eq!(judged(&answer), Err(LeaseFault::Mask(ip(bad))));
        }
    }

    #[test]
    fn refuses_the_first_and_last_address_of_a_network_but_not_of_a_pair() {
        for (address, mask, prefix) in [("192.168.1.0", "255.255.255.0", 24), ("10.0.0.3", "255.255.255.252", 30)] {
            let mut answer = answer();
            (answer.yiaddr, answer.subnet_mask) = (ip(address), ip(mask));
            assert_eq!(judged(&answer), Err(LeaseFault::NotAHost { address: ip(address), prefix }));
        }
        for (mask, prefix) in [("255.255.255.254", 31), ("255.255.255.255", 32)] {
            let mut answer = answer();
            (answer.yiaddr, answer.subnet_mask) = (ip("10.0.0.0"), ip(mask));
            assert_eq!(judged(&answer).unwrap().lease.prefix, prefix);
        }
    }

    #[test]
    fn a_lease_of_all_ones_is_for_ever_and_a_server_without_a_name_is_none() {
        let mut answer = answer();
        answer.lease_time_sec = u32::MAX;
        answer.srv_id = Ipv4Addr::UNSPECIFIED;
        let expected = terms();
        let lease = Lease { seconds: None, server: None, ..expected.lease };
        assert_eq!(judged(&answer), Ok(Terms { lease, ..expected }));
    }

    #[test]
    fn drops_names_routers_and_servers_that_steer_or_mean_nothing() {
        let mut answer = answer();
        answer.host_name = Some("node\x1b[2J".into());
        answer.domain_name = Some("../../etc".into());
        answer.gateways = Some(vec![ip("127.0.0.1"), ip("192.168.1.20"), ip("224.0.0.5")]);
        answer.dns_srvs = Some(vec![ip("0.0.0.0"), ip("127.0.0.53"), ip("255.255.255.255")]);
        answer.mtu = Some(68);
        let expected = terms().lease;
        let lease = Lease { routes: vec![], dns: vec![], domain: None, hostname: None, ..expected };
        assert_eq!(judged(&answer), Ok(Terms { lease, mtu: None }));
    }

    #[test]
    fn names_lose_their_final_dot_and_nul_and_the_search_list_stands_in_for_the_domain() {
        let mut answer = answer();
        answer.host_name = Some("node7\0".into());
        answer.domain_name = None;
        answer.domain_search = Some(vec!["home.example.".into(), "other.example".into()]);
        assert_eq!(judged(&answer), Ok(terms()));
    }

    #[test]
    fn classless_routes_win_over_the_router_and_on_link_ones_come_first() {
        let mut answer = answer();
        answer.classless_routes = Some(vec![
            classless("0.0.0.0", 0, "192.168.1.254"),
            classless("10.1.2.3", 8, "192.168.1.2"),
            classless("172.16.0.1", 32, "0.0.0.0"),
            classless("192.168.1.0", 24, "0.0.0.0"),
            classless("127.0.0.0", 8, "192.168.1.9"),
            classless("224.0.0.0", 4, "192.168.1.9"),
            classless("10.0.0.0", 8, "192.168.1.3"),
        ]);
        let expected = [
            route("172.16.0.1", 32, None),
            route("0.0.0.0", 0, Some("192.168.1.254")),
            route("10.0.0.0", 8, Some("192.168.1.2")),
        ];
        assert_eq!(judged(&answer).unwrap().lease.routes, expected);
    }

    #[test]
    fn a_flood_of_routes_and_name_servers_is_cut() {
        let mut answer = answer();
        let many = |last: u8| Ipv4Addr::new(192, 168, 1, last);
        answer.classless_routes =
            Some((1..=60).map(|n| classless(&format!("10.{n}.0.0"), 16, "192.168.1.1")).collect());
        answer.dns_srvs = Some((1..=60).map(many).collect());
        let lease = judged(&answer).unwrap().lease;
        assert_eq!((lease.routes.len(), lease.dns.len()), (ROUTES, NAME_SERVERS));
    }

    #[test]
    fn the_operators_name_servers_come_first_and_none_twice() {
        let own: Vec<IpAddr> = vec!["2620:fe::fe".parse().unwrap(), ip("9.9.9.9").into()];
        let terms = judge(&answer(), &link(1, "eth0"), &own).unwrap();
        assert_eq!(terms.lease.dns, [own[0], own[1], ip("192.168.1.1").into()]);
    }

    #[test]
    fn a_static_address_is_taken_as_the_operator_wrote_it() {
        let words = StaticAddress {
            address: ip("192.168.1.20"),
            prefix: 24,
            gateway: Some(ip("192.168.1.1")),
            hostname: Some(Label::new("node7").unwrap()),
            dns: vec![ip("192.168.1.1").into(), ip("9.9.9.9").into()],
        };
        let lease = Lease { time_servers: vec![], domain: None, server: None, seconds: None, ..terms().lease };
        assert_eq!(fixed(&words, &link(1, "eth0"), &[]), Terms { lease, mtu: None });
    }

    #[test]
    fn masks_cover_the_whole_range() {
        assert_eq!([mask(0), mask(1), mask(24), mask(32)], [0, 1 << 31, 0xffff_ff00, u32::MAX]);
        assert!(is_neighbour(ip("8.8.8.8"), ip("10.0.0.1"), 0));
        assert!(!is_neighbour(ip("10.0.0.2"), ip("10.0.0.1"), 32));
    }
}
