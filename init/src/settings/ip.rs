//! `ip=` in the grammar of the kernel (Documentation/admin-guide/nfs/nfsroot.rst) and dracut (dracut.cmdline(7)), as far
//! as IPv4 goes: `dhcp|on|any`, `LINK:dhcp|on|any[:[MTU][:MAC]]`, and
//! `CLIENT:PEER:GATEWAY:MASK:HOST:LINK:METHOD[:DNS0[:DNS1[:NTP]]]` or `...:METHOD:MTU[:MAC]`, where trailing fields may
//! be left out.

use super::values::{Expected, bootif};
use crate::label::Label;
use crate::messages::{Addressing, StaticAddress};
use std::fmt;
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

/// What of a value that is followed is left undone; `Display` names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeftOut {
    /// dracut's MTU.
    Mtu,
    /// dracut's MAC address.
    Mac,
    /// Both.
    MtuAndMac,
}

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Mtu => "MTU",
            Self::Mac => "MAC address",
            Self::MtuAndMac => "MTU and MAC address",
        })
    }
}

/// Reads the value of one `ip=`; beside it stands what of it is left undone.
pub fn parse(text: &str) -> Result<(Ip, Option<LeftOut>), Expected> {
    let fields: Vec<&str> = text.split(':').collect();
    match fields.as_slice() {
        [link, method, behind @ ..] if dynamic(method).is_ok() => Ok((Ip::dhcp(label(link)?), left_out(behind)?)),
        // PXELINUX's IPAPPEND 1 writes the first four fields only; its address is a lease that nobody renews, so
        // it is asked for again.
        [_, peer, _, _] if !peer.is_empty() => Ok((Ip::dhcp(None), None)),
        // An address with nothing but a peer is anaconda's form, whose mask and gateway are words of their own.
        [method] | [_, method] => dynamic(method).map(|()| (Ip::dhcp(None), None)),
        [client, ..] if fields.len() > 4 || optional(client).is_ok() => long(&fields),
        _ => Err(form()),
    }
}

fn form() -> Expected {
    Expected::that("dhcp, LINK:dhcp, or ADDRESS::GATEWAY:MASK:HOST:LINK:none[:DNS[:DNS[:NTP]]] (IPv4)")
}

fn dynamic(method: &str) -> Result<(), Expected> {
    match method {
        "dhcp" | "on" | "any" | "single-dhcp" => Ok(()),
        _ => Err(Expected("dhcp; IPv6 and link-local methods are not known".to_owned())),
    }
}

/// The long form. The kernel takes a field that is not there as an empty one (`ip_auto_config_setup`): without an
/// address it then asks for one (`any`), with an address it asks nobody.
fn long(fields: &[&str]) -> Result<(Ip, Option<LeftOut>), Expected> {
    let field = |number: usize| fields.get(number).copied().unwrap_or_default();
    let link = match field(5) {
        // MAAS writes the word BOOTIF for the link of BOOTIF=, which chooses by itself.
        "BOOTIF" => None,
        name => label(name)?,
    };
    let hostname = label(field(4))?;
    // Behind the method stand one or two name servers (the kernel's form), and the kernel's third field is NTP; or, where
    // that is a number, dracut's MTU.
    let behind = fields.get(7..).unwrap_or_default();
    let (dns, left_out) = match behind {
        [mtu, ..] if is_number(mtu) => (&[][..], left_out(behind)?),
        dns if dns.len() <= 3 => (dns, None),
        _ => return Err(form()),
    };
    let time_server = dns.get(2).filter(|s| !s.is_empty()).map(|s| server(s)).transpose()?;
    let fixed = match (field(6), optional(field(0))?) {
        ("" | "none" | "off" | "static", Some(address)) => address,
        ("none" | "off" | "static", None) => {
            return Err(Expected::that("an address in the first field, or dhcp as the method"));
        }
        (method, _) => {
            if !method.is_empty() {
                dynamic(method)?;
            }
            return Ok((Ip { hostname, time_server, ..Ip::dhcp(link) }, left_out));
        }
    };
    let prefix = match field(3) {
        "" => default_prefix(fixed),
        mask => prefix(mask)?,
    };
    let gateway = optional(field(2))?;
    let dns = dns.iter().take(2).filter(|d| !d.is_empty()).map(|d| server(d)).collect::<Result<_, _>>()?;
    let fixed = StaticAddress { address: fixed, prefix, gateway, hostname: hostname.clone(), dns };
    Ok((Ip { link, addressing: Addressing::Static(fixed), hostname, time_server }, left_out))
}

/// dracut's fields behind the method, `[MTU][:MAC]`, the latter with colons of its own.
fn left_out(fields: &[&str]) -> Result<Option<LeftOut>, Expected> {
    let [mtu, mac @ ..] = fields else { return Ok(None) };
    let expected = || Expected::that("an MTU behind the method, and a MAC address behind that, or neither");
    let fits = mtu.is_empty() || is_number(mtu) && mtu.parse::<u16>().is_ok_and(|mtu| mtu > 0);
    if !fits {
        return Err(expected());
    }
    let mac = mac.join(":");
    if !mac.is_empty() {
        bootif(&mac).map_err(|_| expected())?;
    }
    Ok(match (mtu.is_empty(), mac.is_empty()) {
        (true, true) => None,
        (false, true) => Some(LeftOut::Mtu),
        (true, false) => Some(LeftOut::Mac),
        (false, false) => Some(LeftOut::MtuAndMac),
    })
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
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

    /// What is followed to the letter.
    #[track_caller]
    fn followed(text: &str) -> Ip {
        let (ip, left_out) = parse(text).unwrap_or_else(|expected| panic!("{text}: {expected}"));
        assert_eq!(left_out, None, "{text}");
        ip
    }

    #[test]
    fn the_static_long_form_gives_every_field() {
        let ip = followed("10.0.2.20::10.0.2.2:255.255.255.0:web1:eth0:none:10.0.2.3:10.0.2.4:10.0.2.5");
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
            assert_eq!(followed(text).addressing, Addressing::Dhcp, "{text}");
        }
        assert_eq!(followed("eth0:dhcp").link, Label::new("eth0").ok());
    }

    #[test]
    fn trailing_fields_may_be_left_out_and_an_address_alone_is_static() {
        let most = "10.0.0.5::10.0.0.1:255.255.255.0:web1:eth0";
        for end in ["", ":", ":none", "::", "::::", ":none:::"] {
            assert_eq!(followed(&format!("{most}{end}")), followed(&format!("{most}:static")), "{end}");
        }
        let Ip { link, addressing, hostname, .. } = followed("10.0.0.5::10.0.0.1:255.255.255.0:web1");
        assert_eq!((link, hostname), (None, Label::new("web1").ok()));
        let Addressing::Static(fixed) = addressing else { panic!("static was meant") };
        assert_eq!((fixed.prefix, fixed.gateway), (24, Some([10, 0, 0, 1].into())));
        for short in ["192.168.7.5::", "192.168.7.5:::255.255.255.0"] {
            let Addressing::Static(fixed) = followed(short).addressing else { panic!("{short}: static was meant") };
            assert_eq!((fixed.address, fixed.prefix, fixed.gateway), ([192, 168, 7, 5].into(), 24, None), "{short}");
        }
        // Without an address the kernel asks for one.
        for short in ["::::web1", ":::::eth0", ":::::eth0:", "0.0.0.0:::::eth0"] {
            assert_eq!(followed(short).addressing, Addressing::Dhcp, "{short}");
        }
    }

    #[test]
    fn an_mtu_and_a_mac_address_behind_the_method_are_left_out_and_the_rest_is_followed() {
        let fixed = "10.0.0.5::10.0.0.1:255.255.255.0:web1:eth0";
        let mac = "52:54:00:12:34:56";
        for method in ["none", "off", "dhcp", ""] {
            let form = format!("{fixed}:{method}");
            let whole = followed(&form);
            assert_eq!(parse(&format!("{form}:9000")), Ok((whole.clone(), Some(LeftOut::Mtu))));
            assert_eq!(parse(&format!("{form}:9000:{mac}")), Ok((whole, Some(LeftOut::MtuAndMac))));
        }
        let whole = followed("eth0:dhcp");
        for (behind, left_out) in [
            (":".to_owned(), None),
            (":9000".to_owned(), Some(LeftOut::Mtu)),
            (format!(":9000:{mac}"), Some(LeftOut::MtuAndMac)),
            (format!("::{mac}"), Some(LeftOut::Mac)),
            ("::52-54-00-12-34-56".to_owned(), Some(LeftOut::Mac)),
        ] {
            assert_eq!(parse(&format!("eth0:dhcp{behind}")), Ok((whole.clone(), left_out)), "{behind}");
        }
    }

    #[test]
    fn masks_are_prefixes_or_dotted_and_ones_stand_together() {
        let prefix = |mask: &str| match parse(&format!("10.1.2.3:::{mask}:::none")).map(|(ip, _)| ip.addressing) {
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
        let forms =
            ["", "ibft", "dhcp6", "eth0:auto6", "a:b:c", "10.0.0.1:::::../x:none", ":::::eth0:none", "10.0.0.5"];
        let long = ["10.0.0.5::10.0.0.x:24:web1", "10.0.0.5:::33:web1", "10.0.0.5:::::eth0:auto6", "10.0.0.5:::::../x"];
        let behind = ["eth0:dhcp:soon", "eth0:dhcp:0", "eth0:dhcp:+9000", "eth0:dhcp:70000", "eth0:dhcp:9000:52:54"];
        let behind_long = ["10.0.0.5::::::none:9000:10.0.0.3", "10.0.0.5::::::none:1.1.1.1:2.2.2.2:3.3.3.3:4.4.4.4"];
        for bad in forms.into_iter().chain(long).chain(behind).chain(behind_long) {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }
}
