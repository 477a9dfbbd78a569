//! Kernel modules: which, in what order, for which device.
//!
//! `index` reads what modules there are, `plan` decides on a request, [`Modules`] carries the plan out.

pub mod devices;
pub mod index;
pub mod names;
pub mod plan;
pub mod policy;
pub mod request;
pub mod uevent;
mod watch;

use devices::Devices;
pub use index::ModuleIndex;
pub use plan::{Load, Plan, Why};
pub use policy::Policy;
pub use request::request;
pub use uevent::Uevent;

use crate::contract::modules_dir;
use crate::failure::{Failure, Step};
use crate::label::printable;
use crate::policy::Action;
use crate::sys::module::{Inserted, insert};
use std::collections::BTreeSet;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use watch::Watch;

/// The most aliases of devices that are remembered as seen.
const MAX_SEEN: usize = 65_536;
/// How often devices are looked at anew because a driver was loaded: a bus behind a bus behind a bus.
const MAX_ROUNDS: usize = 8;

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// These modules were loaded, in this order.
    Loaded(Vec<String>),
    /// The kernel has it: built in, or loaded before.
    Present,
    /// No module and no alias of this archive. A kernel with all drivers built in answers so too.
    Unknown,
}

/// What looking at all devices brought.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Modules that were loaded, in order.
    pub loaded: Vec<String>,
    /// Different aliases of devices that were seen for the first time.
    pub devices: usize,
    /// Requests that failed, and why.
    pub failures: Vec<Failure>,
}

/// Kernel and initramfs were taken from different builds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mismatch<'a> {
    /// The kernel releases that the archive has modules for.
    pub packed: &'a [String],
    /// The release of the running kernel.
    pub running: &'a str,
}

impl Mismatch<'_> {
    /// What to do about it.
    pub const REMEDY: &'static str = "pack it again with the modules of that kernel";
}

impl fmt::Display for Mismatch<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { packed, running } = self;
        write!(f, "this initramfs has modules for kernel {}, and kernel {running} is running", packed.join(", "))
    }
}

/// The modules of the running kernel.
#[derive(Debug)]
pub struct Modules {
    root: PathBuf,
    folder: PathBuf,
    release: String,
    others: Vec<String>,
    index: ModuleIndex,
    policy: Policy,
    seen: BTreeSet<String>,
    /// What follows where a driver's probe never ends; none where nobody looks at that.
    stuck: Option<Action>,
    watch: Option<Watch>,
}

impl Modules {
    /// Reads the index of `release` below `root` (`/`). Where the archive has no modules at all the index is empty:
    /// such kernels have all drivers built in.
    pub fn open(root: &Path, release: &str, policy: Policy) -> Result<Self, Failure> {
        let folder = root.join(modules_dir(release));
        let read = |name: &str| read_bounded(&folder.join(name));
        let (dep, alias, softdep) = (read("modules.dep")?, read("modules.alias")?, read("modules.softdep")?);
        let (builtin, builtin_modinfo) = (read("modules.builtin")?, read("modules.builtin.modinfo")?);
        let index = ModuleIndex::parse(index::Files {
            dep: &dep,
            alias: &alias,
            softdep: &softdep,
            builtin: &builtin,
            builtin_modinfo: &builtin_modinfo,
        });
        let others = other_releases(root, release);
        let (root, release) = (root.to_owned(), release.to_owned());
        Ok(Self { root, folder, release, others, index, policy, seen: BTreeSet::new(), stuck: None, watch: None })
    }

    /// From now on, while drivers are loaded, another process sees to it that one whose probe hangs is named, and that `stuck`
    /// follows where it never ends. This process must be single-threaded.
    pub fn watched(self, stuck: Action) -> Self {
        Self { stuck: Some(stuck), ..self }
    }

    /// That the archive has modules, and none for the running kernel.
    pub fn mismatch(&self) -> Option<Mismatch<'_>> {
        let mismatch = Mismatch { packed: &self.others, running: &self.release };
        (self.index.is_empty() && !self.others.is_empty()).then_some(mismatch)
    }

    /// Whether the running kernel has drivers as modules, as far as the archive tells.
    pub fn are_loadable(&self) -> bool {
        self.index.modules().next().is_some()
    }

    /// Loads `request`, a module's name or an alias, with all it needs. Fails if the operator keeps it out or the
    /// kernel does not take it; of several modules for one alias, one is enough.
    pub fn load(&mut self, request: &str) -> Result<Outcome, Failure> {
        match plan::plan(&self.index, &self.policy, &self.loaded()?, request) {
            Plan::Present => Ok(Outcome::Present),
            Plan::Unknown => Ok(Outcome::Unknown),
            Plan::Refused { asked, module } => Err(refused(&asked, &module)),
            Plan::Load(loads) => self.carry_out(&loads),
        }
    }

    /// Loads the drivers of all devices that are there, and of those that appear behind them. Devices without a
    /// driver in the archive are left alone.
    pub fn coldplug(&mut self) -> Summary {
        self.watch = self.watcher();
        let mut summary = Summary::default();
        let mut devices = Devices::below(&self.root.join("sys/bus"));
        for _ in 0..MAX_ROUNDS {
            let mut fresh = devices.fresh();
            fresh.retain(|alias| !self.seen.contains(alias));
            summary.devices += fresh.len();
            let before = summary.loaded.len();
            for alias in fresh {
                match self.device(&alias) {
                    Ok(loaded) => summary.loaded.extend(loaded),
                    Err(failure) => summary.failures.push(failure),
                }
            }
            if summary.loaded.len() == before {
                break;
            }
        }
        self.watch = None;
        summary
    }

    /// Loads the drivers of a device that came later; other messages are passed over.
    pub fn on_uevent(&mut self, uevent: &Uevent) -> Result<Vec<String>, Failure> {
        match uevent.action.as_str() {
            "add" | "change" if self.is_for(&uevent.modalias) => {
                self.watch = self.watcher();
                let loaded = self.device(&uevent.modalias);
                self.watch = None;
                loaded
            }
            _ => Ok(Vec::new()),
        }
    }

    /// Whether a driver may have to be loaded for a device's alias.
    fn is_for(&self, alias: &str) -> bool {
        !self.seen.contains(alias) && !self.index.by_alias(&names::canonical(alias)).is_empty()
    }

    /// Without one, drivers are loaded all the same.
    fn watcher(&self) -> Option<Watch> {
        Watch::start(self.stuck?)
            .map_err(|error| log::warn!("modules: a driver that hangs is not noticed: {error}"))
            .ok()
    }

    /// Loads the drivers for a device's alias, once per alias. A blacklisted driver is no failure here: keeping it
    /// from its device is what the operator asked for.
    fn device(&mut self, alias: &str) -> Result<Vec<String>, Failure> {
        // Most devices have no driver here; that is known before the kernel is asked what it has loaded.
        let is_for = self.is_for(alias);
        if self.seen.len() < MAX_SEEN {
            self.seen.insert(alias.to_owned());
        }
        if !is_for {
            return Ok(Vec::new());
        }
        match plan::plan(&self.index, &self.policy, &self.loaded()?, alias) {
            Plan::Load(loads) => match self.carry_out(&loads)? {
                Outcome::Loaded(names) => Ok(names),
                Outcome::Present | Outcome::Unknown => Ok(Vec::new()),
            },
            Plan::Refused { module, .. } => {
                log::info!("{} needs module {module}, which is blacklisted", printable(alias, 120));
                Ok(Vec::new())
            }
            Plan::Present | Plan::Unknown => Ok(Vec::new()),
        }
    }

    fn carry_out(&mut self, loads: &[Load]) -> Result<Outcome, Failure> {
        let (mut loaded, mut asked, mut first_error) = (Vec::new(), false, None);
        for load in loads {
            self.watch.iter_mut().for_each(|watch| watch.begins(&load.name));
            let result = File::open(self.folder.join(&load.path)).and_then(|file| insert(&file, &load.parameters));
            match result {
                Ok(inserted) => {
                    asked |= load.why == Why::Asked;
                    if inserted == Inserted::Now {
                        log::debug!("{load}");
                        loaded.push(load.name.clone());
                    }
                }
                Err(error) if load.why == Why::Wanted => log::debug!("{load}: {error}"),
                Err(error) => {
                    log::debug!("{load}: {error}");
                    first_error = first_error.or(Some(self.insert_failure(load, &error)));
                }
            }
        }
        self.watch.iter_mut().for_each(|watch| watch.begins(""));
        match first_error {
            Some(failure) if !asked => Err(failure),
            _ if loaded.is_empty() => Ok(Outcome::Present),
            _ => Ok(Outcome::Loaded(loaded)),
        }
    }

    /// Names of the modules that the kernel has loaded, from /proc/modules; none where the kernel has no modules.
    fn loaded(&self) -> Result<BTreeSet<String>, Failure> {
        let text = read_bounded(&self.root.join("proc/modules"))?;
        let lines = text.split(|b| *b == b'\n').filter_map(|line| std::str::from_utf8(line).ok());
        Ok(lines.filter_map(|line| line.split(' ').next()).filter(|name| !name.is_empty()).map(String::from).collect())
    }

    fn insert_failure(&self, load: &Load, error: &io::Error) -> Failure {
        let cause = format!("the kernel does not take the module ({error})");
        let remedy = match error.kind() {
            io::ErrorKind::NotFound => "pack the initramfs again, with the modules of this very kernel",
            io::ErrorKind::PermissionDenied => {
                "use modules with a signature that this kernel trusts, or boot with Secure Boot lockdown off"
            }
            io::ErrorKind::OutOfMemory => "give the machine more memory",
            _ if error.raw_os_error() == Some(8) => "pack the initramfs with the modules of this very kernel",
            _ => "look at the kernel's own message above; keep the driver out with modprobe.blacklist=",
        };
        Failure::new(Step::Modules, format!("{} of kernel {}", load.name, self.release), cause, remedy)
    }
}

/// A module that is not loaded because it, or one that it needs, is blacklisted.
pub fn refused(asked: &str, module: &str) -> Failure {
    let cause = if asked == module {
        "the module is blacklisted".to_owned()
    } else {
        format!("it needs the module {module}, which is blacklisted")
    };
    let remedy = format!("take {module} out of modprobe.blacklist= and rd.driver.blacklist= on the command line");
    Failure::new(Step::Modules, printable(asked, 120), cause, remedy)
}

/// The archive's other kernel releases, sorted.
fn other_releases(root: &Path, release: &str) -> Vec<String> {
    let entries = fs::read_dir(root.join("lib/modules")).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let mut others: Vec<String> = names.filter(|name| name != release).map(|name| printable(&name, 64)).collect();
    others.sort();
    others
}

/// The file's bytes, at most [`index::MAX_BYTES`] of them; none if it does not exist.
fn read_bounded(path: &Path) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let read = |bytes: &mut Vec<u8>| File::open(path)?.take(index::MAX_BYTES as u64).read_to_end(bytes);
    match read(&mut bytes) {
        Ok(_) => Ok(bytes),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(Failure::new(
            Step::Modules,
            path.display().to_string(),
            format!("it cannot be read ({error})"),
            "pack the initramfs again",
        )),
    }
}

#[cfg(test)]
mod tests;
