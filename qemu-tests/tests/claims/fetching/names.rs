//! Name servers that fail at first, and names with several addresses.

use super::{PATH, Published, SIZE, Vouched, arrives, machine};
use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use rootbeam_qemu_tests::claim::claim;
use rootbeam_qemu_tests::netns::{self, Dhcp, Network};
use rootbeam_qemu_tests::servers::dns::{DnsServer, Refusal};
use std::net::{Ipv4Addr, UdpSocket};

pub fn claims() -> Vec<Trial> {
    let claim = |name, check: fn() -> Result<()>| claim(name, &[netns::available], check);
    vec![
        claim("fetching: a name server that answers SERVFAIL first is asked again", || {
            named(&[SERVER], 8, Refusal::ServFail)
        }),
        claim("fetching: a name server that is silent first is asked again", || named(&[SERVER], 2, Refusal::Silence)),
        claim("fetching: of the addresses of a name one that refuses is passed over", || {
            named(&[Ipv4Addr::new(10, 77, 0, 67), SERVER], 0, Refusal::Silence)
        }),
        claim("fetching: of the addresses of a name one that never answers is passed over", || {
            named(&[Ipv4Addr::new(10, 77, 0, 66), SERVER], 0, Refusal::Silence)
        }),
    ]
}

const SERVER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);

/// The image is on a server that a name leads to, once the name server tells.
fn named(addresses: &[Ipv4Addr], count: usize, refusal: Refusal) -> Result<()> {
    let image = Published::new(SIZE, 1)?;
    // dnsmasq gives addresses only.
    let arguments = vec!["--port=0".to_owned(), format!("--dhcp-option=6,{SERVER}")];
    let network = Network::silent()?.dhcp(Dhcp { arguments, names: Vec::new(), ..Dhcp::default() })?;
    network.black_hole()?;
    network.namespace().ip("addr add 10.77.0.67/24 dev lan")?;
    let socket = network.namespace().enter(|| UdpSocket::bind((SERVER, 53)))?.context("no name server")?;
    let names = DnsServer::serve(socket, addresses, count, refusal)?;
    let http = network.http(image.site(Vouched::Manifest)?)?;
    let words = format!("rootbeam.image=http://boot.test{PATH} rootbeam.stall=2");
    arrives(machine(&network, &words)?.start()?, &image)?;
    ensure!(names.queries() > count, "{} queries came", names.queries());
    super::thrifty(http.sent(PATH), image.size())
}
