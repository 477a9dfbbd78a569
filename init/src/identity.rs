//! Who this clone is: a machine id that is the same at every boot of the same machine and different on every other.

use hmac::{KeyInit, Mac};

/// Keeps the firmware's UUID itself out of the image, as machine-id(5) asks.
const KEY: &[u8] = b"rootbeam machine-id 1";

/// What the id is derived from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The firmware's UUID (SMBIOS type 1), 16 bytes.
    Firmware([u8; 16]),
    /// The hardware address of the boot link.
    Link([u8; 6]),
}

impl Origin {
    /// The firmware's UUID if it is one, else the link.
    pub fn choose(product_uuid: &str, mac: [u8; 6]) -> Self {
        firmware_uuid(product_uuid).map_or(Self::Link(mac), Self::Firmware)
    }
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Firmware(_) => "the firmware's UUID",
            Self::Link(_) => "the link's hardware address",
        })
    }
}

/// UUIDs that boards were shipped with by the thousand, for nobody gave them one of their own.
const NEVER_SET: [u128; 2] = [0x0300_0200_0400_0500_0006_0007_0008_0009, 0x1234_5678_1234_5678_90ab_cdde_efaa_bbcc];

/// Reads `/sys/class/dmi/id/product_uuid`. One byte all over, and the values that many boards share, are no identity.
pub fn firmware_uuid(text: &str) -> Option<[u8; 16]> {
    let digits: String = text.trim().chars().filter(|c| *c != '-').collect();
    if digits.len() != 32 || !digits.is_ascii() {
        return None;
    }
    let number = u128::from_str_radix(&digits, 16).ok()?;
    let bytes = number.to_be_bytes();
    let one_byte = bytes.iter().all(|byte| Some(byte) == bytes.first());
    (!one_byte && ![number, other_order(number)].iter().any(|number| NEVER_SET.contains(number))).then_some(bytes)
}

/// The same bytes as the kernel writes them for firmware of before SMBIOS 2.6, or of since: the first three fields the other
/// way round (dmi_save_uuid).
fn other_order(number: u128) -> u128 {
    let mut bytes = number.to_be_bytes();
    for field in [0..4, 4..6, 6..8] {
        if let Some(field) = bytes.get_mut(field) {
            field.reverse();
        }
    }
    u128::from_be_bytes(bytes)
}

/// The machine id with its final newline: 32 hexadecimal digits in the form of a random UUID.
pub fn machine_id(origin: &Origin) -> String {
    let (kind, bytes): (&[u8], &[u8]) = match origin {
        Origin::Firmware(uuid) => (b"uuid", uuid),
        Origin::Link(mac) => (b"mac", mac),
    };
    let mut id = [0; 16];
    // A key of any length is a key for HMAC; an error is not possible and would leave zeros.
    if let Ok(mut mac) = hmac::Hmac::<sha2::Sha256>::new_from_slice(KEY) {
        mac.update(kind);
        mac.update(bytes);
        for (to, from) in id.iter_mut().zip(mac.finalize().into_bytes()) {
            *to = from;
        }
    }
    let version_4 = (u128::from_be_bytes(id) & !(0xf << 76) & !(0b11 << 62)) | 4 << 76 | 0b10 << 62;
    format!("{version_4:032x}\n")
}

/// Whether an image leaves its machine id to the boot: the file is empty, or says `uninitialized`.
pub fn is_open(machine_id: &[u8]) -> bool {
    matches!(machine_id.trim_ascii(), b"" | b"uninitialized")
}

#[cfg(test)]
mod tests {
    use super::*;

    const UUID: &str = "4c4c4544-0042-3510-8054-b4c04f503132\n";

    #[test]
    fn is_the_same_at_every_boot_and_different_on_every_machine() {
        let id = machine_id(&Origin::choose(UUID, [0; 6]));
        assert_eq!(id, machine_id(&Origin::choose(&UUID.to_uppercase(), [9; 6])));
        assert_eq!(id.len(), 33);
        assert_eq!(&id[12..13], "4");
        assert!("89ab".contains(&id[16..17]));
        assert_ne!(id, machine_id(&Origin::Link([0; 6])));
        assert_ne!(machine_id(&Origin::Link([1; 6])), machine_id(&Origin::Link([2; 6])));
    }

    #[test]
    fn does_not_change_between_versions() {
        // By another program: HMAC-SHA256 by the key of `uuid` and the UUID's bytes, of `mac` and the address's.
        assert_eq!(machine_id(&Origin::choose(UUID, [9; 6])), "5916bcf7273242eb9eaea9e2ae564795\n");
        assert_eq!(machine_id(&Origin::choose("", [2, 0, 0, 0, 0, 1])), "22d65baa351f4c7d9a9c136589f58daa\n");
    }

    #[test]
    fn a_uuid_that_was_never_set_is_none() {
        for text in [
            "",
            "Not Settable",
            "00000000-0000-0000-0000-000000000000",
            &"f".repeat(32),
            "é",
            "03000200-0400-0500-0006-000700080009",
            "00020003-0004-0005-0006-000700080009",
            "12345678-1234-5678-90AB-CDDEEFAABBCC",
            "78563412-3412-7856-90ab-cddeefaabbcc",
        ] {
            assert_eq!(Origin::choose(text, [1; 6]), Origin::Link([1; 6]), "{text}");
        }
    }

    #[test]
    fn only_an_empty_or_uninitialized_file_is_filled() {
        assert!(is_open(b"") && is_open(b"\n") && is_open(b"uninitialized\n"));
        assert!(!is_open(b"0123456789abcdef0123456789abcdef\n"));
    }
}
