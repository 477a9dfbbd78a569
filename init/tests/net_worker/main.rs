//! The net worker of the shipped binary as a process, sandbox included, between real links and a real DHCP server, in network namespaces.

mod bed;
mod beside;
#[path = "../common/needs.rs"]
mod needs;
mod scripted;

use bed::Bed;
use libtest_mimic::Arguments;
use rootbeam_init::label::Label;
use rootbeam_init::messages::{
    Addressing, Carrier, Lease, LeaseFault, NetCause, NetNews, NetOrder, Route, Selection, StaticAddress,
};
use scripted::{Manner, Script};
use std::net::Ipv4Addr;
use std::process::ExitCode;
use std::time::{Duration, Instant};

fn main() -> ExitCode {
    let claims: [(&str, fn()); 29] = [
        ("the_link_with_a_server_wins_and_the_others_stay_without_address", two_links),
        ("a_lease_with_a_route_wins_over_an_earlier_one_without", routeless_link),
        ("a_lease_without_a_route_wins_where_no_better_one_comes", routeless_alone),
        ("a_carrier_that_comes_late_joins", late_carrier),
        ("a_link_that_appears_late_joins", late_link),
        ("without_links_the_cause_is_no_link", no_link),
        ("without_carrier_the_cause_names_the_links", no_carrier),
        ("without_a_server_the_cause_names_the_links_asked_on", no_lease),
        ("a_link_that_is_not_there_is_told_with_those_that_are", no_such_link),
        ("a_link_is_chosen_by_its_hardware_address", by_mac),
        ("a_static_address_waits_for_carrier_and_is_set", static_address),
        ("a_gateway_outside_of_the_network_is_reached", onlink_gateway),
        ("an_unusable_lease_is_refused_by_name", unusable_lease),
        ("hostile_options_are_left_out", hostile_options),
        ("classless_routes_and_the_mtu_are_set", classless_routes),
        ("a_lease_is_renewed_in_time_and_its_changes_are_set", renewal),
        ("an_unusable_renewal_leaves_the_lease_until_its_end", unusable_renewal),
        ("a_server_that_takes_its_offer_back_is_asked_again", refused_request),
        ("a_lost_lease_is_taken_off_and_a_new_one_found", lost_lease),
        ("a_lease_that_leads_nowhere_gives_way_to_another_links_and_leaves_nothing", elsewhere),
        ("while_other_links_are_asked_the_lease_is_kept_and_by_order_it_stays", stay),
        ("a_link_without_others_is_said_to_be_alone_and_keeps_its_lease", alone),
        ("beside_the_booted_system_a_renewal_leaves_other_addresses", beside::renewal),
        ("beside_the_booted_system_a_lost_lease_is_asked_for_again_unordered", beside::loss),
        ("beside_the_booted_system_a_server_that_is_away_is_waited_for_unordered", beside::outage),
        ("a_link_that_comes_back_as_another_gets_a_lease_anew", replugged),
        ("a_crashed_worker_is_replaced_without_traces", crashed_worker),
        ("an_order_ends_the_one_before", order_replaced),
        ("a_closed_channel_ends_the_worker", closed_channel),
    ];
    if bed_is_there().is_none() {
        bed::sweep();
    }
    let trials = claims.map(|(name, check)| needs::test(name, bed_is_there, check));
    let mut arguments = Arguments::from_args();
    // They mostly wait.
    arguments.test_threads = arguments.test_threads.or(Some(4));
    libtest_mimic::run(&arguments, trials.into()).exit_code()
}

/// For network namespaces and a server in them.
fn bed_is_there() -> Option<String> {
    needs::root().or_else(|| needs::programs(&["ip", "dnsmasq"]))
}

fn label(text: &str) -> Label {
    Label::new(text).unwrap()
}

fn ip(text: &str) -> Ipv4Addr {
    text.parse().unwrap()
}

fn up(links: Selection, addressing: Addressing, carrier_seconds: u32, lease_seconds: u32) -> NetOrder {
    NetOrder::Up { links, addressing, nameservers: vec![], carrier_seconds, lease_seconds }
}

fn by_dhcp() -> NetOrder {
    up(Selection::All, Addressing::Dhcp, 15, 15)
}

fn link(name: &str, last: u8, carrier: Carrier) -> NetNews {
    NetNews::Link { name: label(name), mac: [2, 0, 0, 0, 0, last], carrier }
}

/// What the server of `Bed::serve` gives to `link`.
fn lease(link: &str, last: u8, net: u8, address: Ipv4Addr) -> Lease {
    let server = Ipv4Addr::new(10, 7, net, 1);
    Lease {
        link: label(link),
        mac: [2, 0, 0, 0, 0, last],
        address,
        prefix: 24,
        routes: vec![Route { destination: Ipv4Addr::UNSPECIFIED, prefix: 0, gateway: Some(server) }],
        dns: vec![],
        time_servers: vec![],
        domain: None,
        hostname: None,
        server: Some(server),
        seconds: Some(3600),
    }
}

/// The address of an `Up` that is that lease in every other field.
fn address_of(news: NetNews, expected: impl Fn(Ipv4Addr) -> Lease) -> Ipv4Addr {
    let NetNews::Up(got) = news else { panic!("not up: {news:?}") };
    let address = got.address;
    assert_eq!(got, expected(address));
    address
}

fn two_links() {
    let bed = Bed::new();
    bed.plug("eth0", 1);
    bed.plug("eth1", 2);
    bed.plug("eth2", 3);
    bed.connect("eth0");
    // Left by an earlier worker that had won on another link.
    bed.ip("address add 10.9.9.9/24 dev eth0");
    let server = bed.serve("eth1", 1, "--dhcp-option=option:dns-server,10.7.1.2,10.7.1.3 --domain=example.org");
    let worker = bed.worker();
    worker.order(&by_dhcp());
    let mut news = worker.news_to_the_point();
    let address = address_of(news.pop().unwrap(), |address| Lease {
        dns: vec![ip("10.7.1.2").into(), ip("10.7.1.3").into()],
        domain: Some(label("example.org")),
        ..lease("eth1", 2, 1, address)
    });
    assert!((50..=60).contains(&address.octets()[3]), "{address} is not of the server's range");
    let (eth0, eth1) = (NetNews::Asking { link: label("eth0") }, NetNews::Asking { link: label("eth1") });
    for expected in [link("eth2", 3, Carrier::Down), link("eth0", 1, Carrier::Up), link("eth1", 2, Carrier::Up)] {
        assert!(news.contains(&expected), "{expected:?} is not in {news:?}");
    }
    assert!(news.contains(&eth0) && news.contains(&eth1), "{news:?}");
    let addresses = vec!["lo 127.0.0.1/8".to_owned(), format!("eth1 {address}/24")];
    let routes = [
        format!("default via 10.7.1.1 dev eth1 proto dhcp src {address}"),
        format!("10.7.1.0/24 dev eth1 proto kernel scope link src {address}"),
    ];
    assert_eq!((bed.addresses(), bed.routes()), (addresses.clone(), routes.to_vec()));
    let mut links_up = bed.links_up();
    links_up.sort();
    assert_eq!(links_up, ["eth0", "eth1", "eth2", "lo"]);
    assert_eq!(server.client_identifiers(), ["01:02:00:00:00:00:02"]);
    assert_eq!(worker.finish().code(), Some(0));
    assert_eq!((bed.addresses(), bed.routes()), (addresses, routes.to_vec()), "finishing changes nothing");
}

fn routeless_link() {
    let bed = Bed::new();
    bed.plug("eth0", 1);
    bed.plug("eth1", 2);
    // The link to a BMC: its lease is there at once and has no router.
    let _bmc = bed.serve("eth0", 1, "--dhcp-option=3");
    let worker = bed.worker();
    worker.order(&by_dhcp());
    while worker.news() != (NetNews::Asking { link: label("eth0") }) {}
    let _server = bed.serve("eth1", 2, "");
    address_of(worker.outcome(), |address| lease("eth1", 2, 2, address));
    assert_eq!(bed.addresses().iter().filter(|address| address.starts_with("eth0")).count(), 0);
}

fn routeless_alone() {
    let bed = Bed::new();
    bed.plug("eth0", 1);
    bed.plug("eth1", 2);
    let _bmc = bed.serve_script("eth0", Script { router: Ipv4Addr::UNSPECIFIED, ..script() });
    let worker = bed.worker();
    worker.order(&by_dhcp());
    let lease = Lease { routes: vec![], ..scripted_lease(40) };
    assert_eq!(worker.outcome(), NetNews::Up(lease));
}

fn late_carrier() {
    let bed = Bed::new();
    bed.plug("eth0", 1);
    let worker = bed.worker();
    worker.order(&by_dhcp());
    assert_eq!(worker.news(), link("eth0", 1, Carrier::Down));
    let _server = bed.serve("eth0", 1, "");
    let news = worker.news_to_the_point();
    assert_eq!(news[..2], [link("eth0", 1, Carrier::Up), NetNews::Asking { link: label("eth0") }]);
    address_of(news[2].clone(), |address| lease("eth0", 1, 1, address));
    bed.disconnect("eth0");
    assert_eq!(worker.news(), link("eth0", 1, Carrier::Down), "after the lease, too, the carrier is told");
}

fn late_link() {
    let bed = Bed::new();
    let worker = bed.worker();
    worker.order(&by_dhcp());
    worker.order(&NetOrder::LinksChanged);
    bed.plug("eth0", 1);
    let _server = bed.serve("eth0", 1, "");
    address_of(worker.outcome(), |address| lease("eth0", 1, 1, address));
}

fn no_link() {
    let bed = Bed::new();
    bed.ip("link add bridge0 type bridge");
    let worker = bed.worker();
    worker.order(&up(Selection::All, Addressing::Dhcp, 1, 15));
    assert_eq!(worker.news(), NetNews::Failed(NetCause::NoLink));
    assert_eq!(bed.links_up(), ["lo"], "a link that leads nowhere is left alone");
}

fn no_carrier() {
    let bed = Bed::new();
    bed.plug("eth0", 1);
    bed.plug("eth1", 2);
    let worker = bed.worker();
    worker.order(&up(Selection::All, Addressing::Dhcp, 1, 15));
    let links = vec![label("eth0"), label("eth1")];
    assert_eq!(worker.outcome(), NetNews::Failed(NetCause::NoCarrier { links }));
}

fn no_lease() {
    let bed = Bed::new();
    bed.plug("eth0", 1);
    bed.plug("eth1", 2);
    bed.connect("eth0");
    let worker = bed.worker();
    let ordered = Instant::now();
    worker.order(&up(Selection::All, Addressing::Dhcp, 15, 1));
    let cause = NetCause::NoLease { links: vec![label("eth0")], seconds: 1 };
    assert_eq!(worker.outcome(), NetNews::Failed(cause));
    // Whatever the client's own waits are: a server has all of that time.
    assert!(ordered.elapsed() >= Duration::from_secs(1), "given up after {:?}", ordered.elapsed());
    assert_eq!(bed.addresses(), ["lo 127.0.0.1/8"]);
    // The same order again, now that there is a server.
    let _server = bed.serve("eth0", 1, "");
    worker.order(&by_dhcp());
    address_of(worker.outcome(), |address| lease("eth0", 1, 1, address));
}

fn no_such_link() {
    let bed = Bed::new();
    bed.plug("eth0", 1);
    let worker = bed.worker();
    worker.order(&up(Selection::Named(label("eth7")), Addressing::Dhcp, 1, 15));
    let cause = NetCause::NoSuchLink { present: vec![label("eth0")] };
    assert_eq!(worker.outcome(), NetNews::Failed(cause));
    assert_eq!(bed.links_up(), ["lo"]);
}

fn by_mac() {
    let bed = Bed::new();
    bed.plug("eth0", 1);
    bed.plug("eth1", 2);
    let _zero = bed.serve("eth0", 1, "");
    let _one = bed.serve("eth1", 2, "");
    let worker = bed.worker();
    worker.order(&up(Selection::Mac([2, 0, 0, 0, 0, 2]), Addressing::Dhcp, 15, 15));
    let address = address_of(worker.outcome(), |address| lease("eth1", 2, 2, address));
    assert_eq!(bed.addresses(), ["lo 127.0.0.1/8".to_owned(), format!("eth1 {address}/24")]);
}

fn words(address: &str, prefix: u8, gateway: &str) -> StaticAddress {
    StaticAddress {
        address: ip(address),
        prefix,
        gateway: Some(ip(gateway)),
        hostname: Some(label("node7")),
        dns: vec![ip("10.9.0.2").into()],
    }
}

fn static_address() {
    let bed = Bed::new();
    bed.plug("eth0", 1);
    bed.plug("eth1", 2);
    // Left by somebody else, such as the kernel's own ip=.
    bed.ip("address add 10.9.9.9/24 dev eth1");
    let worker = bed.worker();
    worker.order(&NetOrder::Up {
        links: Selection::All,
        addressing: Addressing::Static(words("10.9.0.5", 16, "10.9.0.1")),
        nameservers: vec![ip("10.9.0.3").into()],
        carrier_seconds: 15,
        lease_seconds: 15,
    });
    assert_eq!(worker.news(), link("eth0", 1, Carrier::Down));
    assert_eq!(worker.news(), link("eth1", 2, Carrier::Down));
    bed.connect("eth1");
    let expected = Lease {
        link: label("eth1"),
        mac: [2, 0, 0, 0, 0, 2],
        address: ip("10.9.0.5"),
        prefix: 16,
        routes: vec![Route { destination: Ipv4Addr::UNSPECIFIED, prefix: 0, gateway: Some(ip("10.9.0.1")) }],
        dns: vec![ip("10.9.0.3").into(), ip("10.9.0.2").into()],
        time_servers: vec![],
        domain: None,
        hostname: Some(label("node7")),
        server: None,
        seconds: None,
    };
    assert_eq!(worker.outcome(), NetNews::Up(expected));
    assert_eq!(bed.addresses(), ["lo 127.0.0.1/8", "eth1 10.9.0.5/16"]);
    let routes = [
        "default via 10.9.0.1 dev eth1 proto dhcp src 10.9.0.5",
        "10.9.0.0/16 dev eth1 proto kernel scope link src 10.9.0.5",
    ];
    assert_eq!(bed.routes(), routes);
    assert_eq!(worker.finish().code(), Some(0));
}

fn onlink_gateway() {
    let bed = Bed::new();
    bed.plug("eth0", 1);
    bed.connect("eth0");
    let worker = bed.worker();
    let words = words("10.9.0.5", 32, "172.31.1.1");
    worker.order(&up(Selection::Named(label("eth0")), Addressing::Static(words), 15, 15));
    assert!(matches!(worker.outcome(), NetNews::Up(_)));
    assert_eq!(bed.routes(), ["default via 172.31.1.1 dev eth0 proto dhcp src 10.9.0.5 onlink"]);
}

fn unusable_lease() {
    let bed = Bed::new();
    bed.plug("eth0", 1);
    let _server = bed.serve("eth0", 1, "--dhcp-option-force=1,255.0.255.0");
    let worker = bed.worker();
    worker.order(&up(Selection::All, Addressing::Dhcp, 15, 3));
    let fault = LeaseFault::Mask(ip("255.0.255.0"));
    let cause = NetCause::UnusableLease { link: label("eth0"), server: Some(ip("10.7.1.1")), fault };
    assert_eq!(worker.outcome(), NetNews::Failed(cause));
    assert_eq!(bed.addresses(), ["lo 127.0.0.1/8"]);
}

fn hostile_options() {
    let bed = Bed::new();
    bed.plug("eth0", 1);
    let options = "--dhcp-option-force=12,../../node --dhcp-option-force=15,a/b \
                   --dhcp-option-force=3,127.0.0.1,224.0.0.1 --dhcp-option-force=6,127.0.0.1,224.0.0.1 \
                   --dhcp-option-force=26,1";
    let _server = bed.serve("eth0", 1, options);
    let worker = bed.worker();
    worker.order(&by_dhcp());
    let address = address_of(worker.outcome(), |address| Lease { routes: vec![], ..lease("eth0", 1, 1, address) });
    assert_eq!(bed.routes(), [format!("10.7.1.0/24 dev eth0 proto kernel scope link src {address}")]);
    assert_eq!(bed.mtu("eth0"), 1500);
}

fn classless_routes() {
    let bed = Bed::new();
    bed.plug("eth0", 1);
    let options = "--dhcp-option=121,0.0.0.0/0,10.7.1.3,172.16.0.0/12,10.7.1.4,10.8.0.9/32,0.0.0.0 \
                   --dhcp-option-force=26,1400";
    let _server = bed.serve("eth0", 1, options);
    let worker = bed.worker();
    worker.order(&by_dhcp());
    let route = |to: &str, prefix, via: Option<&str>| Route { destination: ip(to), prefix, gateway: via.map(ip) };
    let address = address_of(worker.outcome(), |address| Lease {
        routes: vec![
            route("10.8.0.9", 32, None),
            route("0.0.0.0", 0, Some("10.7.1.3")),
            route("172.16.0.0", 12, Some("10.7.1.4")),
        ],
        ..lease("eth0", 1, 1, address)
    });
    let routes = [
        format!("default via 10.7.1.3 dev eth0 proto dhcp src {address}"),
        format!("10.7.1.0/24 dev eth0 proto kernel scope link src {address}"),
        format!("10.8.0.9 dev eth0 proto dhcp scope link src {address}"),
        format!("172.16.0.0/12 via 10.7.1.4 dev eth0 proto dhcp src {address}"),
    ];
    assert_eq!((bed.routes(), bed.mtu("eth0")), (routes.to_vec(), 1400));
}

/// A server that grants 10.7.1.77 for 40 s and wants to be asked again after one.
fn script() -> Script {
    Script {
        manner: Manner::Grants,
        address: ip("10.7.1.77"),
        mask: ip("255.255.255.0"),
        router: ip("10.7.1.1"),
        times: [40, 1, 20],
    }
}

fn scripted_lease(seconds: u32) -> Lease {
    Lease { seconds: Some(seconds), ..lease("eth0", 1, 1, ip("10.7.1.77")) }
}

/// Waits for a renewal by that router; one before may have been on its way.
fn renewed_by_router(worker: &bed::Worker, router: Ipv4Addr) {
    let changed = std::iter::repeat_with(|| worker.outcome()).take(3).find(|news| {
        let NetNews::Renewed(lease) = news else { panic!("not renewed: {news:?}") };
        lease.routes[0].gateway == Some(router)
    });
    assert!(changed.is_some(), "three renewals without the new router");
}

fn renewal() {
    let bed = Bed::new();
    bed.plug("eth0", 1);
    let server = bed.serve_script("eth0", script());
    let worker = bed.worker();
    worker.order(&by_dhcp());
    assert_eq!(worker.outcome(), NetNews::Up(scripted_lease(40)));
    let before = (bed.addresses(), bed.routes());
    assert_eq!(worker.outcome(), NetNews::Renewed(scripted_lease(40)));
    assert_eq!((bed.addresses(), bed.routes()), before);
    server.change(|script| script.router = ip("10.7.1.9"));
    renewed_by_router(&worker, ip("10.7.1.9"));
    let routes = [
        "default via 10.7.1.9 dev eth0 proto dhcp src 10.7.1.77",
        "10.7.1.0/24 dev eth0 proto kernel scope link src 10.7.1.77",
    ];
    assert_eq!((bed.addresses(), bed.routes()), (before.0, routes.map(str::to_owned).to_vec()));
}

fn elsewhere_than(number: u32, held: &str, but: &[&str]) -> NetOrder {
    NetOrder::Elsewhere { number, held: label(held), but: but.iter().map(|name| label(name)).collect() }
}

fn elsewhere() {
    let bed = Bed::new();
    ["eth0", "eth1", "eth2"].into_iter().zip(1..).for_each(|(name, last)| bed.plug(name, last));
    let _zero = bed.serve("eth0", 1, "");
    let worker = bed.worker();
    worker.order(&by_dhcp());
    address_of(worker.outcome(), |address| lease("eth0", 1, 1, address));
    bed.connect("eth1");
    worker.order(&elsewhere_than(1, "eth0", &[]));
    while worker.news() != (NetNews::Asking { link: label("eth1") }) {}
    let _one = bed.serve("eth1", 2, "");
    let address = address_of(worker.outcome(), |address| lease("eth1", 2, 2, address));
    let addresses = vec!["lo 127.0.0.1/8".to_owned(), format!("eth1 {address}/24")];
    let routes = [
        format!("default via 10.7.2.1 dev eth1 proto dhcp src {address}"),
        format!("10.7.2.0/24 dev eth1 proto kernel scope link src {address}"),
    ];
    assert_eq!((bed.addresses(), bed.routes()), (addresses, routes.to_vec()));
    // A link that gets its carrier while others are asked joins; one that had its turn is not asked.
    worker.order(&elsewhere_than(1, "eth1", &["eth0"]));
    let _two = bed.serve("eth2", 3, "");
    address_of(worker.outcome(), |address| lease("eth2", 3, 3, address));
    assert_eq!(worker.finish().code(), Some(0));
}

fn stay() {
    let (bed, beyond) = (Bed::new(), Bed::new());
    bed.plug("eth0", 1);
    bed.plug("eth1", 2);
    let _zero = bed.serve_script("eth0", Script { times: [4, 1, 2], ..script() });
    let worker = bed.worker();
    worker.order(&by_dhcp());
    assert_eq!(worker.outcome(), NetNews::Up(scripted_lease(4)));
    bed.move_far_end("eth1", &beyond);
    beyond.connect("eth1");
    worker.order(&elsewhere_than(1, "eth0", &[]));
    let renewed = |times| (0..times).for_each(|_| assert_eq!(worker.outcome(), NetNews::Renewed(scripted_lease(4))));
    renewed(2);
    worker.order(&NetOrder::Stay);
    let _one = beyond.serve("eth1", 2, "");
    // Longer than a client waits before it asks again.
    renewed(7);
    assert_eq!(bed.addresses(), ["lo 127.0.0.1/8", "eth0 10.7.1.77/24"]);
}

fn alone() {
    let bed = Bed::new();
    bed.plug("eth0", 1);
    let _server = bed.serve("eth0", 1, "");
    let worker = bed.worker();
    worker.order(&by_dhcp());
    let address = address_of(worker.outcome(), |address| lease("eth0", 1, 1, address));
    // One that crossed the news of another link's lease is too late: nobody else is to lose its turn by it.
    worker.order(&elsewhere_than(1, "eth1", &[]));
    worker.order(&elsewhere_than(2, "eth0", &[]));
    assert_eq!(worker.outcome(), NetNews::Alone { number: 2 });
    assert_eq!(bed.addresses(), ["lo 127.0.0.1/8".to_owned(), format!("eth0 {address}/24")]);
}

fn unusable_renewal() {
    let bed = Bed::new();
    bed.plug("eth0", 1);
    let server = bed.serve_script("eth0", Script { times: [4, 1, 2], ..script() });
    let worker = bed.worker();
    worker.order(&by_dhcp());
    assert_eq!(worker.outcome(), NetNews::Up(scripted_lease(4)));
    let addresses = bed.addresses();
    server.change(|script| script.mask = ip("255.0.255.0"));
    let granted = Instant::now();
    let outcome = std::iter::repeat_with(|| worker.outcome()).find(|news| !matches!(news, NetNews::Renewed(_)));
    assert_eq!(outcome, Some(NetNews::Failed(NetCause::LeaseLost { link: label("eth0") })));
    assert!(granted.elapsed() > Duration::from_millis(2500), "gone after {:?} of 4 s", granted.elapsed());
    assert_eq!(addresses, ["lo 127.0.0.1/8", "eth0 10.7.1.77/24"]);
    assert_eq!((bed.addresses(), bed.routes()), (vec!["lo 127.0.0.1/8".to_owned()], vec![]));
}

fn refused_request() {
    let bed = Bed::new();
    bed.plug("eth0", 1);
    let server = bed.serve_script("eth0", Script { manner: Manner::Refuses, ..script() });
    let worker = bed.worker();
    worker.order(&by_dhcp());
    server.wait_for_refusal();
    // Whoever only repeats the refused request is refused for ever.
    server.change(|script| (script.manner, script.address) = (Manner::Grants, ip("10.7.1.78")));
    let expected = Lease { address: ip("10.7.1.78"), ..scripted_lease(40) };
    assert_eq!(worker.outcome(), NetNews::Up(expected));
}

fn lost_lease() {
    let bed = Bed::new();
    bed.plug("eth0", 1);
    let server = bed.serve_script("eth0", Script { times: [4, 1, 2], ..script() });
    let worker = bed.worker();
    worker.order(&by_dhcp());
    assert_eq!(worker.outcome(), NetNews::Up(scripted_lease(4)));
    server.change(|script| script.manner = Manner::Keeps);
    let outcome = std::iter::repeat_with(|| worker.outcome()).find(|news| !matches!(news, NetNews::Renewed(_)));
    assert_eq!(outcome, Some(NetNews::Failed(NetCause::LeaseLost { link: label("eth0") })));
    assert_eq!((bed.addresses(), bed.routes()), (vec!["lo 127.0.0.1/8".to_owned()], vec![]));
    server.change(|script| {
        (script.manner, script.address, script.times) = (Manner::Grants, ip("10.7.1.78"), [3600, 1800, 3000]);
    });
    worker.order(&by_dhcp());
    address_of(worker.outcome(), |_| lease("eth0", 1, 1, ip("10.7.1.78")));
    assert_eq!(bed.addresses(), ["lo 127.0.0.1/8", "eth0 10.7.1.78/24"]);
}

fn replugged() {
    let bed = Bed::new();
    bed.plug("eth0", 1);
    let server = bed.serve_script("eth0", script());
    let worker = bed.worker();
    worker.order(&by_dhcp());
    assert_eq!(worker.outcome(), NetNews::Up(scripted_lease(40)));
    drop(server);
    bed.ip("link del eth0");
    assert_eq!(worker.outcome(), NetNews::Failed(NetCause::LinkGone { link: label("eth0") }));
    bed.plug("eth0", 1);
    let _server = bed.serve_script("eth0", script());
    worker.order(&by_dhcp());
    assert_eq!(worker.outcome(), NetNews::Up(scripted_lease(40)));
    assert_eq!(bed.addresses(), ["lo 127.0.0.1/8", "eth0 10.7.1.77/24"]);
}

fn crashed_worker() {
    let bed = Bed::new();
    bed.plug("eth0", 1);
    let _server = bed.serve("eth0", 1, "");
    let first = bed.worker();
    first.order(&by_dhcp());
    let address = address_of(first.outcome(), |address| lease("eth0", 1, 1, address));
    let before = (bed.addresses(), bed.routes());
    first.crash();
    assert_eq!((bed.addresses(), bed.routes()), before, "the download goes on over the address");
    let second = bed.worker();
    second.order(&by_dhcp());
    assert_eq!(address_of(second.outcome(), |address| lease("eth0", 1, 1, address)), address);
    assert_eq!((bed.addresses(), bed.routes()), before);
}

fn order_replaced() {
    let bed = Bed::new();
    bed.plug("eth0", 1);
    bed.connect("eth0");
    let worker = bed.worker();
    worker.order(&by_dhcp());
    assert_eq!(worker.news(), link("eth0", 1, Carrier::Down));
    worker.order(&up(Selection::All, Addressing::Static(words("10.9.0.5", 16, "10.9.0.1")), 15, 15));
    let NetNews::Up(lease) = worker.outcome() else { panic!("not up") };
    assert_eq!((lease.address, lease.server), (ip("10.9.0.5"), None));
    let asked = Instant::now();
    assert_eq!(worker.finish().code(), Some(0));
    assert!(asked.elapsed() < Duration::from_secs(5), "finishing took {:?}", asked.elapsed());
}

fn closed_channel() {
    let bed = Bed::new();
    bed.plug("eth0", 1);
    let worker = bed.worker();
    worker.order(&by_dhcp());
    assert_eq!(worker.news(), link("eth0", 1, Carrier::Down));
    assert_eq!(worker.hang_up().code(), Some(1));
}
