//! Which links there are, and which of them a boot may use.

use crate::label::Label;
use crate::messages::{Carrier, Selection};
use rtnetlink::packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage};

/// An Ethernet link as the kernel shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// The kernel's index, which outlives renaming.
    pub index: u32,
    /// Its name.
    pub name: Label,
    /// Its hardware address.
    pub mac: [u8; 6],
    /// Whether it is set up; without that there is no carrier to see.
    pub up: bool,
    /// Its carrier.
    pub carrier: Carrier,
    /// Its MTU.
    pub mtu: u32,
    /// Whether it leads out of the machine by itself: hardware, or the end of a pair that stands for it.
    pub uplink: bool,
}

impl Link {
    /// Reads what the kernel says of a link; none where it is not Ethernet or has a name that is no label.
    pub fn from_message(message: &LinkMessage) -> Option<Self> {
        let flags = message.header.flags;
        if message.header.link_layer_type != LinkLayerType::Ether || flags.contains(LinkFlags::Noarp) {
            return None;
        }
        let (mut name, mut mac, mut mtu, mut kind, mut enslaved) = (None, None, 0, None, false);
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(text) => name = Label::new(text).ok(),
                LinkAttribute::Address(bytes) => mac = <[u8; 6]>::try_from(bytes.as_slice()).ok(),
                LinkAttribute::Mtu(bytes) => mtu = *bytes,
                LinkAttribute::Controller(index) => enslaved = *index != 0,
                LinkAttribute::LinkInfo(infos) => {
                    kind = infos.iter().find_map(|info| match info {
                        LinkInfo::Kind(kind) => Some(kind),
                        _ => None,
                    });
                }
                _ => {}
            }
        }
        Some(Self {
            index: message.header.index,
            name: name?,
            mac: mac?,
            up: flags.contains(LinkFlags::Up),
            carrier: if flags.contains(LinkFlags::LowerUp) { Carrier::Up } else { Carrier::Down },
            mtu,
            uplink: !enslaved && leads_out(kind),
        })
    }
}

/// Hardware and virtio have no kind. Of the links made by software, only those count that are a container's way out
/// or a switch's port; bonds, bridges, VLANs and tunnels appear by themselves with their modules (bond0, gretap0,
/// erspan0), lead nowhere until configured, and share a hardware address with the link below.
fn leads_out(kind: Option<&InfoKind>) -> bool {
    matches!(kind, None | Some(InfoKind::Veth | InfoKind::MacVlan | InfoKind::Dsa))
}

/// Whether `link` is selected. A name means exactly that link, whatever its kind: the operator knows.
pub fn is_selected(link: &Link, selection: &Selection) -> bool {
    match selection {
        Selection::All => link.uplink,
        Selection::Named(name) => link.name == *name,
        Selection::Mac(mac) => link.uplink && link.mac == *mac,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A link set up and without carrier.
    pub fn link(index: u32, name: &str) -> Link {
        let mac = [2, 0, 0, 0, 0, index as u8];
        let name = Label::new(name).unwrap();
        Link { index, name, mac, up: true, carrier: Carrier::Down, mtu: 1500, uplink: true }
    }

    fn message(kind: Option<InfoKind>, more: &[LinkAttribute]) -> LinkMessage {
        let mut message = LinkMessage::default();
        message.header.index = 7;
        message.header.link_layer_type = LinkLayerType::Ether;
        message.header.flags = LinkFlags::Up | LinkFlags::LowerUp;
        message.attributes.push(LinkAttribute::IfName("eth7".into()));
        message.attributes.push(LinkAttribute::Address(vec![2, 0, 0, 0, 0, 7]));
        message.attributes.push(LinkAttribute::Mtu(1500));
        message.attributes.extend(kind.map(|kind| LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind)])));
        message.attributes.extend_from_slice(more);
        message
    }

    #[test]
    fn hardware_with_a_signal_is_read_whole() {
        let expected = Link { carrier: Carrier::Up, ..link(7, "eth7") };
        assert_eq!(Link::from_message(&message(None, &[])), Some(expected));
    }

    #[test]
    fn a_link_that_is_not_set_up_shows_no_carrier() {
        let mut down = message(None, &[]);
        down.header.flags = LinkFlags::empty();
        let expected = Link { up: false, ..link(7, "eth7") };
        assert_eq!(Link::from_message(&down), Some(expected));
    }

    #[test]
    fn only_ethernet_with_a_speakable_name_counts() {
        let mut loopback = message(None, &[]);
        loopback.header.link_layer_type = LinkLayerType::Loopback;
        let mut ifb = message(Some(InfoKind::Ifb), &[]);
        ifb.header.flags |= LinkFlags::Noarp;
        let infiniband = message(None, &[LinkAttribute::Address(vec![0; 20])]);
        let odd = message(None, &[LinkAttribute::IfName("eth\u{1b}[0".into())]);
        for refused in [loopback, ifb, infiniband, odd] {
            assert_eq!(Link::from_message(&refused), None, "{refused:?}");
        }
    }

    #[test]
    fn links_that_lead_nowhere_by_themselves_are_no_uplinks() {
        let cases = [
            (None, true),
            (Some(InfoKind::Veth), true),
            (Some(InfoKind::MacVlan), true),
            (Some(InfoKind::Dsa), true),
            (Some(InfoKind::Bridge), false),
            (Some(InfoKind::Bond), false),
            (Some(InfoKind::Vlan), false),
            (Some(InfoKind::Dummy), false),
            (Some(InfoKind::GreTap), false),
            (Some(InfoKind::Other("erspan9".into())), false),
        ];
        for (kind, expected) in cases {
            let read = Link::from_message(&message(kind.clone(), &[])).unwrap();
            assert_eq!(read.uplink, expected, "{kind:?}");
        }
        let port = message(None, &[LinkAttribute::Controller(3)]);
        assert!(!Link::from_message(&port).unwrap().uplink, "a bridge's port has no address of its own");
    }

    #[test]
    fn a_hardware_address_selects_the_uplink_and_a_name_whatever_has_it() {
        let vlan = Link { uplink: false, ..link(7, "eth7.5") };
        let named = Selection::Named(Label::new("eth7.5").unwrap());
        let cases = [
            (link(7, "eth7"), Selection::All, true),
            (link(7, "eth7"), Selection::Mac([2, 0, 0, 0, 0, 7]), true),
            (link(8, "eth8"), Selection::Mac([2, 0, 0, 0, 0, 7]), false),
            (link(7, "eth7"), named.clone(), false),
            (vlan.clone(), Selection::All, false),
            (vlan.clone(), Selection::Mac([2, 0, 0, 0, 0, 7]), false),
            (vlan, named, true),
        ];
        for (link, selection, expected) in cases {
            assert_eq!(is_selected(&link, &selection), expected, "{} by {selection:?}", link.name);
        }
    }
}
