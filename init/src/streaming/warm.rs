//! What is read of a streamed root before it is entered. Neither the root switch nor the real init shall wait for the
//! network; nor shall a shutdown, which may come when the network is gone.

use crate::root::libraries::Links;
use crate::root::program::{Program, judge};
use crate::root::switch;
use crate::sys::machine::Kernel;
use crate::sys::tree::Root;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// The largest program that is read whole.
const LARGEST: u64 = 64 << 20;
/// More files than any real init needs.
const MOST: usize = 256;
/// Pieces that are read at once, each by a thread: what is waited for one after the other takes a way to the server and
/// back each.
const AT_ONCE: usize = 8;
/// Bytes of such a piece, a few of a squashfs's largest blocks.
const PIECE: u64 = 2 << 20;
/// Bytes of one read.
const READ: usize = 128 << 10;

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
/// Without these drivers nobody hears the power button; udev loads them as two of many.
const BUTTON: [&str; 2] = ["kernel/drivers/acpi/button.ko", "kernel/drivers/input/evdev.ko"];
const COMPRESSED: [&str; 4] = ["", ".xz", ".zst", ".gz"];
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
    let modules = Path::new("/lib/modules").join(&kernel.release);
    for module in BUTTON {
        files.extend(COMPRESSED.map(|end| modules.join(format!("{module}{end}"))));
    }
    read_with_needs(root, files, kernel);
}

/// Reads files, and what those that are programs need: interpreters, the dynamic loader, libraries.
fn read_with_needs(root: &Root, files: Vec<PathBuf>, kernel: &Kernel) {
    let mut seen: Vec<PathBuf> = Vec::new();
    let mut next = files;
    while !next.is_empty() {
        let known = seen.len();
        for path in next {
            if !seen.contains(&path) && seen.len() < MOST {
                seen.push(path);
            }
        }
        let new = seen.get(known..).unwrap_or_default();
        fetch(root, new);
        next = new.iter().flat_map(|path| needs(root, path, kernel)).collect();
    }
    log::debug!("read before the hand-over: {} files", seen.len());
}

/// What a program needs to run; nothing where it is none. What is not there, or cannot be read, is found to be so by
/// whoever wants it.
fn needs(root: &Root, path: &Path, kernel: &Kernel) -> Vec<PathBuf> {
    let mut needs = Vec::new();
    let Ok(Some(look)) = root.look(path) else { return needs };
    let Ok(Some(content)) = root.read(path, LARGEST) else { return needs };
    if let Ok(Program::Interpreted(interpreter)) = judge(&look, &kernel.machine) {
        needs.push(interpreter.into());
    }
    if let Some(links) = Links::parse(&content, path) {
        let there = |path: &PathBuf| root.open_file(path).is_ok_and(|file| file.is_some());
        let found = |library| links.candidates(library, &kernel.machine).into_iter().find(there);
        needs.extend(links.libraries.iter().filter_map(|library| found(library)));
    }
    needs
}

/// Has the kernel read the files, many pieces at once.
fn fetch(root: &Root, files: &[PathBuf]) {
    let opened: Vec<(File, u64)> = files.iter().filter_map(|path| root.open_file(path).ok()?).collect();
    let pieces: Vec<(&File, u64)> = opened
        .iter()
        .flat_map(|(file, size)| (0..(*size).min(LARGEST)).step_by(PIECE as usize).map(move |start| (file, start)))
        .collect();
    let next = AtomicUsize::new(0);
    let work = || {
        let mut buffer = vec![0; READ];
        while let Some((file, start)) = pieces.get(next.fetch_add(1, Ordering::Relaxed)) {
            let read = |at: &u64| file.read_at(&mut buffer, *at).is_ok_and(|count| count > 0);
            let _ = (*start..start + PIECE).step_by(READ).take_while(read).count();
        }
    };
    thread::scope(|scope| {
        for _ in 1..AT_ONCE.min(pieces.len()) {
            // With fewer it takes longer.
            let _ = thread::Builder::new().spawn_scoped(scope, work);
        }
        work();
    });
}
