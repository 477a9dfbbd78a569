//! What tells this machine from its neighbours, for the `{words}` of image URLs.

use crate::identity;
use crate::label::Label;
use crate::settings::values::mac_text;

/// The words that an image URL may hold.
pub const WORDS: [&str; 5] = ["mac", "uuid", "serial", "hostname", "arch"];

/// The longest value, in characters.
const LONGEST: usize = 64;

/// What board makers leave where a serial number belongs.
const NO_SERIALS: [&str; 7] =
    ["", "0", "none", "default string", "not specified", "system serial number", "to be filled by o.e.m."];

/// A machine's values of [`WORDS`]; none where it has none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Hardware address of the boot link, `52-54-00-12-34-56`.
    pub mac: Option<String>,
    /// The firmware's UUID (SMBIOS type 1), in lower case with dashes.
    pub uuid: Option<String>,
    /// The firmware's serial number of the machine.
    pub serial: Option<String>,
    /// Host name of the lease or of `ip=`.
    pub hostname: Option<String>,
    /// As in `uname -m`.
    pub arch: Option<String>,
}

impl Facts {
    /// From the link's hardware address, `product_uuid` and `product_serial` of `/sys/class/dmi/id`, the lease's host
    /// name and the kernel's machine.
    pub fn new(mac: [u8; 6], product_uuid: &str, product_serial: &str, host: Option<&Label>, arch: &str) -> Self {
        let serial = product_serial.trim();
        let uuid = identity::firmware_uuid(product_uuid).map(|_| product_uuid.trim().to_ascii_lowercase());
        Self {
            mac: Some(mac_text(mac).replace(':', "-")),
            uuid,
            serial: Some(serial.to_owned()).filter(|serial| !NO_SERIALS.contains(&serial.to_lowercase().as_str())),
            hostname: host.map(Label::to_string),
            arch: Some(arch.to_owned()),
        }
    }

    /// The value of one of [`WORDS`], escaped to stand anywhere in a URL behind its host; none where the machine has
    /// none, or one that is no name: too long, not of printing ASCII, or beginning with a dot, which would climb.
    pub fn escaped(&self, word: &str) -> Option<String> {
        let value = match word {
            "mac" => &self.mac,
            "uuid" => &self.uuid,
            "serial" => &self.serial,
            "hostname" => &self.hostname,
            "arch" => &self.arch,
            _ => &None,
        };
        let fits = |value: &&String| {
            (1..=LONGEST).contains(&value.len())
                && !value.starts_with('.')
                && value.bytes().all(|b| matches!(b, b' '..=b'~'))
        };
        value.as_ref().filter(fits).map(|value| escape(value))
    }
}

/// Percent-encodes all but the unreserved characters of RFC 3986.
fn escape(value: &str) -> String {
    let mut text = String::new();
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            text.push(char::from(byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0xab];

    #[test]
    fn every_word_has_its_value() {
        let host = Label::new("web1").unwrap();
        let facts = Facts::new(MAC, "4C4C4544-0042-3510-8054-B4C04F503132\n", "5H 3/Q?\n", Some(&host), "x86_64");
        let values = WORDS.map(|word| facts.escaped(word).unwrap());
        let uuid = "4c4c4544-0042-3510-8054-b4c04f503132";
        assert_eq!(values, ["52-54-00-12-34-ab", uuid, "5H%203%2FQ%3F", "web1", "x86_64"]);
        assert_eq!(facts.escaped("colour"), None);
    }

    #[test]
    fn what_a_machine_does_not_have_is_none() {
        let facts = Facts::new(MAC, "Not Settable", "To Be Filled By O.E.M.\n", None, "x86_64");
        assert_eq!(["uuid", "serial", "hostname"].map(|word| facts.escaped(word)), [None, None, None]);
    }

    #[test]
    fn a_value_cannot_climb_out_of_its_folder() {
        for serial in ["..", ".hidden", "a\u{1b}[2J", "ä", &"x".repeat(65)] {
            let facts = Facts { serial: Some(serial.to_owned()), ..Facts::default() };
            assert_eq!(facts.escaped("serial"), None, "{serial:?}");
        }
    }
}
