//! `ip=` in the grammar of the kernel and dracut, as far as IPv4 goes:
//! `dhcp|on|any`, `LINK:dhcp|on|any`, `CLIENT:PEER:GATEWAY:MASK:HOST:LINK:METHOD[:DNS0[:DNS1]]`.

use super::values::Expected;
use crate::label::Label;
use crate::messages::{Addressing, StaticAddress};
use std::net::{IpAddr, Ipv4Addr};

/// One `ip=`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ip {
    /// The link that it is for; none is whichever has carrier.
    pub link: Option<Label>,
    /// DHCP, or an address.
    pub addressing: Addressing,
    /// Host name of the long form, with DHCP too.
    pub hostname: Option<Label>,
    /// Time server of the long form, with DHCP too.
    pub time_server: Option<IpAddr>,
}

impl Ip {
    fn dhcp(link: Option<Label>) -> Self {
        Self { link, addressing: Addressing::Dhcp, hostname: None, time_server: None }
    }
}

/// Reads the value of one `ip=`.
pub fn parse(text: &str) -> Result<Ip, Expected> {
    let fields: Vec<&str> = text.split(':').collect();
    match fields.as_slice() {
        [method] => {
            dynamic(method)?;
            Ok(Ip::dhcp(None))
        }
        [link, method] => {
            dynamic(method)?;
            Ok(Ip::dhcp(label(link)?))
        }
        [client, _peer, gateway, mask, host, link, method, dns @ ..] if dns.len() <= 3 => {
            long(client, gateway, mask, host, link, method, dns)
        }
        // PXELINUX's IPAPPEND 1 writes the first four fields only; its address is a lease that nobody renews, so
        // it is asked for again.
        [_, _, _, _] => Ok(Ip::dhcp(None)),
        _ => Err(Expected(
            "dhcp, LINK:dhcp, or ADDRESS::GATEWAY:MASK:HOST:LINK:none[:DNS[:DNS[:NTP]]] (IPv4)".to_owned(),
        )),
    }
}

fn dynamic(method: &str) -> Result<(), Expected> {
    match method {
        "dhcp" | "on" | "any" | "single-dhcp" => Ok(()),
        _ => Err(Expected("dhcp; IPv6 and link-local methods are not known".to_owned())),
    }
}

fn long(
    client: &str,
    gateway: &str,
    mask: &str,
    host: &str,
    link: &str,
    method: &str,
    dns: &[&str],
) -> Result<Ip, Expected> {
    let link = match link {
        // MAAS writes the word BOOTIF for the link of BOOTIF=, which chooses by itself.
        "BOOTIF" => None,
        name => label(name)?,
    };
    let hostname = label(host)?;
    // Behind the method stand one or two name servers (the kernel's form), and the kernel's third field is NTP.
    let time_server = dns.get(2).filter(|s| !s.is_empty()).map(|s| server(s)).transpose()?;
    if !matches!(method, "" | "none" | "off" | "static") {
        dynamic(method)?;
        return Ok(Ip { hostname, time_server, ..Ip::dhcp(link) });
    }
    if client.is_empty() {
        return Err(Expected("an address in the first field, or dhcp as the method".to_owned()));
    }
    let address = address(client)?;
    let prefix = match mask {
        "" => default_prefix(address),
        mask => prefix(mask)?,
    };
    let gateway = optional(gateway)?;
    let dns = dns.iter().take(2).filter(|d| !d.is_empty()).map(|d| server(d)).collect::<Result<_, _>>()?;
    let fixed = StaticAddress { address, prefix, gateway, hostname: hostname.clone(), dns };
    Ok(Ip { link, addressing: Addressing::Static(fixed), hostname, time_server })
}

fn label(text: &str) -> Result<Option<Label>, Expected> {
    if text.is_empty() {
        return Ok(None);
    }
    Label::new(text).map(Some).map_err(|e| Expected(e.to_string()))
}

fn address(text: &str) -> Result<Ipv4Addr, Expected> {
    text.parse().map_err(|_| Expected(format!("an IPv4 address, not {:?}", crate::label::printable(text, 40))))
}

fn optional(text: &str) -> Result<Option<Ipv4Addr>, Expected> {
    // 0.0.0.0 is how the kernel's tools write "none".
    if text.is_empty() { Ok(None) } else { Ok(Some(address(text)?).filter(|a| !a.is_unspecified())) }
}

fn prefix(mask: &str) -> Result<u8, Expected> {
    if let Ok(length) = mask.parse::<u8>() {
        return if length <= 32 { Ok(length) } else { Err(Expected("a prefix length of at most 32".to_owned())) };
    }
    let bits = u32::from(address(mask)?);
    if bits.leading_ones() + bits.trailing_zeros() != 32 {
        return Err(Expected("a netmask whose ones stand together, such as 255.255.255.0".to_owned()));
    }
    Ok(bits.leading_ones() as u8)
}

/// The prefix of an address's class, as the kernel takes it where no mask is given (`inet_abc_len`).
fn default_prefix(address: Ipv4Addr) -> u8 {
    match address.octets() {
        [0..=127, ..] => 8,
        [128..=191, ..] => 16,
        _ => 24,
    }
}

/// Reads `nameserver=`.
pub fn server(text: &str) -> Result<IpAddr, Expected> {
    let inner = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text);
    inner.parse().map_err(|_| Expected("the address of a name server".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_static_long_form_gives_every_field() {
        let ip = parse("10.0.2.20::10.0.2.2:255.255.255.0:web1:eth0:none:10.0.2.3:10.0.2.4:10.0.2.5").unwrap();
        let hostname = Some(Label::new("web1").unwrap());
        let expected = StaticAddress {
            address: [10, 0, 2, 20].into(),
            prefix: 24,
            gateway: Some([10, 0, 2, 2].into()),
            hostname: hostname.clone(),
            dns: vec![[10, 0, 2, 3].into(), [10, 0, 2, 4].into()],
        };
        let link = Some(Label::new("eth0").unwrap());
        let time_server = Some([10, 0, 2, 5].into());
        assert_eq!(ip, Ip { link, addressing: Addressing::Static(expected), hostname, time_server });
    }

    #[test]
    fn the_short_forms_mean_dhcp() {
        for text in
            ["dhcp", "on", "any", "eth0:dhcp", "::::web1:BOOTIF:dhcp", "10.0.2.15:10.0.2.2:10.0.2.2:255.255.255.0"]
        {
            assert_eq!(parse(text).map(|ip| ip.addressing), Ok(Addressing::Dhcp), "{text}");
        }
        assert_eq!(parse("eth0:dhcp").unwrap().link, Label::new("eth0").ok());
    }

    #[test]
    fn masks_are_prefixes_or_dotted_and_ones_stand_together() {
        let prefix = |mask: &str| match parse(&format!("10.1.2.3:::{mask}:::none")).map(|ip| ip.addressing) {
            Ok(Addressing::Static(fixed)) => Ok(fixed.prefix),
            Ok(Addressing::Dhcp) => panic!("static was meant"),
            Err(e) => Err(e),
        };
        let good = [("24", 24), ("255.255.255.0", 24), ("255.255.255.255", 32), ("0.0.0.0", 0), ("", 8)];
        for (mask, expected) in good {
            assert_eq!(prefix(mask), Ok(expected), "{mask}");
        }
        for bad in ["33", "255.0.255.0", "x", "255.255.255.1"] {
            assert!(prefix(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn refuses_what_it_does_not_know() {
        for bad in ["", "ibft", "dhcp6", "eth0:auto6", "a:b:c", "10.0.0.1:::::../x:none", ":::::eth0:none"] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }
}
