//! What an initramfs file holds, whichever tool made it.

use crate::archive::{Archive, ArchiveError, read};
use crate::compress::Compression;
use crate::newc::{Entry, kind};
use rootbeam_init::contract;
use rootbeam_init::settings::public_words;
use rootbeam_init::trust::{self, KeyId};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// What a file of the archive is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Room {
    /// The program that the kernel starts.
    Init,
    /// Kernel modules and their index.
    Modules,
    /// Firmware of devices.
    Firmware,
    /// Microcode of the processor.
    Microcode,
    /// Settings, keys, certificates.
    Config,
    /// Everything else.
    Other,
}

impl Room {
    fn of(path: &str) -> Self {
        let path = path.strip_prefix("usr/").unwrap_or(path);
        let below = |folder: &str| path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'));
        match path {
            contract::INIT => Self::Init,
            _ if below("lib/modules") => Self::Modules,
            _ if below("lib/firmware") => Self::Firmware,
            _ if below("kernel/x86/microcode") => Self::Microcode,
            _ if below("etc") => Self::Config,
            _ => Self::Other,
        }
    }
}

impl fmt::Display for Room {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Init => "init",
            Self::Modules => "modules",
            Self::Firmware => "firmware",
            Self::Microcode => "microcode",
            Self::Config => "config",
            Self::Other => "other",
        })
    }
}

/// Number and size of the files of a room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Size {
    /// Files.
    pub files: usize,
    /// Bytes, unpacked.
    pub bytes: u64,
}

/// One of the archives of the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Part {
    /// How it is compressed.
    pub compression: Compression,
    /// Where it begins in the file, in bytes.
    pub offset: usize,
    /// Bytes that it has in the file.
    pub packed: usize,
    /// Bytes that it unpacks to.
    pub unpacked: usize,
    /// How many entries it has.
    pub entries: usize,
}

/// An entry of an archive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Item {
    /// Type and permissions as `ls -l` shows them.
    pub mode: String,
    /// Path; what is not UTF-8 is replaced.
    pub path: String,
    /// Bytes of a file.
    pub size: usize,
    /// Target of a symbolic link.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// Major and minor number of a device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<(u32, u32)>,
}

/// A public key that the archive trusts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Key {
    /// File name.
    pub name: String,
    /// Its number, where it is a key.
    pub id: Option<KeyId>,
    /// The key itself, base64.
    pub key: String,
}

/// What an initramfs file holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Bytes of the file.
    pub file: usize,
    /// Its archives, in order.
    pub archives: Vec<Part>,
    /// Sizes by room.
    pub rooms: BTreeMap<Room, Size>,
    /// Kernel releases that it has modules for.
    pub kernels: Vec<String>,
    /// How the archive names itself.
    pub name: Option<String>,
    /// When rootbeam packed it, seconds since 1970.
    pub build_time: Option<u64>,
    /// Words for the command line that are packed with it, without what may be secret in them.
    pub settings: Vec<String>,
    /// Keys that it trusts.
    pub keys: Vec<Key>,
    /// How many of them must have signed a manifest, where the archive says so; else one.
    pub key_threshold: Option<u8>,
    /// The least version of a manifest that boots.
    pub min_version: Option<u64>,
    /// Number of root certificates that it trusts.
    pub certificates: usize,
    /// Whether it has a client certificate and its key.
    pub client_certificate: bool,
    /// Whether it has a token for the servers of the image.
    pub token: bool,
    /// Whether it has a shell.
    pub shell: bool,
    /// Every entry, in order.
    pub contents: Vec<Item>,
}

impl Report {
    /// Reads an initramfs file.
    pub fn of(file: &[u8]) -> Result<Self, ArchiveError> {
        let archives = read(file)?;
        // A later archive's file replaces an earlier one's, as it does in the kernel.
        let mut files: BTreeMap<String, &[u8]> = BTreeMap::new();
        for (archive, entry) in archives.iter().flat_map(|a| a.entries.iter().map(move |e| (a, e))) {
            if entry.kind() == kind::FILE {
                files.insert(path_of(entry), archive.data(entry));
            }
        }
        let mut rooms: BTreeMap<Room, Size> = BTreeMap::new();
        for (path, data) in &files {
            let room = rooms.entry(Room::of(path)).or_default();
            room.files += 1;
            room.bytes += data.len() as u64;
        }
        let text = |path: &str| files.get(path).map(|data| String::from_utf8_lossy(data).into_owned());
        let contents: Vec<Item> = archives.iter().flat_map(|a| a.entries.iter().map(|e| item(a, e))).collect();
        let name = ["etc/initrd-release", "etc/os-release", "usr/lib/initrd-release", "usr/lib/os-release"]
            .into_iter()
            .find_map(|path| pretty_name(&text(path)?));
        Ok(Self {
            file: file.len(),
            archives: archives.iter().map(part).collect(),
            rooms,
            kernels: kernels(&contents),
            name,
            build_time: number(text(contract::BUILD_TIME)),
            settings: text(contract::CONFIG).map(|text| words(&text)).unwrap_or_default(),
            keys: files.iter().filter_map(|(path, data)| key(path, data)).collect(),
            key_threshold: number(text(contract::KEY_THRESHOLD)),
            min_version: number(text(contract::MIN_VERSION)),
            certificates: text(contract::CA).map_or(0, |pem| pem.matches("-----BEGIN CERTIFICATE-----").count()),
            client_certificate: files.contains_key(contract::CLIENT_KEY),
            token: files.contains_key(contract::TOKEN),
            shell: ["bin/sh", "usr/bin/sh"].iter().any(|sh| contents.iter().any(|item| item.path == *sh)),
            contents,
        })
    }
}

fn path_of(entry: &Entry) -> String {
    String::from_utf8_lossy(&entry.path).into_owned()
}

fn part(archive: &Archive) -> Part {
    let Archive { compression, offset, packed, bytes, entries } = archive;
    Part { compression: *compression, offset: *offset, packed: *packed, unpacked: bytes.len(), entries: entries.len() }
}

fn item(archive: &Archive, entry: &Entry) -> Item {
    let link = entry.kind() == kind::SYMLINK;
    let is_device = matches!(entry.kind(), kind::CHARACTER | kind::BLOCK);
    Item {
        mode: mode_text(entry.mode),
        path: path_of(entry),
        size: if link { 0 } else { entry.data.len() },
        target: link.then(|| String::from_utf8_lossy(archive.data(entry)).into_owned()),
        device: is_device.then_some(entry.device),
    }
}

fn mode_text(mode: u32) -> String {
    let kind = match mode & kind::MASK {
        kind::DIRECTORY => 'd',
        kind::FILE => '-',
        kind::SYMLINK => 'l',
        kind::CHARACTER => 'c',
        kind::BLOCK => 'b',
        0o010_000 => 'p',
        0o140_000 => 's',
        _ => '?',
    };
    let bits = "rwxrwxrwx".chars().enumerate().map(|(place, letter)| {
        let set = mode >> (8 - place) & 1 == 1;
        let special = match place {
            2 => mode & 0o4000 != 0,
            5 => mode & 0o2000 != 0,
            8 => mode & 0o1000 != 0,
            _ => false,
        };
        match (special, place, set) {
            (true, 8, true) => 't',
            (true, 8, false) => 'T',
            (true, _, true) => 's',
            (true, _, false) => 'S',
            (false, _, true) => letter,
            (false, _, false) => '-',
        }
    });
    std::iter::once(kind).chain(bits).collect()
}

fn kernels(contents: &[Item]) -> Vec<String> {
    let release = |item: &Item| {
        let path = item.path.strip_prefix("usr/").unwrap_or(&item.path);
        Some(path.strip_prefix("lib/modules/")?.split('/').next()?.to_owned())
    };
    contents.iter().filter_map(release).collect::<BTreeSet<_>>().into_iter().collect()
}

fn pretty_name(release: &str) -> Option<String> {
    let value = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="))?;
    Some(value.trim_matches(['"', '\'']).to_owned())
}

fn words(config: &str) -> Vec<String> {
    let lines = config.lines().map(|line| line.split_once('#').map_or(line, |(words, _)| words).trim());
    lines.filter(|line| !line.is_empty()).map(public_words).collect()
}

fn key(path: &str, data: &[u8]) -> Option<Key> {
    let name = path.strip_prefix(contract::KEYS)?.strip_prefix('/')?;
    let text = String::from_utf8_lossy(data);
    let (id, key) = match trust::Key::parse(&text) {
        Some(key) => (Some(key.id()), key.as_str().to_owned()),
        None => (None, text.lines().next_back().unwrap_or_default().to_owned()),
    };
    Some(Key { name: name.to_owned(), id, key })
}

fn number<N: std::str::FromStr>(text: Option<String>) -> Option<N> {
    text?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_its_room() {
        for (path, room) in [
            ("init", Room::Init),
            ("usr/lib/modules/6.1/modules.dep", Room::Modules),
            ("lib/firmware/tigon/tg3.bin", Room::Firmware),
            ("kernel/x86/microcode/GenuineIntel.bin", Room::Microcode),
            ("etc/rootbeam/config", Room::Config),
            ("lib/modulesx", Room::Other),
            ("usr/bin/init", Room::Other),
        ] {
            assert_eq!(Room::of(path), room, "{path}");
        }
    }

    #[test]
    fn modes_read_as_ls_shows_them() {
        for (mode, text) in [
            (0o100_755, "-rwxr-xr-x"),
            (0o040_700, "drwx------"),
            (0o120_777, "lrwxrwxrwx"),
            (0o020_600, "crw-------"),
            (0o104_755, "-rwsr-xr-x"),
            (0o102_644, "-rw-r-Sr--"),
            (0o041_777, "drwxrwxrwt"),
        ] {
            assert_eq!(mode_text(mode), text);
        }
    }
}
