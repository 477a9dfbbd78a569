//! The step that brings the network up: PID 1's side of it.

use crate::causes;
use crate::contract;
use crate::crew::{Crew, News};
use crate::failure::Failure;
use crate::label::Label;
use crate::messages::{Addressing, Carrier, Lease, NetNews, NetOrder, Selection, StoreNews};
use crate::modules::Modules;
use crate::settings::Settings;
use crate::settings::values::mac_text;
use crate::streaming::streams::Streams;
use crate::turns::Turn;
use std::fmt::Write;
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

/// What the operator's words mean for the net worker. `ip=` names a link before BOOTIF= does; DHCP is the default.
pub fn order(settings: &Settings) -> NetOrder {
    let named = settings.ip.as_ref().and_then(|ip| ip.link.clone()).map(Selection::Named);
    let by_mac = settings.bootif.map(Selection::Mac);
    NetOrder::Up {
        links: named.or(by_mac).unwrap_or(Selection::All),
        addressing: settings.ip.as_ref().map_or(Addressing::Dhcp, |ip| ip.addressing.clone()),
        nameservers: settings.nameservers.clone(),
        carrier_seconds: settings.carrier,
        lease_seconds: settings.lease,
    }
}

/// Whether `order` leaves it open which link it is.
pub fn is_open(order: &NetOrder) -> bool {
    matches!(order, NetOrder::Up { links: Selection::All, addressing: Addressing::Dhcp, .. })
}

/// Waits for the net worker's answer to [`order`], loading drivers for devices that appear meanwhile.
pub fn await_lease(crew: &mut Crew, modules: &mut Modules, settings: &Settings) -> Result<Lease, Failure> {
    // The worker bounds its own waits, for a link, its carrier and a lease; this bound is for a worker that does not.
    let seconds = 2 * u64::from(settings.carrier) + u64::from(settings.lease) + 30;
    let patience = Instant::now() + Duration::from_secs(seconds);
    loop {
        match crew.next(patience)? {
            Some(News::Net(NetNews::Up(lease) | NetNews::Renewed(lease))) => return Ok(named(lease, settings)),
            Some(News::Net(NetNews::Failed(cause))) => return Err(causes::network(&cause)),
            Some(News::Net(NetNews::Link { name, mac, carrier })) => {
                let state = if carrier == Carrier::Up { "has carrier" } else { "has no carrier" };
                log::info!("link {name} ({}) {state}", mac_text(mac));
            }
            Some(News::Net(NetNews::Asking { link })) => log::info!("asking for an address on {link}"),
            // To an order of an attempt before.
            Some(News::Net(NetNews::Alone { .. })) => {}
            Some(news @ (News::Device(_) | News::DevicesLost)) => {
                if plug(modules, &news) {
                    crew.order_network(NetOrder::LinksChanged)?;
                }
            }
            Some(News::Store(..)) => {}
            None => {
                return Err(Failure::new(
                    crate::failure::Step::Network,
                    crate::contract::role::NET,
                    format!("the worker gave no answer within {seconds} s"),
                    "report this as a bug, with the log",
                )
                .passing());
            }
        }
    }
}

/// The lease under the host name that `ip=` gives, if it does: what the operator says wins over the DHCP server.
fn named(lease: Lease, settings: &Settings) -> Lease {
    let asked = settings.ip.as_ref().and_then(|ip| ip.hostname.clone());
    Lease { hostname: asked.or(lease.hostname), ..lease }
}

/// What news of the network and of devices mean once there is a lease: another one is written down, a lost one asked for
/// again, a new device gets its driver. Returns the turn of a link that ended so, to be told.
pub fn attend(
    crew: &mut Crew,
    modules: &mut Modules,
    settings: &Settings,
    news: &News,
) -> Result<Option<Turn>, Failure> {
    match news {
        // A lease is up anew after one was lost, or after its keeper died.
        News::Net(NetNews::Up(lease) | NetNews::Renewed(lease)) => {
            log::debug!("lease: {}", describe(lease));
            write_resolver(lease);
            crew.lease = Some(named(lease.clone(), settings));
            if let News::Net(NetNews::Up(_)) = news {
                return crew.lease_came(&lease.link, Instant::now());
            }
        }
        News::Net(NetNews::Asking { link }) => log::info!("asking for an address on {link}"),
        News::Net(NetNews::Alone { number }) => crew.turns.alone(*number),
        News::Net(NetNews::Failed(cause)) => {
            // The download may end well all the same; the worker asks for a new lease.
            log::warn!("{}", causes::network(cause));
            crew.order_network(order(settings))?;
        }
        News::Device(_) | News::DevicesLost => {
            plug(modules, news);
        }
        News::Net(_) | News::Store(..) => {}
    }
    Ok(None)
}

/// Waits until another link has its turn, since the boot failed by the present one; the failure where that is not so before
/// `deadline`, or none can.
pub fn turn_away(
    crew: &mut Crew,
    modules: &mut Modules,
    settings: &Settings,
    streams: &mut Streams,
    failure: Failure,
    deadline: Option<Instant>,
) -> Result<(), Failure> {
    loop {
        let now = Instant::now();
        crew.turn_links(true, now)?;
        if !crew.turns.is_hopeful(now) || deadline.is_some_and(|deadline| now >= deadline) {
            return Err(failure);
        }
        for (number, order) in streams.orders(now) {
            crew.order_store(number, order)?;
        }
        let tick = now + Duration::from_secs(1);
        match crew.next(deadline.map_or(tick, |deadline| deadline.min(tick)))? {
            Some(News::Store(_, StoreNews::Answered)) => crew.keep_link()?,
            Some(News::Store(number, news)) if streams.has(number) => streams.hear(number, news, Instant::now()),
            // The store whose image failed has nothing to add.
            Some(News::Store(..)) | None => {}
            Some(news) => {
                if let Some(turn) = attend(crew, modules, settings, &news)? {
                    log::warn!("{}: {}", failure.object, failure.cause);
                    log::warn!("{turn}");
                    return Ok(());
                }
            }
        }
    }
}

/// Loads what a device that appeared needs; whether anything was loaded.
pub fn plug(modules: &mut Modules, news: &News) -> bool {
    match news {
        News::Device(uevent) => match modules.on_uevent(uevent) {
            Ok(loaded) => !loaded.is_empty(),
            Err(failure) => {
                log::warn!("{failure}");
                false
            }
        },
        News::DevicesLost => {
            let summary = modules.coldplug();
            summary.failures.iter().for_each(|failure| log::warn!("{failure}"));
            !summary.loaded.is_empty()
        }
        News::Net(_) | News::Store(..) => false,
    }
}

/// resolv.conf(5) for a lease.
pub fn resolv_conf(domain: Option<&Label>, servers: &[IpAddr]) -> String {
    let mut text = String::from("# written by rootbeam\n");
    if let Some(domain) = domain {
        let _ = writeln!(text, "search {domain}");
    }
    for server in servers.iter().take(3) {
        let _ = writeln!(text, "nameserver {server}");
    }
    text
}

/// Writes what the fetch worker reads of the lease, before it is started: for its resolver, and whom to ask the time.
pub fn write_resolver(lease: &Lease) {
    for (path, text) in [
        (contract::RESOLVER, resolv_conf(lease.domain.as_ref(), &lease.dns)),
        // glibc knows `localhost` from here only.
        ("etc/hosts", "127.0.0.1 localhost\n::1 localhost\n".to_owned()),
        (contract::TIME_SERVERS, lease.time_servers.iter().map(|server| format!("{server}\n")).collect()),
    ] {
        if let Err(e) = std::fs::write(Path::new("/").join(path), text) {
            log::warn!("names may not be found: /{path}: {e}");
        }
    }
}

/// The lease in a line.
pub fn describe(lease: &Lease) -> String {
    let Lease { link, address, prefix, routes, dns, server, seconds, .. } = lease;
    let mut text = format!("{link} has {address}/{prefix}");
    if let Some(gateway) = routes.iter().find(|r| r.prefix == 0).and_then(|r| r.gateway) {
        let _ = write!(text, ", gateway {gateway}");
    }
    if !dns.is_empty() {
        let servers: Vec<_> = dns.iter().map(ToString::to_string).collect();
        let _ = write!(text, ", name servers {}", servers.join(" "));
    }
    if let Some(server) = server {
        let _ = write!(text, ", by DHCP from {server}");
    }
    if let Some(seconds) = seconds {
        let _ = write!(text, " for {seconds} s");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bootif_chooses_the_link_unless_ip_names_one() {
        let links = |line: &str| match order(&Settings::parse(b"", line.as_bytes()).0) {
            NetOrder::Up { links, .. } => links,
            other => panic!("{other:?}"),
        };
        assert_eq!(links(""), Selection::All);
        assert_eq!(links("BOOTIF=01-02-03-04-05-06-07"), Selection::Mac([2, 3, 4, 5, 6, 7]));
        let named = Selection::Named(Label::new("eth1").unwrap());
        assert_eq!(links("BOOTIF=01-02-03-04-05-06-07 ip=eth1:dhcp"), named);
    }

    #[test]
    fn it_is_open_which_link_it_is_unless_the_operator_names_one_or_its_address() {
        for (line, open) in [
            ("", true),
            ("ip=dhcp", true),
            ("ip=eth1:dhcp", false),
            ("BOOTIF=01-02-03-04-05-06-07", false),
            ("ip=10.0.0.5::10.0.0.1:24:::none", false),
        ] {
            assert_eq!(is_open(&order(&Settings::parse(b"", line.as_bytes()).0)), open, "{line}");
        }
    }

    #[test]
    fn resolv_conf_holds_domain_and_at_most_three_servers() {
        let servers: Vec<IpAddr> = (1..=4).map(|n| IpAddr::from([10, 0, 0, n])).collect();
        let text = resolv_conf(Label::new("lab.example").ok().as_ref(), &servers);
        assert_eq!(
            text,
            "# written by rootbeam\nsearch lab.example\nnameserver 10.0.0.1\nnameserver 10.0.0.2\nnameserver 10.0.0.3\n"
        );
    }
}
