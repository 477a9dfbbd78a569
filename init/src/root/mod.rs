//! The new root: found fit, dressed for this machine, entered.

pub mod libraries;
pub mod program;
pub mod switch;

use crate::failure::{Failure, Step};
use crate::identity::{self, Origin};
use crate::image::SYSROOT;
use crate::label::printable;
use crate::messages::Lease;
use crate::network;
use crate::settings::Settings;
use crate::sys::machine::Kernel;
use crate::sys::tree::Root;
use crate::sys::{console, machine};
use program::{follow, judge};
use std::path::{Path, PathBuf};
use switch::RootKind;

/// Where the kernel itself looks for an init (init/main.c).
pub const CANDIDATES: [&str; 4] = ["/sbin/init", "/etc/init", "/bin/init", "/bin/sh"];

/// Finds the program that becomes PID 1.
pub fn find_init(root: &Root, settings: &Settings, kernel: &Kernel) -> Result<PathBuf, Failure> {
    let asked = settings.init.clone().map(|path| vec![path]);
    let candidates = asked.unwrap_or_else(|| CANDIDATES.iter().map(PathBuf::from).collect());
    let mut reasons = Vec::new();
    for path in &candidates {
        let judged = |path: &Path| root.look(path).ok().flatten().map(|look| judge(&look, &kernel.machine));
        let why = match follow(path, judged) {
            Ok(true) => return Ok(path.clone()),
            Ok(false) => "is not there".to_owned(),
            Err(unfit) => unfit.to_string(),
        };
        reasons.push(match settings.init {
            // The object of the failure is the path already.
            Some(_) => format!("it {why}"),
            None => format!("{} {why}", shown(path)),
        });
    }
    let (object, remedy) = match &settings.init {
        Some(path) => (shown(path), "correct init= on the kernel command line, or the image"),
        None => ("image without an init".to_owned(), "put an init into the image (/sbin/init), or name it with init="),
    };
    Err(Failure::new(Step::Init, object, reasons.join("; "), remedy))
}

fn shown(path: &Path) -> String {
    printable(&path.to_string_lossy(), 120)
}

/// The warning that the image has no modules for the running kernel. One without any may be made for a kernel that has
/// all it needs built in; `loadable` says that this one has not.
pub fn check_modules(root: &Root, kernel: &Kernel, loadable: bool) -> Option<String> {
    let folder = Path::new("/lib/modules");
    let releases = root.names(folder).unwrap_or_default();
    if releases.contains(&kernel.release) || (releases.is_empty() && !loadable) {
        return None;
    }
    let running = &kernel.release;
    if releases.is_empty() {
        return Some(format!(
            "the image has no modules, and kernel {running} is running, which needs them: drivers that are not loaded \
             yet will be missing; put the modules of kernel {running} into the image"
        ));
    }
    let found: Vec<String> = releases.iter().map(|name| printable(name, 80)).collect();
    Some(format!(
        "the image has modules for kernel {}, and kernel {running} is running: drivers that are not loaded yet will be \
         missing; boot the image's own kernel",
        found.join(", ")
    ))
}

/// What of this machine goes into the new root, each only where the image left room for it. Failures are warnings:
/// a system without them still comes up.
pub fn dress(root: &Root, lease: &Lease, product_uuid: &str) {
    let machine_id = Path::new("/etc/machine-id");
    if root.look(machine_id).ok().flatten().is_some_and(|file| file.regular && identity::is_open(&file.head)) {
        let origin = Origin::choose(product_uuid, lease.mac);
        match root.write(machine_id, identity::machine_id(&origin).as_bytes(), false) {
            Ok(()) => log::info!("machine id: derived from {origin}"),
            Err(e) => log::warn!("machine id: {e}"),
        }
    }
    let resolv_conf = Path::new("/etc/resolv.conf");
    match root.look_at_link(resolv_conf) {
        _ if lease.dns.is_empty() => {}
        // A link there belongs to a resolver service that will fill its target itself.
        Ok(Some(file)) if !file.regular => {}
        Ok(Some(file)) if file.size > 0 => {
            log::info!("name servers: the image's own /etc/resolv.conf is kept, since it is not empty");
        }
        Ok(_) => {
            let text = network::resolv_conf(lease.domain.as_ref(), &lease.dns);
            if let Err(e) = root.write(resolv_conf, text.as_bytes(), true) {
                log::warn!("/etc/resolv.conf of the image: {e}");
            }
        }
        Err(e) => log::warn!("/etc/resolv.conf of the image: {e}"),
    }
    if let Some(name) = &lease.hostname
        && let Err(e) = machine::set_hostname(name.as_str())
    {
        log::warn!("host name {name}: {e}");
    }
}

/// Bytes of memory that [`enter`] will set free.
pub fn given_back() -> u64 {
    Root::open(Path::new("/")).map_or(0, |initramfs| initramfs.memory_of_content())
}

/// Switches into [`SYSROOT`] and deletes the initramfs's files; returns how many entries went.
pub fn enter() -> Result<u64, Failure> {
    let failed =
        |e: std::io::Error| Failure::new(Step::Switch, "/", e.to_string(), "report this as a bug, with the log");
    let old = Root::open(Path::new("/")).map_err(failed)?;
    let kind = RootKind::parse(&std::fs::read("/proc/self/mountinfo").map_err(failed)?);
    switch::plan(kind).iter().try_for_each(switch::carry_out)?;
    // The descriptors that the kernel gave are of the initramfs's own /dev/console.
    if let Err(e) = console::take_standard_descriptors() {
        log::warn!("/dev/console of the new root: {e}");
    }
    Ok(old.delete_content())
}

/// The new root before it is entered.
pub fn open() -> Result<Root, Failure> {
    Root::open(Path::new(SYSROOT))
        .map_err(|e| Failure::new(Step::Mount, SYSROOT, e.to_string(), "report this as a bug, with the log"))
}
