//! The initramfs: is it rootbeam's, is it of this kernel, does it have what the image needs?

use super::source::Image;
use super::verdict::{About, Verdict};
use rootbeam_init::access::Access;
use rootbeam_init::causes::filesystem_name;
use rootbeam_init::contract::{self, modules_dir};
use rootbeam_init::failure::Failure;
use rootbeam_init::image::{compressor_name, without_filesystem};
use rootbeam_init::messages::{Addressing, Compressor, FilesystemKind};
use rootbeam_init::modules::index::Files;
use rootbeam_init::modules::plan::{Load, plan};
use rootbeam_init::modules::{ModuleIndex, Plan, Policy, refused};
use rootbeam_init::settings::Settings;
use rootbeam_init::streaming::FILESYSTEM;
use rootbeam_initramfs::archive::{ArchiveError, read};
use rootbeam_initramfs::inspect::Report;
use rootbeam_initramfs::modinfo::Modinfo;
use rootbeam_initramfs::newc::kind;
use std::collections::{BTreeMap, BTreeSet};

const DRIVERS: About = About::Drivers;
const ARCHIVE: About = About::Archive;
/// Where the kernel's own modules of network cards lie.
const NETWORK: &str = "kernel/drivers/net/";
/// What lies there and drives no card, or none that a boot can use.
const NO_CARDS: [&str; 11] =
    ["phy/", "mdio/", "bonding/", "wireless/", "ppp/", "net_failover.", "mii.", "dummy.", "tun.", "veth.", "macvlan."];

/// An initramfs that was read.
pub struct Archive {
    /// What `rootbeam inspect` says of it.
    pub report: Report,
    files: BTreeMap<String, Vec<u8>>,
}

impl Archive {
    /// Reads the bytes of an initramfs file.
    pub fn read(file: &[u8]) -> Result<Self, ArchiveError> {
        let archives = read(file)?;
        let mut files = BTreeMap::new();
        for (archive, entry) in archives.iter().flat_map(|a| a.entries.iter().map(move |e| (a, e))) {
            if entry.kind() == kind::FILE {
                files.insert(String::from_utf8_lossy(&entry.path).into_owned(), archive.data(entry).to_vec());
            }
        }
        Ok(Self { report: Report::of(file)?, files })
    }

    /// A file's content; of a path that no file has, nothing.
    pub fn file(&self, path: &str) -> &[u8] {
        self.files.get(path).map(Vec::as_slice).unwrap_or_default()
    }

    /// The files directly below a folder: name and content.
    pub fn folder<'a>(&'a self, folder: &str) -> impl Iterator<Item = (&'a str, &'a [u8])> {
        let prefix = format!("{folder}/");
        let below = move |(path, data): (&'a String, &'a Vec<u8>)| Some((path.strip_prefix(&prefix)?, data.as_slice()));
        self.files.iter().filter_map(below).filter(|(name, _)| !name.contains('/'))
    }

    /// How a boot from it reaches servers.
    pub fn access(&self, settings: &Settings) -> Access {
        Access::of(|path| self.files.get(path).cloned(), self.folder(contract::KEYS).next().is_some(), settings)
    }

    /// Bytes of RAM that the unpacked files take, in whole pages.
    pub fn unpacked(&self) -> u64 {
        self.files.values().map(|data| (data.len() as u64).next_multiple_of(4096)).sum()
    }

    fn index(&self, release: &str) -> ModuleIndex {
        let folder = modules_dir(release);
        let file = |name: &str| self.file(&format!("{folder}/{name}"));
        ModuleIndex::parse(Files {
            dep: file("modules.dep"),
            alias: file("modules.alias"),
            softdep: file("modules.softdep"),
            builtin: file("modules.builtin"),
            builtin_modinfo: file("modules.builtin.modinfo"),
        })
    }

    /// The first of these modules whose file is not there.
    fn lost<'a>(&self, release: &str, loads: &'a [Load]) -> Option<&'a Load> {
        let folder = modules_dir(release);
        loads.iter().find(|load| self.file(&format!("{folder}/{}", load.path)).is_empty())
    }

    fn is_rootbeams(&self) -> bool {
        !self.file(contract::INIT).is_empty() && !self.file(contract::BUILD_TIME).is_empty()
    }
}

/// Judges the archive, and which kernel is going to run: that of `kernel` where it is known, else the one that the
/// archive has modules for.
pub fn judge(archive: &Archive, kernel: Option<&str>) -> (Vec<Verdict>, Option<String>) {
    let mut verdicts = Vec::new();
    if !archive.is_rootbeams() {
        verdicts.push(ARCHIVE.failure("It has no init of rootbeam: make it with `rootbeam pack`."));
    }
    let packed = &archive.report.kernels;
    let release = match (kernel, packed.as_slice()) {
        (Some(kernel), []) => {
            verdicts.push(ARCHIVE.warning(format!(
                "It has no modules, so kernel {kernel} must have every driver and filesystem built in."
            )));
            Some(kernel.to_owned())
        }
        (Some(kernel), packed) if packed.iter().any(|release| release == kernel) => {
            verdicts.push(ARCHIVE.ok(format!("It was packed for kernel {kernel}, which is the one that boots.")));
            Some(kernel.to_owned())
        }
        (Some(kernel), packed) => {
            verdicts.push(ARCHIVE.failure(format!(
                "It has modules for kernel {}, and kernel {kernel} boots: pack it again with the modules of that kernel.",
                packed.join(", ")
            )));
            Some(kernel.to_owned())
        }
        (None, [only]) => {
            verdicts.push(ARCHIVE.ok(format!("It was packed for kernel {only}; with --kernel FILE that is compared.")));
            Some(only.clone())
        }
        (None, []) => {
            verdicts.push(ARCHIVE.warning("It has no modules, so the kernel must have every driver built in."));
            None
        }
        (None, several) => {
            verdicts.push(ARCHIVE.warning(format!(
                "It has modules for several kernels ({}); say which one boots by --kernel FILE.",
                several.join(", ")
            )));
            None
        }
    };
    (verdicts, release)
}

/// Judges whether the modules that a boot of these images asks for are there; where nothing is known of any, it is taken
/// for a squashfs.
pub fn drivers(archive: &Archive, release: &str, settings: &Settings, images: &[&Image]) -> Vec<Verdict> {
    if !archive.report.kernels.iter().any(|packed| packed == release) {
        // Said of the archive already.
        return Vec::new();
    }
    let index = archive.index(release);
    let policy = Policy::new(&settings.blacklist, &settings.module_parameters);
    let mut needs = vec!["loop"];
    let filesystems: BTreeSet<&str> = images.iter().map(|image| filesystem_name(image.superblock.filesystem)).collect();
    needs.extend(if filesystems.is_empty() { BTreeSet::from(["squashfs"]) } else { filesystems });
    needs.push("overlay");
    // DHCP speaks through packet sockets.
    if settings.ip.as_ref().is_none_or(|ip| ip.addressing == Addressing::Dhcp) {
        needs.push("af_packet");
    }
    let mut verdicts = Vec::new();
    let mut found = Vec::new();
    for need in needs {
        match plan(&index, &policy, &BTreeSet::new(), need) {
            Plan::Present => found.push(format!("{need} (built in)")),
            Plan::Load(loads) => match archive.lost(release, &loads) {
                Some(load) => verdicts.push(DRIVERS.failure(format!(
                    "{need} needs the module {}, whose file the archive does not have: pack it again.",
                    load.name
                ))),
                None => found.push(need.to_owned()),
            },
            Plan::Unknown => verdicts.push(DRIVERS.failure(format!(
                "The archive has no module {need}, and kernel {release} does not have it built in: take a kernel that \
                 has it, or its complete modules, and pack again."
            ))),
            Plan::Refused { module, .. } => verdicts.push(DRIVERS.failure(format!(
                "{need} is needed, and {module} is blacklisted on the command line: take it off the list."
            ))),
        }
    }
    if !found.is_empty() {
        verdicts.push(DRIVERS.ok(format!("It has {}.", found.join(", "))));
    }
    let mut seen = Vec::new();
    for image in images {
        let kind = (image.superblock.filesystem, image.superblock.compressor);
        if !seen.contains(&kind) {
            seen.push(kind);
            verdicts.extend(compressor(archive, &index, release, image));
        }
    }
    verdicts.push(cards(archive, &index, release, &policy));
    verdicts
}

/// Whether a boot finds what it streams by, as it would say it; none where nothing is known of this kernel's modules.
pub fn fuse(archive: &Archive, release: &str, settings: &Settings) -> Option<Result<(), Failure>> {
    archive.report.kernels.iter().find(|packed| *packed == release)?;
    let policy = Policy::new(&settings.blacklist, &settings.module_parameters);
    Some(match plan(&archive.index(release), &policy, &BTreeSet::new(), FILESYSTEM) {
        Plan::Present => Ok(()),
        Plan::Load(loads) if archive.lost(release, &loads).is_none() => Ok(()),
        Plan::Load(_) | Plan::Unknown => Err(without_filesystem(FILESYSTEM)),
        Plan::Refused { asked, module } => Err(refused(&asked, &module)),
    })
}

/// Whether squashfs was built with the image's decompressor. Each has a table of functions, a symbol of the module:
/// `squashfs_zstd_comp_ops` (fs/squashfs/decompressor.c).
fn compressor(archive: &Archive, index: &ModuleIndex, release: &str, image: &Image) -> Option<Verdict> {
    let Image { what, superblock: image, .. } = image;
    let name = compressor_name(image.compressor);
    let symbol = match image.compressor {
        Compressor::Gzip => "squashfs_zlib_comp_ops",
        Compressor::Lzo => "squashfs_lzo_comp_ops",
        Compressor::Xz => "squashfs_xz_comp_ops",
        Compressor::Lz4 => "squashfs_lz4_comp_ops",
        Compressor::Zstd => "squashfs_zstd_comp_ops",
        Compressor::Lzma if image.filesystem == FilesystemKind::Squashfs => {
            return Some(DRIVERS.failure(format!(
                "The {what} is compressed with lzma, which no kernel's squashfs reads: build it with another compressor."
            )));
        }
        Compressor::None | Compressor::Lzma | Compressor::Deflate => return None,
    };
    if image.filesystem != FilesystemKind::Squashfs {
        return None;
    }
    let module = archive.file(&format!("{}/{}", modules_dir(release), index.module("squashfs")?.path));
    let has = |symbol: &str| module.windows(symbol.len()).any(|window| window == symbol.as_bytes());
    if has(symbol) {
        Some(DRIVERS.ok(format!("Its squashfs reads {name}, as the {what} needs.")))
    } else if has("squashfs_decompressor") || has("_comp_ops") {
        Some(DRIVERS.failure(format!(
            "The {what} is compressed with {name}, which the squashfs of kernel {release} lacks: build it with \
             another compressor (`rootbeam image build --compress`)."
        )))
    } else {
        Some(DRIVERS.warning(format!("Nothing tells whether its squashfs reads {name}, as the {what} needs.")))
    }
}

/// Which network cards a machine may have.
fn cards(archive: &Archive, index: &ModuleIndex, release: &str, policy: &Policy) -> Verdict {
    const SHOWN: usize = 8;
    let is_card = |path: &str| {
        path.strip_prefix(NETWORK).is_some_and(|rest| !NO_CARDS.iter().any(|folder| rest.starts_with(folder)))
    };
    let folder = modules_dir(release);
    let is_foreign_card =
        |path: &str| !path.starts_with("kernel/") && drives_a_card(archive.file(&format!("{folder}/{path}")));
    let drives = |path: &str| is_card(path) || is_foreign_card(path);
    let modules = index.modules().filter(|(name, module)| drives(&module.path) && !policy.refuses(name));
    let modules: Vec<&str> = modules.map(|(name, _)| name).collect();
    let builtin = String::from_utf8_lossy(archive.file(&format!("{folder}/modules.builtin")));
    let builtin = builtin.lines().filter(|line| is_card(line)).count();
    match (modules.as_slice(), builtin) {
        ([], 0) => DRIVERS.warning(format!(
            "It has no driver of a network card, and kernel {release} lists none as built in: pack it with \
             `rootbeam pack --preset generic`, or name the driver by --include-module."
        )),
        ([], builtin) => DRIVERS.ok(format!("The kernel has {builtin} drivers of network cards built in.")),
        (modules, _) if modules.len() > SHOWN => {
            let some = modules.iter().take(SHOWN).copied().collect::<Vec<_>>().join(", ");
            DRIVERS.ok(format!("It has {} modules for network cards: {some}, ….", modules.len()))
        }
        (modules, _) => DRIVERS.ok(format!("Its network cards: {}.", modules.join(", "))),
    }
}

/// Whether a module drives a network card that a boot can use, told by the module itself: it serves devices and makes
/// interfaces, not wireless ones. What it calls of the kernel stands in its file by name.
fn drives_a_card(module: &[u8]) -> bool {
    let Ok(modinfo) = Modinfo::parse(module) else { return false };
    let serves_devices = modinfo.aliases.iter().any(|alias| alias.contains(':'));
    let wireless = modinfo.depends.iter().any(|name| matches!(name.as_str(), "cfg80211" | "mac80211"));
    let calls = |symbol: &str| module.windows(symbol.len()).any(|window| window == symbol.as_bytes());
    serves_devices && !wireless && (calls("register_netdev") || calls("usbnet_probe"))
}

/// The release in a Linux kernel for x86 (Documentation/arch/x86/boot.rst, `kernel_version`); none in other files.
pub fn kernel_release(bzimage: &[u8]) -> Option<String> {
    if bzimage.get(0x202..0x206)? != b"HdrS" {
        return None;
    }
    let offset = u16::from_le_bytes(bzimage.get(0x20e..0x210)?.try_into().ok()?);
    let text = bzimage.get(usize::from(offset) + 0x200..)?;
    let end = text.iter().take(256).position(|byte| matches!(byte, 0 | b' '))?;
    let release = std::str::from_utf8(text.get(..end)?).ok()?;
    (!release.is_empty()).then(|| release.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_release_stands_in_the_kernels_header() {
        let mut kernel = vec![0; 0x400];
        kernel[0x202..0x206].copy_from_slice(b"HdrS");
        kernel[0x20e..0x210].copy_from_slice(&0x100_u16.to_le_bytes());
        kernel[0x300..0x30f].copy_from_slice(b"6.1.0-9-amd64 (");
        assert_eq!(kernel_release(&kernel).as_deref(), Some("6.1.0-9-amd64"));
        kernel[0x20e..0x210].copy_from_slice(&u16::MAX.to_le_bytes());
        assert_eq!(kernel_release(&kernel), None);
        for bad in [b"".as_slice(), b"MZ", &[0; 0x210]] {
            assert_eq!(kernel_release(bad), None);
        }
    }
}
