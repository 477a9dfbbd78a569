//! PID 1 and the net worker.

use crate::label::Label;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr};

/// Which links take part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Selection {
    /// Every Ethernet link that has carrier.
    All,
    /// The link of this name.
    Named(Label),
    /// The link with this hardware address.
    Mac([u8; 6]),
}

/// An address given by the operator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StaticAddress {
    /// The machine's address.
    pub address: Ipv4Addr,
    /// Length of the network prefix, 0 to 32.
    pub prefix: u8,
    /// Default gateway.
    pub gateway: Option<Ipv4Addr>,
    /// Host name.
    pub hostname: Option<Label>,
    /// Name servers.
    pub dns: Vec<IpAddr>,
}

/// How a link gets its address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Addressing {
    /// DHCPv4 on all selected links in parallel; the first complete lease wins.
    Dhcp,
    /// The operator's words.
    Static(StaticAddress),
}

/// PID 1 to net.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NetOrder {
    /// Bring the network up. Answered by `Link`s and then one `Up` or `Failed`; may be sent again after `Failed`.
    Up {
        /// Which links.
        links: Selection,
        /// How.
        addressing: Addressing,
        /// Name servers from the command line; they come before the lease's.
        nameservers: Vec<IpAddr>,
        /// How long to wait for a carrier on any link, in seconds.
        carrier_seconds: u32,
        /// How long to wait for a lease, in seconds.
        lease_seconds: u32,
    },
    /// A module was loaded or a device appeared: look for links again, where that was being waited for.
    LinksChanged,
    /// The present lease leads nowhere: it is kept, and other links with carrier are asked for one, now and as they appear.
    /// The first that gets one takes the place of the present link, which loses its addresses; answered by its `Up`, or
    /// by `Alone`. Not answered where that lease is held no more: other news of it are under way then.
    Elsewhere {
        /// Tells the answers to several searches apart.
        number: u32,
        /// The link whose lease is kept.
        held: Label,
        /// The links that are not asked besides: they had their turn.
        but: Vec<Label>,
    },
    /// The present lease leads where it should: ask nowhere else any more.
    Stay,
    /// The booted system runs while the lease is still needed: keep that, and nothing else, for the links are its own now.
    Share,
    /// The boot is over: stop renewing, leave links and addresses as they are, exit with 0.
    Finish,
}

/// Whether a link sees a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Carrier {
    /// There is a partner.
    Up,
    /// No cable, or a dead port.
    Down,
}

/// A route of the lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Destination network.
    pub destination: Ipv4Addr,
    /// Its prefix length.
    pub prefix: u8,
    /// Gateway; none is on-link.
    pub gateway: Option<Ipv4Addr>,
}

/// A configured link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Interface name.
    pub link: Label,
    /// Hardware address.
    pub mac: [u8; 6],
    /// The machine's address.
    pub address: Ipv4Addr,
    /// Length of the network prefix.
    pub prefix: u8,
    /// All routes that were set, the default route included.
    pub routes: Vec<Route>,
    /// Name servers in order.
    pub dns: Vec<IpAddr>,
    /// Time servers in order (option 42).
    pub time_servers: Vec<Ipv4Addr>,
    /// Search domain.
    pub domain: Option<Label>,
    /// Host name from the server or the operator.
    pub hostname: Option<Label>,
    /// The DHCP server; none for a static address.
    pub server: Option<Ipv4Addr>,
    /// Lease time in seconds; none is for ever.
    pub seconds: Option<u32>,
}

/// Why there is no network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NetCause {
    /// The kernel shows no Ethernet link at all.
    NoLink,
    /// None is the one that was asked for; the links that there are.
    NoSuchLink {
        /// Links that exist.
        present: Vec<Label>,
    },
    /// Links, but none with carrier.
    NoCarrier {
        /// The links that were waited for.
        links: Vec<Label>,
    },
    /// Carrier, but no server answered with a complete lease.
    NoLease {
        /// The links that were asked on.
        links: Vec<Label>,
        /// How long was waited.
        seconds: u32,
    },
    /// The kernel refused a netlink request.
    Kernel {
        /// The link.
        link: Label,
        /// The error number.
        errno: i32,
    },
    /// The lease ran out and no server renewed it.
    LeaseLost {
        /// The link.
        link: Label,
    },
    /// The kernel does not show the link any more: a card that was pulled, or a driver that begins anew.
    LinkGone {
        /// The link.
        link: Label,
    },
    /// Servers answered, but with nothing that a link can be configured from; the last such answer.
    UnusableLease {
        /// The link.
        link: Label,
        /// The server, where it named itself.
        server: Option<Ipv4Addr>,
        /// What is wrong with it.
        fault: LeaseFault,
    },
}

/// What makes a lease unusable. `Display` continues the sentence "the lease ...".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum LeaseFault {
    /// An address that no host can have: 0.0.0.0/8, loopback, multicast, reserved.
    #[error("gives the address {0}, which no host can have")]
    Address(Ipv4Addr),
    /// No subnet mask, or one with holes or without bits.
    #[error("gives the subnet mask {0}, which is none")]
    Mask(Ipv4Addr),
    /// The first or last address of its network, which mean the network and everybody in it.
    #[error("gives {address}/{prefix}, which is a network or its broadcast address")]
    NotAHost {
        /// The address.
        address: Ipv4Addr,
        /// The length of its network prefix.
        prefix: u8,
    },
}

/// Net to PID 1.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NetNews {
    /// A link was seen, or its carrier changed.
    Link {
        /// Interface name.
        name: Label,
        /// Hardware address.
        mac: [u8; 6],
        /// Its carrier.
        carrier: Carrier,
    },
    /// DHCP was begun on a link.
    Asking {
        /// Interface name.
        link: Label,
    },
    /// The network is up.
    Up(Lease),
    /// The lease was renewed or changed.
    Renewed(Lease),
    /// Answer to `Elsewhere`: there is no other link.
    Alone {
        /// That of the search.
        number: u32,
    },
    /// There is no network now.
    Failed(NetCause),
}
