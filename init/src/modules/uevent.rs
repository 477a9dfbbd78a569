//! The kernel's messages about devices that come and go.

/// The largest packet that is looked at, in bytes: the kernel's own bound is 2048 for the environment plus the path.
pub const MAX_BYTES: usize = 8192;

/// A message about a device. Fields that the kernel left out are empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Uevent {
    /// `add`, `remove`, `change`, `bind`, …
    pub action: String,
    /// Path of the device below /sys.
    pub devpath: String,
    /// `net`, `pci`, `block`, …
    pub subsystem: String,
    /// By which a driver is found.
    pub modalias: String,
    /// Name of the node below /dev.
    pub devname: String,
    /// Name of the network interface.
    pub interface: String,
}

impl Uevent {
    /// Reads a packet: `ACTION@DEVPATH`, then `KEY=VALUE`, each ended by a zero byte. Nothing if it is not the
    /// kernel's form (udev's own messages are not) or not text.
    pub fn parse(packet: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(packet.get(..MAX_BYTES).map_or(packet, |_| &[])).ok()?;
        let mut fields = text.split('\0');
        let (action, devpath) = fields.next()?.split_once('@')?;
        if action.is_empty() || !devpath.starts_with('/') {
            return None;
        }
        let mut uevent = Self { action: action.to_owned(), devpath: devpath.to_owned(), ..Self::default() };
        for (key, value) in fields.filter_map(|field| field.split_once('=')) {
            match key {
                "SUBSYSTEM" => value.clone_into(&mut uevent.subsystem),
                "MODALIAS" => value.clone_into(&mut uevent.modalias),
                "DEVNAME" => value.clone_into(&mut uevent.devname),
                "INTERFACE" => value.clone_into(&mut uevent.interface),
                _ => {}
            }
        }
        Some(uevent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_kernel_sends() {
        let packet = b"add@/devices/pci0000:00/0000:00:03.0\0ACTION=add\0DEVPATH=/devices/pci0000:00/0000:00:03.0\0\
            SUBSYSTEM=pci\0MODALIAS=pci:v00008086d0000100Esv00001AF4sd00001100bc02sc00i00\0SEQNUM=900\0";
        let expected = Uevent {
            action: "add".into(),
            devpath: "/devices/pci0000:00/0000:00:03.0".into(),
            subsystem: "pci".into(),
            modalias: "pci:v00008086d0000100Esv00001AF4sd00001100bc02sc00i00".into(),
            ..Uevent::default()
        };
        assert_eq!(Uevent::parse(packet), Some(expected));
    }

    #[test]
    fn refuses_other_forms_and_oversized_packets() {
        let large = [b"add@/x\0".as_slice(), &[b'a'; MAX_BYTES]].concat();
        for bad in [b"".as_slice(), b"libudev\0\xfe\xed\xca\xfe", b"add", b"@/x", b"add@x", b"\xff@/x\0", &large] {
            assert_eq!(Uevent::parse(bad), None);
        }
    }
}
