//! What is read of a streamed root before it is entered. Neither the root switch nor the real init shall wait for the
//! network; nor shall a shutdown, which may come when the network is gone.

use crate::root::libraries::Links;
use crate::root::program::{Program, judge};
use crate::root::switch;
use crate::sys::machine::Kernel;
use crate::sys::tree::Root;
use std::collections::VecDeque;
use std::path::{Path, PathBuf};

/// The largest program that is read whole.
const LARGEST: u64 = 64 << 20;
/// More files than any real init needs.
const MOST: usize = 256;

/// What systemd runs and reads when it ends the system: its last stage, what its units are started by, and what the power
/// button and `systemctl` reach it through. Its own units are read only then.
const SYSTEMD: [&str; 18] = [
    "/lib/systemd/systemd-executor",
    "/lib/systemd/systemd-shutdown",
    "/lib/systemd/systemd-logind",
    "/usr/bin/dbus-daemon",
    "/bin/systemctl",
    "/bin/umount",
    "/bin/sh",
    "/lib/systemd/system/shutdown.target",
    "/lib/systemd/system/umount.target",
    "/lib/systemd/system/final.target",
    "/lib/systemd/system/poweroff.target",
    "/lib/systemd/system/reboot.target",
    "/lib/systemd/system/halt.target",
    "/lib/systemd/system/kexec.target",
    "/lib/systemd/system/systemd-poweroff.service",
    "/lib/systemd/system/systemd-reboot.service",
    "/lib/systemd/system/systemd-halt.service",
    "/lib/systemd/system/systemd-kexec.service",
];
/// What a sysvinit or a busybox runs.
const OTHERS: [&str; 12] = [
    "/etc/inittab",
    "/etc/init.d/rc",
    "/lib/init/rc",
    "/lib/lsb/init-functions",
    "/sbin/startpar",
    "/sbin/shutdown",
    "/sbin/killall5",
    "/sbin/halt",
    "/bin/sh",
    "/bin/mount",
    "/bin/umount",
    "/bin/sync",
];
/// Folders whose files these read.
const FOLDERS: [&str; 5] = ["/etc/rc0.d", "/etc/rc6.d", "/lib/init", "/lib/lsb/init-functions.d", "/etc/default"];

/// Whether the program at `init` is systemd.
pub fn is_systemd(root: &Root, init: &Path) -> bool {
    root.real_name(init).is_some_and(|name| name == "systemd")
}

/// Reads the root's mount points, the init with all that it runs by, and what ends the system.
pub fn warm(root: &Root, init: &Path, kernel: &Kernel) {
    for name in switch::COMPANIONS {
        let _ = root.look(Path::new(name));
    }
    let mut files = vec![init.to_owned()];
    if is_systemd(root, init) {
        files.extend(SYSTEMD.map(PathBuf::from));
    } else {
        files.extend(OTHERS.map(PathBuf::from));
        for folder in FOLDERS.map(Path::new) {
            files.extend(root.names(folder).unwrap_or_default().iter().map(|name| folder.join(name)));
        }
    }
    read_with_needs(root, files, kernel);
}

/// Reads files, and what those that are programs need: interpreters, the dynamic loader, libraries.
fn read_with_needs(root: &Root, files: Vec<PathBuf>, kernel: &Kernel) {
    let mut to_read = VecDeque::from(files);
    let mut seen: Vec<PathBuf> = Vec::new();
    while let Some(path) = to_read.pop_front() {
        if seen.contains(&path) || seen.len() >= MOST {
            continue;
        }
        seen.push(path.clone());
        // What is not there, or cannot be read, is found to be so by whoever wants it.
        let Ok(Some(look)) = root.look(&path) else { continue };
        let Ok(Some(content)) = root.read(&path, LARGEST) else { continue };
        if let Ok(Program::Interpreted(interpreter)) = judge(&look, &kernel.machine) {
            to_read.push_back(interpreter.into());
        }
        let Some(links) = Links::parse(&content, &path) else { continue };
        for library in &links.libraries {
            let there = |path: &PathBuf| root.look(path).ok().flatten().is_some_and(|file| file.regular);
            to_read.extend(links.candidates(library, &kernel.machine).into_iter().find(there));
        }
    }
    log::debug!("read before the hand-over: {} files", seen.len());
}
