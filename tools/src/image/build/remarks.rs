//! What should not be in an image that many machines boot.

use super::inventory::{Content, Entry, Inventory};
use super::{Source, list};
use crate::term::Term;
use anyhow::{Context, Result};
use rootbeam_init::label::printable;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::net::IpAddr;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Warns of what makes machines of one image share a secret or an identity, or keeps them to what another one has.
pub(super) fn warn(inventory: &Inventory, source: &Source, term: &Term) -> Result<()> {
    let keys: Vec<&Path> =
        inventory.entries.keys().map(|path| path.as_path()).filter(|path| is_host_key(path)).collect();
    if !keys.is_empty() {
        term.warn(format_args!(
            "all machines will share these SSH host keys, and whoever can fetch the image has them: {}. \
             Remove them and let the machine make its own",
            list(&keys)
        ));
    }
    for seed in ["var/lib/systemd/random-seed", "var/lib/urandom/random-seed"] {
        if inventory.entries.contains_key(Path::new(seed)) {
            term.warn(format_args!("all machines will share the random seed /{seed}: remove it"));
        }
    }
    for id in ["etc/machine-id", "var/lib/dbus/machine-id"] {
        if let Some(entry) = inventory.entries.get(Path::new(id))
            && is_set(&start_of(source, inventory, Path::new(id), entry)?)
        {
            term.warn(format_args!("all machines will share the identity in /{id}: empty the file"));
        }
    }
    if !inventory.entries.contains_key(Path::new("etc/machine-id")) {
        term.note("/etc/machine-id is missing, so no identity is given at boot; with an empty file one is");
    }
    let resolv_conf = Path::new("etc/resolv.conf");
    if let Some(entry) = inventory.entries.get(resolv_conf) {
        match Resolver::of(&start_of(source, inventory, resolv_conf, entry)?) {
            Some(baked @ Resolver::Own) => term.warn(baked),
            Some(baked) => term.note(baked),
            None => {}
        }
    }
    if !inventory.acls.is_empty() {
        let files: Vec<&Path> = inventory.acls.iter().map(|path| path.as_path()).collect();
        term.warn(format_args!("squashfs cannot hold the ACLs of {}", list(&files)));
    }
    Ok(())
}

/// Whether a path, from the root without a leading slash, is that of a secret SSH host key.
pub(crate) fn is_host_key(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    path.parent() == Some(Path::new("etc/ssh")) && name.starts_with("ssh_host_") && name.ends_with("_key")
}

/// Whether a machine-id says who the machine is: an empty one, and systemd's word for one, do not.
pub(crate) fn is_set(contents: &[u8]) -> bool {
    !matches!(contents.trim_ascii(), b"" | b"uninitialized")
}

/// What a resolv.conf(5) that is a file with content keeps all machines to, whatever their leases say.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Resolver {
    /// A name server on the machine itself.
    Own,
    /// Name servers elsewhere.
    Others(Vec<String>),
}

impl Resolver {
    /// None of an empty file: the boot fills that. Where no name server is given, the machine's own is asked.
    pub(crate) fn of(contents: &[u8]) -> Option<Self> {
        let text = String::from_utf8_lossy(contents);
        let words = text.lines().filter_map(|line| line.split_once([' ', '\t']));
        let values = words.filter(|(key, _)| *key == "nameserver");
        let servers = values.filter_map(|(_, rest)| rest.split_ascii_whitespace().next());
        let is_own = |server: &&str| server.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
        let others: Vec<String> =
            servers.filter(|server| !is_own(server)).map(|server| printable(server, 60)).collect();
        match (contents, others.is_empty()) {
            ([], _) => None,
            (_, true) => Some(Self::Own),
            (_, false) => Some(Self::Others(others)),
        }
    }
}

impl fmt::Display for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Own => f.write_str(
                "/etc/resolv.conf is not empty, so it is kept, and it names no server but the machine's own, which it \
                 must run to find a name: empty the file, and the boot writes the name servers of the lease into it",
            ),
            Self::Others(servers) => write!(
                f,
                "/etc/resolv.conf is not empty, so it is kept, and all machines will ask {} for names: empty the file \
                 where the name servers of the lease are meant",
                servers.join(" and ")
            ),
        }
    }
}

/// The first bytes of a regular file; nothing of anything else.
fn start_of(source: &Source, inventory: &Inventory, path: &Path, entry: &Entry) -> Result<Vec<u8>> {
    let (place, entry) = inventory.target(path).unwrap_or((path, entry));
    let Content::File { size, at } = entry.content else { return Ok(Vec::new()) };
    let wanted = size.min(4096);
    let mut bytes = Vec::new();
    let read = match source {
        Source::Folder(root) => {
            File::open(root.join(place)).and_then(|file| file.take(wanted).read_to_end(&mut bytes)).map(drop)
        }
        Source::Tar(tar) => {
            bytes.resize(wanted as usize, 0);
            tar.file.read_exact_at(&mut bytes, at.unwrap_or(0))
        }
    };
    read.with_context(|| format!("cannot read /{}", path.display()))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_what_is_a_secret() {
        assert!(is_host_key(Path::new("etc/ssh/ssh_host_ed25519_key")));
        assert!(!is_host_key(Path::new("etc/ssh/ssh_host_ed25519_key.pub")));
        assert!(!is_host_key(Path::new("usr/etc/ssh/ssh_host_ed25519_key")));
        assert!(is_set(b"0123456789abcdef0123456789abcdef\n"));
        assert!(!is_set(b"\n"));
        assert!(!is_set(b"uninitialized\n"));
    }

    #[test]
    fn a_resolv_conf_keeps_machines_to_its_servers_unless_it_is_empty() {
        let others = |servers: &[&str]| Some(Resolver::Others(servers.iter().map(|s| (*s).to_owned()).collect()));
        for (text, expected) in [
            ("", None),
            ("\n", Some(Resolver::Own)),
            ("# stub\nnameserver 127.0.0.53\noptions edns0\n", Some(Resolver::Own)),
            ("nameserver ::1", Some(Resolver::Own)),
            (
                "search lab\nnameserver 127.0.0.1\nnameserver\t10.0.0.1 # a\nnameserver   fd00::1\n",
                others(&["10.0.0.1", "fd00::1"]),
            ),
            ("nameserver fe80::1%eth0\n", others(&["fe80::1%eth0"])),
            ("nameserver \u{1b}[2J", others(&["\\u{1b}[2J"])),
        ] {
            assert_eq!(Resolver::of(text.as_bytes()), expected, "{text:?}");
        }
    }
}
