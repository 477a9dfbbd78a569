//! The server's side: a namespace with a bridge, on which machines' cables end.

use super::namespace::Namespace;
use crate::servers::dnsmasq::Dnsmasq;
use crate::servers::http::HttpServer;
use crate::servers::site::Site;
use anyhow::{Context, Result};
use std::io::ErrorKind;
use std::net::TcpListener;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// A server's network, `10.77.0.0/24` unless said otherwise. Its services end with it.
#[derive(Debug)]
pub struct Network {
    namespace: Namespace,
    subnet: u8,
    ports: AtomicU32,
    dnsmasq: Option<Dnsmasq>,
}

/// What the network's DHCP and DNS server offers.
#[derive(Clone, Debug)]
pub struct Dhcp {
    /// Lease time in seconds; dnsmasq takes at least 120.
    pub lease: u32,
    /// Names that resolve to the server's address.
    pub names: Vec<String>,
    /// Further arguments of dnsmasq.
    pub arguments: Vec<String>,
}

impl Default for Dhcp {
    fn default() -> Self {
        Self { lease: 3600, names: vec!["boot.test".into()], arguments: Vec::new() }
    }
}

/// A machine's network card.
#[derive(Clone, Debug)]
pub struct Nic<'a> {
    /// Where its cable ends.
    pub network: &'a Network,
    /// Hardware address; one is made up for `None`.
    pub mac: Option<String>,
    /// Whether the far end is up.
    pub carrier: bool,
    /// Speed of the wire towards the machine in Mbit/s; as fast as the host for `None`.
    pub wire: Option<u32>,
}

impl<'a> Nic<'a> {
    /// A card on `network`, plugged in, as fast as the host.
    pub fn on(network: &'a Network) -> Self {
        Self { network, mac: None, carrier: true, wire: None }
    }

    /// The same with no carrier.
    pub fn unplugged(self) -> Self {
        Self { carrier: false, ..self }
    }

    /// The same on a wire of so many Mbit/s.
    pub fn wire(self, mbit: u32) -> Self {
        Self { wire: Some(mbit), ..self }
    }

    /// The same with a hardware address.
    pub fn mac(self, mac: &str) -> Self {
        Self { mac: Some(mac.to_owned()), ..self }
    }
}

impl Network {
    /// A network with DHCP and DNS.
    pub fn new() -> Result<Self> {
        Self::silent()?.dhcp(Dhcp::default())
    }

    /// A network on which nobody answers yet.
    pub fn silent() -> Result<Self> {
        Self::subnet(77)
    }

    /// A silent network `10.subnet.0.0/24`.
    pub fn subnet(subnet: u8) -> Result<Self> {
        let namespace = Namespace::new()?;
        namespace.ip("link add lan type bridge forward_delay 0 stp_state 0 mcast_snooping 0")?;
        namespace.ip(&format!("addr add 10.{subnet}.0.1/24 dev lan"))?;
        namespace.ip("link set lan up")?;
        Ok(Self { namespace, subnet, ports: AtomicU32::new(0), dnsmasq: None })
    }

    /// With DHCP and DNS as described.
    pub fn dhcp(mut self, dhcp: Dhcp) -> Result<Self> {
        let (subnet, server) = (self.subnet, self.server());
        let mut arguments = dhcp.arguments;
        arguments.push(format!("--dhcp-range=10.{subnet}.0.100,10.{subnet}.0.250,255.255.255.0,{}", dhcp.lease));
        arguments.extend(dhcp.names.iter().map(|name| format!("--address=/{name}/{server}")));
        self.dnsmasq = Some(self.namespace.enter(|| Dnsmasq::start("lan", &arguments))??);
        Ok(self)
    }

    /// Serves `site` on the server's port 80.
    pub fn http(&self, site: Site) -> Result<HttpServer> {
        self.http_on(80, site)
    }

    /// Serves `site` on a port of the server.
    pub fn http_on(&self, port: u16, site: Site) -> Result<HttpServer> {
        HttpServer::serve(self.listen(port)?, site)
    }

    /// A listener on a port of the server.
    pub fn listen(&self, port: u16) -> Result<TcpListener> {
        let address = self.server();
        let patience = Instant::now() + Duration::from_secs(5);
        loop {
            match self.namespace.enter(|| TcpListener::bind((address.as_str(), port)))? {
                // A child of another thread holds a listener that was closed here until it is exec'd.
                Err(error) if error.kind() == ErrorKind::AddrInUse && Instant::now() < patience => {
                    std::thread::sleep(Duration::from_millis(2));
                }
                listener => return listener.with_context(|| format!("cannot listen on {address}:{port}")),
            }
        }
    }

    /// An address of the network that is there and never answers: packets to it vanish.
    pub fn black_hole(&self) -> Result<String> {
        let address = format!("10.{}.0.66", self.subnet);
        self.namespace.ip(&format!("addr add {address}/24 dev lan"))?;
        // What comes in is dropped by the route that an answer would take.
        self.namespace.ip(&format!("rule add from {address} blackhole"))?;
        Ok(address)
    }

    /// The server's address: its DHCP, DNS and HTTP.
    pub fn server(&self) -> String {
        format!("10.{}.0.1", self.subnet)
    }

    /// The URL of a path on the server's port 80.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.server())
    }

    /// The server's namespace, to run other things in.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// The DHCP and DNS server, where there is one.
    pub fn dnsmasq(&self) -> Option<&Dnsmasq> {
        self.dnsmasq.as_ref()
    }

    /// Ends the DHCP and DNS server.
    pub fn stop_dhcp(&mut self) {
        self.dnsmasq = None;
    }

    /// Pulls or plugs the cable of the `port`-th machine that was plugged in.
    pub fn set_carrier(&self, port: u32, carrier: bool) -> Result<()> {
        let state = if carrier { "up" } else { "down" };
        self.namespace.ip(&format!("link set port{port} {state}")).map(drop)
    }

    /// Gives the `port`-th machine that was plugged in a wire of so many Mbit/s.
    pub fn set_wire(&self, port: u32, mbit: u32) -> Result<()> {
        // Room for 10 ms at full speed: less starves the bucket between timer ticks, more lets bursts through.
        let burst = (u64::from(mbit) * 1_000_000 / 8 / 100).max(16_384);
        let rate = format!("rate {mbit}mbit burst {burst}b latency 50ms");
        self.namespace.run("tc", &format!("qdisc replace dev port{port} root tbf {rate}")).map(drop)
    }

    /// Plugs a card into a machine's namespace as link `name`; returns the number of the port.
    pub fn plug(&self, nic: &Nic, machine: &Namespace, name: &str) -> Result<u32> {
        let number = self.ports.fetch_add(1, Ordering::Relaxed);
        let made_up = format!("52:54:00:{:02x}:{:02x}:{:02x}", self.subnet, number >> 8 & 0xff, number & 0xff);
        let port = format!("port{number}");
        self.namespace.cable(&port, machine, name, nic.mac.as_deref().unwrap_or(&made_up))?;
        self.namespace.ip(&format!("link set {port} master lan"))?;
        if let Some(mbit) = nic.wire {
            self.set_wire(number, mbit)?;
        }
        if nic.carrier {
            self.set_carrier(number, true)?;
        }
        Ok(number)
    }
}
