//! Beside the booted system, which sets up its links by itself.

use crate::bed::{Bed, PATIENCE, Worker};
use crate::scripted::{Manner, Script};
use crate::{by_dhcp, ip, label, lease, renewed_by_router, script, scripted_lease, up};
use rootbeam_init::messages::{Addressing, Lease, NetCause, NetNews, NetOrder, Selection};
use std::time::{Duration, Instant};

const OWN: &str = "eth0 10.7.1.77/24";

/// Takes up that the links are shared; what it was at by then is over.
fn share(worker: &Worker, seconds: u32) {
    worker.order(&NetOrder::Share);
    for _ in 0..2 {
        assert_eq!(worker.outcome(), NetNews::Renewed(scripted_lease(seconds)));
    }
}

fn sorted(bed: &Bed) -> Vec<String> {
    let mut addresses = bed.addresses();
    addresses.sort();
    addresses
}

pub fn renewal() {
    let bed = Bed::new();
    bed.plug("eth0", 1);
    let server = bed.serve_script("eth0", script());
    let worker = bed.worker();
    worker.order(&by_dhcp());
    assert_eq!(worker.outcome(), NetNews::Up(scripted_lease(40)));
    share(&worker, 40);
    bed.ip("address add 10.7.1.200/24 dev eth0");
    server.change(|script| script.router = ip("10.7.1.9"));
    renewed_by_router(&worker, ip("10.7.1.9"));
    assert_eq!(bed.addresses(), ["lo 127.0.0.1/8", OWN, "eth0 10.7.1.200/24"]);
    assert_eq!(bed.routes()[0], "default via 10.7.1.9 dev eth0 proto dhcp src 10.7.1.77");
    assert_eq!(worker.finish().code(), Some(0));
    assert_eq!(bed.addresses(), ["lo 127.0.0.1/8", OWN, "eth0 10.7.1.200/24"]);
}

pub fn loss() {
    let bed = Bed::new();
    bed.plug("eth0", 1);
    let server = bed.serve_script("eth0", Script { times: [4, 1, 2], ..script() });
    let worker = bed.worker();
    worker.order(&by_dhcp());
    assert_eq!(worker.outcome(), NetNews::Up(scripted_lease(4)));
    share(&worker, 4);
    // Neither takes the link over: one is of use on the link alone, the other an administrator's, in the lease's network.
    bed.ip("address add 169.254.7.7/16 scope link dev eth0");
    bed.ip("address add 10.7.1.200/24 dev eth0");
    server.change(|script| script.manner = Manner::Keeps);
    let deadline = Instant::now() + PATIENCE;
    while bed.addresses().iter().any(|address| address == OWN) {
        assert!(Instant::now() < deadline, "the lost lease's address is there after {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
    let others = ["eth0 10.7.1.200/24", "eth0 169.254.7.7/16", "lo 127.0.0.1/8"];
    while sorted(&bed) != others {
        assert!(Instant::now() < deadline, "not {others:?} after {PATIENCE:?}, but {:?}", bed.addresses());
        std::thread::sleep(Duration::from_millis(50));
    }
    server.change(|script| {
        (script.manner, script.address, script.times) = (Manner::Grants, ip("10.7.1.78"), [3600, 1800, 3000]);
    });
    // Nobody has to order it: the system that runs by now does not know of this worker.
    let again = std::iter::repeat_with(|| worker.outcome()).find(|news| *news != NetNews::Renewed(scripted_lease(4)));
    let found: Lease = lease("eth0", 1, 1, ip("10.7.1.78"));
    assert_eq!(again, Some(NetNews::Renewed(found)));
    assert_eq!(sorted(&bed), [["eth0 10.7.1.200/24", "eth0 10.7.1.78/24"].as_slice(), &others[1..]].concat());
}

/// The last lease was lost at the very moment of the hand-over, and its server is away for longer than a boot waits.
pub fn outage() {
    let bed = Bed::new();
    bed.plug("eth0", 1);
    bed.connect("eth0");
    let worker = bed.worker();
    worker.order(&up(Selection::All, Addressing::Dhcp, 1, 1));
    worker.order(&NetOrder::Share);
    let missed = NetNews::Failed(NetCause::NoLease { links: vec![label("eth0")], seconds: 1 });
    for _ in 0..2 {
        assert_eq!(worker.outcome(), missed);
    }
    let _server = bed.serve_script("eth0", script());
    let then = std::iter::repeat_with(|| worker.outcome()).find(|news| *news != missed);
    assert_eq!(then, Some(NetNews::Up(scripted_lease(40))));
}
