//! The devices that the kernel knows of, by the names through which their drivers are found.

use super::names::MAX_NAME;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Processors have drivers too, for ciphers and power; what boots here asks for a cipher by its name.
const PASSED_OVER: &str = "cpu";
/// The most devices of one look; a server of 2020 has about 1000.
const MAX_DEVICES: usize = 100_000;

/// A look at the devices that may be repeated. By way of the buses, whose lists hold every device that a driver can be
/// bound to: walking the tree of /sys/devices visits ten times as many folders, which an emulated machine feels.
#[derive(Debug)]
pub struct Devices {
    buses: PathBuf,
    seen: BTreeSet<(OsString, OsString)>,
}

impl Devices {
    /// Looks below `buses` (`/sys/bus`).
    pub fn below(buses: &Path) -> Self {
        Self { buses: buses.to_owned(), seen: BTreeSet::new() }
    }

    /// The aliases of all devices that were not there at the last look, each once. What cannot be read is left out:
    /// devices may go while they are looked at.
    pub fn fresh(&mut self) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        for bus in names(&self.buses).filter(|bus| bus != PASSED_OVER) {
            let folder = self.buses.join(&bus).join("devices");
            for device in names(&folder) {
                let modalias = folder.join(&device).join("modalias");
                if self.seen.len() < MAX_DEVICES && self.seen.insert((bus.clone(), device)) {
                    found.extend(read_line(&modalias));
                }
            }
        }
        found
    }
}

fn names(folder: &Path) -> impl Iterator<Item = OsString> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.file_name())
}

fn read_line(path: &Path) -> Option<String> {
    let mut text = String::new();
    fs::File::open(path).ok()?.take(MAX_NAME as u64).read_to_string(&mut text).ok()?;
    let line = text.trim_end();
    (!line.is_empty()).then(|| line.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_each_alias_once_and_at_the_next_look_only_what_is_new() {
        let buses = std::env::temp_dir().join(format!("rootbeam-devices-{}", std::process::id()));
        let write = |device: &str, alias: &str| {
            fs::create_dir_all(buses.join(device)).unwrap();
            fs::write(buses.join(device).join("modalias"), alias).unwrap();
        };
        let aliases = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
        write("pci/devices/0000:00:03.0", "pci:v1\n");
        write("pci/devices/0000:00:04.0", "pci:v1\n");
        write("platform/devices/none", "\n");
        write("cpu/devices/cpu0", "cpu:type:x86\n");
        fs::create_dir_all(buses.join("node/devices/node0")).unwrap();
        let mut devices = Devices::below(&buses);
        assert_eq!(devices.fresh(), aliases(&["pci:v1"]));
        write("virtio/devices/virtio0", "virtio:d1v2\n");
        write("pci/devices/0000:00:04.0", "pci:v3\n");
        let second = devices.fresh();
        fs::remove_dir_all(&buses).unwrap();
        assert_eq!(second, aliases(&["virtio:d1v2"]));
    }
}
