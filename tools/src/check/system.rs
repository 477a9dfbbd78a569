//! What is in the image: does it start, and does it stand in its own way?

use super::verdict::{About, Verdict};
use super::{init, streaming};
use crate::image::build::remarks::{Resolver, is_host_key, is_set};
use rootbeam_init::settings::Settings;
use rootbeam_init::settings::values::Mode;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

const SYSTEM: About = About::System;
/// As path resolution of the kernel has it (path_resolution(7)).
const MAX_LINKS: usize = 40;

/// An entry of the image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A regular file and its permission bits.
    File(u16),
    /// A folder.
    Folder,
    /// A symbolic link and its target.
    Link(String),
    /// A character device of number 0: in a layer it takes away what is below it.
    Whiteout,
    /// Another device, a pipe, a socket.
    Other,
}

/// The files of an image, by path from the root without a leading slash.
#[derive(Clone, Debug, Default)]
pub struct Tree {
    /// Every entry.
    pub entries: BTreeMap<String, Entry>,
    /// Content of the files that are [`judged`], and the start of the init's.
    pub texts: BTreeMap<String, Vec<u8>>,
}

/// Files whose content is judged, whatever the settings.
const READ: [&str; 6] = [
    "etc/machine-id",
    "var/lib/dbus/machine-id",
    "etc/resolv.conf",
    "etc/nftables.conf",
    "etc/iptables/rules.v4",
    "etc/fstab",
];

/// All files whose content is judged.
pub fn judged(tree: &Tree, settings: &Settings) -> BTreeSet<String> {
    let scripts = if settings.mode == Mode::Ram { BTreeSet::new() } else { streaming::scripts(tree, settings) };
    READ.iter().filter_map(|path| tree.resolve(path)).map(|(path, _)| path).chain(scripts).collect()
}

impl Tree {
    /// The path and the entry that `path` leads to, links followed.
    pub fn resolve(&self, path: &str) -> Option<(String, &Entry)> {
        let mut rest: Vec<String> = path.rsplit('/').map(str::to_owned).collect();
        let mut here: Vec<String> = Vec::new();
        let mut links = 0;
        while let Some(part) = rest.pop() {
            match part.as_str() {
                "" | "." => continue,
                ".." => {
                    here.pop();
                    continue;
                }
                _ => here.push(part),
            }
            if let Entry::Link(target) = self.entries.get(&here.join("/"))? {
                links += 1;
                if links > MAX_LINKS {
                    return None;
                }
                here.pop();
                if target.starts_with('/') {
                    here.clear();
                }
                rest.extend(target.rsplit('/').map(str::to_owned));
            }
        }
        let path = here.join("/");
        self.entries.get(&path).map(|entry| (path, entry))
    }

    fn has(&self, path: &str) -> bool {
        self.entries.contains_key(path)
    }

    /// The content of the file that `path` leads to; nothing where it was not read.
    pub fn text(&self, path: &str) -> String {
        let place = self.resolve(path).map(|(place, _)| place).unwrap_or_default();
        self.texts.get(&place).map(|text| String::from_utf8_lossy(text).into_owned()).unwrap_or_default()
    }

    /// The tree under a layer (Documentation/filesystems/overlayfs.rst). That a folder of the layer hides the one below
    /// is written in an attribute, which no listing tells.
    pub fn under(mut self, layer: Self) -> Self {
        for (path, entry) in layer.entries {
            let below = self.entries.get(&path).cloned();
            if below == Some(Entry::Folder) && entry != Entry::Folder {
                let prefix = format!("{path}/");
                self.entries.retain(|path, _| !path.starts_with(&prefix));
                self.texts.retain(|path, _| !path.starts_with(&prefix));
            }
            self.texts.remove(&path);
            match entry {
                Entry::Whiteout => self.entries.remove(&path),
                entry => self.entries.insert(path, entry),
            };
        }
        self.texts.extend(layer.texts);
        self
    }

    /// The firewalls that are up at boot: the file of their rules, and what is in it.
    pub fn firewalls(&self) -> Vec<(&'static str, String)> {
        let units = [
            ("nftables.service", "etc/nftables.conf"),
            ("netfilter-persistent.service", "etc/iptables/rules.v4"),
            ("iptables.service", "etc/iptables/rules.v4"),
        ];
        let mut files: Vec<_> = units.iter().filter(|(unit, _)| self.is_enabled(unit)).map(|(_, file)| *file).collect();
        files.dedup();
        files.into_iter().map(|file| (file, self.text(file))).collect()
    }

    /// Whether systemd starts the unit at boot.
    fn is_enabled(&self, unit: &str) -> bool {
        let wanted = format!(".wants/{unit}");
        self.entries.keys().any(|path| path.starts_with("etc/systemd/system/") && path.ends_with(&wanted))
    }
}

/// Judges a tree; `release` is the kernel that boots, and `machine` what it runs on, where they are known.
pub fn judge(tree: &Tree, settings: &Settings, release: Option<&str>, machine: Option<&str>) -> Vec<Verdict> {
    let mut verdicts = vec![init::judge(tree, settings, machine)];
    verdicts.extend(release.and_then(|release| modules(tree, release)));
    let before = verdicts.len();
    verdicts.extend(identity(tree));
    verdicts.extend(firewall(tree));
    verdicts.extend(streaming::survival(tree, settings));
    verdicts.extend(disks(tree));
    if verdicts.len() == before {
        verdicts
            .push(SYSTEM.ok("Nothing in it stands in its own way: no baked identity, no disk, no closed firewall."));
    }
    verdicts
}

fn modules(tree: &Tree, release: &str) -> Option<Verdict> {
    let there = ["lib/modules", "usr/lib/modules"].iter().any(|folder| tree.has(&format!("{folder}/{release}")));
    (!there).then(|| {
        SYSTEM.warning(format!(
            "It has no modules of kernel {release}, so the booted system can load no driver: install that kernel's \
             modules in the image."
        ))
    })
}

fn identity(tree: &Tree) -> Vec<Verdict> {
    let mut verdicts = Vec::new();
    if let Some(key) = tree.entries.keys().find(|path| is_host_key(Path::new(path))) {
        verdicts.push(SYSTEM.warning(format!(
            "All machines will share the SSH host key /{key}, and whoever can fetch the image has it: remove the keys and \
             let the machine make its own."
        )));
    }
    for id in ["etc/machine-id", "var/lib/dbus/machine-id"] {
        if is_set(tree.text(id).as_bytes()) {
            verdicts.push(SYSTEM.warning(format!("All machines will share the identity in /{id}: empty the file.")));
        }
    }
    // A link belongs to a resolver service.
    if let Some(Entry::File(_)) = tree.entries.get("etc/resolv.conf") {
        verdicts.extend(Resolver::of(tree.text("etc/resolv.conf").as_bytes()).map(|baked| match baked {
            Resolver::Own => SYSTEM.warning(format!("{baked}.")),
            Resolver::Others(_) => SYSTEM.ok(format!("{baked}.")),
        }));
    }
    for seed in ["var/lib/systemd/random-seed", "var/lib/urandom/random-seed"] {
        if tree.has(seed) {
            verdicts.push(SYSTEM.warning(format!("All machines will share the random seed /{seed}: remove it.")));
        }
    }
    verdicts
}

/// A firewall that is up before the system has asked for anything, and lets no answer in.
fn firewall(tree: &Tree) -> Vec<Verdict> {
    let closed = |(file, text): (&str, String)| {
        let drops = match file {
            "etc/nftables.conf" => {
                text.split('}').any(|chain| chain.contains("hook input") && chain.contains("policy drop"))
            }
            _ => text.lines().any(|line| line.starts_with(":INPUT DROP")),
        };
        // Answers come in where connections that were opened from here are let through.
        let answers = text.lines().any(|line| {
            let line = line.to_ascii_lowercase();
            !line.trim_start().starts_with('#') && line.contains("established") && line.contains("accept")
        });
        (drops && !answers).then(|| {
            SYSTEM.warning(format!(
                "The firewall in /{file} is enabled and drops what comes in, answers included, so the machine is cut off: \
                 accept established connections."
            ))
        })
    };
    tree.firewalls().into_iter().filter_map(closed).collect()
}

/// Disks that the machine does not have: systemd waits 90 s for each that is not `nofail` (systemd.mount(5)).
fn disks(tree: &Tree) -> Vec<Verdict> {
    let text = tree.text("etc/fstab");
    let lines = text.lines().map(|line| line.split_ascii_whitespace().collect::<Vec<_>>());
    let waits = |fields: &Vec<&str>| match fields.as_slice() {
        [device, point, _, options @ ..] => {
            let disk = ["UUID=", "LABEL=", "PARTUUID=", "PARTLABEL=", "/dev/"].iter().any(|d| device.starts_with(d));
            let options = options.first().copied().unwrap_or_default();
            disk && *point != "/" && !options.split(',').any(|option| matches!(option, "nofail" | "noauto"))
        }
        _ => false,
    };
    lines
        .filter(waits)
        .map(|fields| {
            let device: String = fields.first().map(|device| device.chars().take(80).collect()).unwrap_or_default();
            SYSTEM.warning(format!(
                "/etc/fstab names the disk {device}, for which a machine without it waits: take the line out, or add nofail."
            ))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::verdict::Level;
    use super::*;

    fn tree(files: &[(&str, &str)]) -> Tree {
        let mut tree = Tree::default();
        for (path, text) in files {
            for (at, _) in path.match_indices('/') {
                tree.entries.insert(path[..at].to_owned(), Entry::Folder);
            }
            tree.entries.insert((*path).to_owned(), Entry::File(0o755));
            tree.texts.insert((*path).to_owned(), text.as_bytes().to_vec());
        }
        tree
    }

    fn texts(files: &[(&str, &str)]) -> Vec<String> {
        let tree = tree(files);
        judge(&tree, &Settings::default(), None, None).into_iter().map(|v| format!("{} {}", v.level, v.text)).collect()
    }

    /// As much of a program as is looked at.
    const PROGRAM: &str = "\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0>\0\0\0\0\0\0\0\0\0\0\0\0\0\
                           @\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\08\0\0\0";
    const INIT: (&str, &str) = ("sbin/init", PROGRAM);

    #[test]
    fn a_clean_image_has_nothing_against_itself() {
        let found = texts(&[INIT, ("etc/machine-id", ""), ("etc/fstab", "# none\nproc /proc proc defaults\n")]);
        assert_eq!(found.len(), 2);
        assert!(found.iter().all(|text| text.starts_with("ok ")), "{found:?}");
    }

    #[test]
    fn a_layer_replaces_adds_and_takes_away() {
        let set = "0123456789abcdef0123456789abcdef\n";
        let image = tree(&[("etc/machine-id", set), ("opt/a/b", ""), ("opt/a/c", ""), ("srv", "")]);
        let mut layer = tree(&[INIT, ("etc/machine-id", ""), ("opt/d", "")]);
        layer.entries.insert("opt/a".into(), Entry::Whiteout);
        layer.entries.insert("nothing".into(), Entry::Whiteout);
        let root = image.under(layer);
        let paths: Vec<&str> = root.entries.keys().map(String::as_str).collect();
        assert_eq!(paths, ["etc", "etc/machine-id", "opt", "opt/d", "sbin", "sbin/init", "srv"]);
        assert!(judge(&root, &Settings::default(), None, None).iter().all(|verdict| verdict.level == Level::Ok));
        let over = tree(&[("etc/machine-id", "")]).under(tree(&[("etc/machine-id", set)]));
        assert_eq!(over.text("etc/machine-id"), set);
    }

    #[test]
    fn warns_of_what_makes_clones_of_machines() {
        let found = texts(&[
            INIT,
            ("etc/ssh/ssh_host_rsa_key", ""),
            ("etc/machine-id", "0123456789abcdef0123456789abcdef\n"),
            ("var/lib/systemd/random-seed", "x"),
        ]);
        assert_eq!(found.iter().filter(|text| text.starts_with("warning ")).count(), 3, "{found:?}");
    }

    #[test]
    fn a_baked_resolv_conf_is_told_and_warned_of_where_it_is_the_building_machines() {
        let told = |text| texts(&[INIT, ("etc/resolv.conf", text)])[1..].join("\n");
        let own = told("nameserver 127.0.0.53\n");
        assert!(
            own.starts_with("warning /etc/resolv.conf is not empty, so it is kept, and it names no server"),
            "{own}"
        );
        let others = told("nameserver 10.0.0.1\n");
        assert!(others.starts_with("ok /etc/resolv.conf is not empty") && others.contains("ask 10.0.0.1 "), "{others}");
        assert_eq!((told("").contains("resolv"), others.lines().count()), (false, 1));
        let mut linked = tree(&[INIT, ("run/stub", "nameserver 127.0.0.53\n")]);
        linked.entries.insert("etc/resolv.conf".into(), Entry::Link("/run/stub".into()));
        assert!(identity(&linked).is_empty());
    }

    #[test]
    fn warns_of_a_firewall_only_where_it_is_enabled_and_closed() {
        let closed = "table inet filter {\n chain input {\n  type filter hook input priority 0; policy drop;\n }\n}\n";
        let open = closed.replace("policy drop;", "policy drop; ct state established,related accept");
        let forward = closed.replace("hook input", "hook forward");
        let enabled = ("etc/systemd/system/sysinit.target.wants/nftables.service", "");
        let warned =
            |files: &[(&str, &str)]| texts(files).iter().any(|text| text.contains("firewall in /etc/nftables.conf is"));
        assert!(warned(&[INIT, ("etc/nftables.conf", closed), enabled]));
        assert!(!warned(&[INIT, ("etc/nftables.conf", closed)]));
        assert!(!warned(&[INIT, ("etc/nftables.conf", &open), enabled]));
        assert!(!warned(&[INIT, ("etc/nftables.conf", &forward), enabled]));
        let rules = ("etc/iptables/rules.v4", "*filter\n:INPUT DROP [0:0]\n");
        let unit = ("etc/systemd/system/multi-user.target.wants/netfilter-persistent.service", "");
        assert!(texts(&[INIT, rules, unit]).iter().any(|text| text.contains("/etc/iptables/rules.v4 is enabled")));
    }

    #[test]
    fn warns_of_disks_that_a_boot_waits_for() {
        let fstab = "UUID=1 / ext4 defaults 0 1\nUUID=2 /home ext4 defaults 0 2\n/dev/sdb1 /data xfs nofail\n";
        let found = texts(&[INIT, ("etc/fstab", fstab)]);
        assert_eq!(found.iter().filter(|text| text.contains("names the disk UUID=2,")).count(), 1, "{found:?}");
    }
}
