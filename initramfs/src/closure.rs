//! Which modules go into the archive: what was chosen, and all that it needs.
//!
//! The modules themselves are asked (`.modinfo`), not depmod's files: a kernel package that was unpacked and not
//! installed has none of those.

use crate::compress::unpack_file;
use crate::kernel::Kernel;
use crate::modinfo::Modinfo;
use rootbeam_init::modules::names::{canonical, matches};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;

/// The largest module that is read, unpacked, in bytes.
const MAX_MODULE: usize = 256 << 20;

/// Requests that a module makes of the kernel's crypto by name, at run time, and that its softdeps may not tell.
const PROVIDERS: [(&str, &str); 2] = [("libcrc32c", "crypto-crc32c"), ("xxhash_generic", "crypto-xxhash64")];

/// Where the providers of softdeps are. Opening all of a kernel's 4000 modules takes long where they are compressed.
const PROVIDER_FOLDERS: [&str; 3] = ["kernel/arch/", "kernel/crypto/", "kernel/lib/"];

/// A module that goes into the archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packed {
    /// Path below the release's folder, ending in `.ko`.
    pub path: String,
    /// The file, not compressed.
    pub data: Vec<u8>,
    /// What it says of itself.
    pub modinfo: Modinfo,
}

/// The modules of an archive by canonical name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Closure {
    /// The modules.
    pub modules: BTreeMap<String, Packed>,
    /// Softdeps that this kernel has neither as a module nor built in.
    pub unmet: BTreeSet<String>,
}

/// Why a closure cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ClosureError {
    /// A module file that cannot be read or is damaged.
    #[error("{0}: {1}")]
    File(String, String),
    /// A name that neither is a module nor built in.
    #[error("kernel {release} has no module {name}")]
    NoModule {
        /// The kernel.
        release: String,
        /// What was asked for.
        name: String,
    },
    /// A module that needs another one which is not there.
    #[error("module {module} needs {need}, which kernel {release} does not have: its folder is incomplete")]
    Incomplete {
        /// The kernel.
        release: String,
        /// The module.
        module: String,
        /// What it needs.
        need: String,
    },
    /// A module that was built for another kernel.
    #[error("module {0} was built for kernel {1}, not for {2}")]
    OtherKernel(String, String, String),
}

/// Collects modules of one kernel.
#[derive(Debug)]
pub struct Collector<'a> {
    kernel: &'a Kernel,
    providers: Option<Aliases>,
    all: Option<Aliases>,
    closure: Closure,
}

/// Who serves which alias: pattern and canonical module name. Empty names stand for what is built in.
type Aliases = Vec<(String, String)>;

impl<'a> Collector<'a> {
    /// Nothing yet.
    pub fn new(kernel: &'a Kernel) -> Self {
        Self { kernel, providers: None, all: None, closure: Closure::default() }
    }

    /// Adds the module of this name, in either spelling, with all it needs. What is built in adds nothing.
    pub fn module(&mut self, name: &str) -> Result<(), ClosureError> {
        let name = canonical(name);
        if self.kernel.files.contains_key(&name) {
            self.add(&name)
        } else if self.kernel.builtin.as_ref().is_some_and(|builtin| builtin.contains(&name)) {
            Ok(())
        } else {
            Err(ClosureError::NoModule { release: self.kernel.release.clone(), name })
        }
    }

    /// As [`Self::module`], for what this kernel need not have.
    pub fn module_if_there(&mut self, name: &str) -> Result<(), ClosureError> {
        let name = canonical(name);
        if self.kernel.files.contains_key(&name) { self.add(&name) } else { Ok(()) }
    }

    /// Adds every module that has a file whose path begins with `prefix`, below the release's folder: also one whose
    /// file there is overridden by another elsewhere.
    pub fn folder(&mut self, prefix: &str) -> Result<(), ClosureError> {
        let kernel = self.kernel;
        let there = |paths: &[String]| paths.iter().any(|path| path.starts_with(prefix));
        kernel.files.iter().filter(|(_, paths)| there(paths)).try_for_each(|(name, _)| self.add(name))
    }

    /// Adds every module that serves this alias and has no path that is not `wanted`. False if none serves it, and
    /// nothing built in either.
    pub fn alias(&mut self, alias: &str, wanted: impl Fn(&str) -> bool) -> Result<bool, ClosureError> {
        let aliases = match self.all.take() {
            Some(aliases) => aliases,
            None => read_aliases(self.kernel, |_| true)?,
        };
        let found = serving(&aliases, alias);
        self.all = Some(aliases);
        let kernel = self.kernel;
        let all_wanted = |paths: &Vec<String>| paths.iter().all(|path| wanted(path));
        let names = found.iter().filter(|name| kernel.files.get(*name).is_some_and(all_wanted));
        names.into_iter().try_for_each(|name| self.add(name))?;
        Ok(!found.is_empty())
    }

    /// The modules so far.
    pub fn finish(self) -> Closure {
        self.closure
    }

    fn add(&mut self, name: &str) -> Result<(), ClosureError> {
        if self.closure.modules.contains_key(name) {
            return Ok(());
        }
        let Some(path) = self.kernel.file(name) else { return Ok(()) };
        let packed = read_module(self.kernel, path)?;
        let modinfo = packed.modinfo.clone();
        if !modinfo.vermagic.is_empty() && modinfo.release() != self.kernel.release {
            let (built, release) = (modinfo.release().to_owned(), self.kernel.release.clone());
            return Err(ClosureError::OtherKernel(name.to_owned(), built, release));
        }
        self.closure.modules.insert(name.to_owned(), packed);
        for need in &modinfo.depends {
            if self.kernel.files.contains_key(need) {
                self.add(need)?;
            } else if self.kernel.builtin.as_ref().is_some_and(|builtin| !builtin.contains(need)) {
                let (release, module) = (self.kernel.release.clone(), name.to_owned());
                return Err(ClosureError::Incomplete { release, module, need: need.clone() });
            }
        }
        let providers = PROVIDERS.iter().filter(|(module, _)| *module == name).map(|(_, request)| *request);
        let softdeps = modinfo.softdeps.before.iter().chain(&modinfo.softdeps.after).map(String::as_str);
        for wanted in softdeps.chain(providers) {
            self.wanted(wanted)?;
        }
        Ok(())
    }

    /// Adds a softdep: a module, or all that provide it.
    fn wanted(&mut self, name: &str) -> Result<(), ClosureError> {
        match self.module(name) {
            Err(ClosureError::NoModule { .. }) => {}
            other => return other,
        }
        let aliases = match self.providers.take() {
            Some(aliases) => aliases,
            None => {
                let provides = |path: &str| PROVIDER_FOLDERS.iter().any(|folder| path.starts_with(folder));
                read_aliases(self.kernel, provides)?
            }
        };
        let found = serving(&aliases, name);
        self.providers = Some(aliases);
        if found.is_empty() {
            self.closure.unmet.insert(canonical(name));
        }
        found.iter().try_for_each(|name| self.add(name))
    }
}

impl Closure {
    /// The index files that PID 1 reads, for these modules: names and contents. Of what is built in, the names and
    /// those aliases that are requests (`crypto-…`, `fs-…`) rather than devices.
    pub fn index_files(&self, kernel: &Kernel) -> Vec<(&'static str, Vec<u8>)> {
        let (mut dep, mut alias, mut softdep) = (String::new(), String::new(), String::new());
        for (name, packed) in &self.modules {
            let mut needs = Vec::new();
            self.needs(name, &mut BTreeSet::new(), &mut needs);
            needs.pop();
            let needs: String = needs.iter().rev().map(|need| format!(" {}", self.modules[*need].path)).collect();
            dep += &format!("{}:{needs}\n", packed.path);
            for pattern in &packed.modinfo.aliases {
                alias += &format!("alias {} {name}\n", canonical(pattern));
            }
            let softdeps = &packed.modinfo.softdeps;
            let words = |kind: &str, names: &[String]| match names {
                [] => String::new(),
                names => format!(" {kind}: {}", names.join(" ")),
            };
            let line = words("pre", &softdeps.before) + &words("post", &softdeps.after);
            if !line.is_empty() {
                softdep += &format!("softdep {name}{line}\n");
            }
        }
        let builtin: String = kernel.builtin.iter().flatten().map(|name| format!("kernel/{name}.ko\n")).collect();
        let builtin_aliases = request_aliases(&read_or_empty(kernel, "modules.builtin.modinfo"));
        vec![
            ("modules.alias", alias.into_bytes()),
            ("modules.builtin", builtin.into_bytes()),
            ("modules.builtin.modinfo", builtin_aliases),
            ("modules.dep", dep.into_bytes()),
            ("modules.softdep", softdep.into_bytes()),
        ]
    }

    /// Appends the modules that `name` needs, and itself, in the order in which they are loaded.
    fn needs<'a>(&'a self, name: &'a str, visited: &mut BTreeSet<&'a str>, order: &mut Vec<&'a str>) {
        let Some(packed) = self.modules.get(name).filter(|_| visited.insert(name)) else { return };
        for need in &packed.modinfo.depends {
            self.needs(need, visited, order);
        }
        order.push(name);
    }
}

fn read_module(kernel: &Kernel, path: &str) -> Result<Packed, ClosureError> {
    let error = |text: String| ClosureError::File(kernel.folder.join(path).display().to_string(), text);
    let file = fs::read(kernel.folder.join(path)).map_err(|e| error(e.to_string()))?;
    let data = unpack_file(file, MAX_MODULE).map_err(|e| error(e.to_string()))?;
    let modinfo = Modinfo::parse(&data).map_err(|e| error(e.to_string()))?;
    let plain = path.rfind(".ko").map_or(path, |dot| &path[..dot + 3]);
    Ok(Packed { path: plain.to_owned(), data, modinfo })
}

/// Names of the modules that serve an alias, and the empty name if something built in does.
fn serving(aliases: &Aliases, alias: &str) -> BTreeSet<String> {
    let alias = canonical(alias);
    aliases.iter().filter(|(pattern, _)| matches(pattern, &alias)).map(|(_, module)| module.clone()).collect()
}

/// The aliases of a kernel: from depmod's file where it is there, else from every module with a path that is `wanted`.
fn read_aliases(kernel: &Kernel, wanted: impl Fn(&str) -> bool) -> Result<Aliases, ClosureError> {
    let mut aliases: Aliases = Vec::new();
    let depmod = read_or_empty(kernel, "modules.alias");
    if depmod.is_empty() {
        let chosen = kernel.files.iter().filter(|(_, paths)| paths.iter().any(|path| wanted(path)));
        let files: Vec<_> = chosen.filter_map(|(name, _)| Some((name, kernel.file(name)?))).collect();
        for found in each_in_parallel(&files, |(name, path)| {
            let own = read_module(kernel, path)?.modinfo.aliases;
            Ok(own.iter().map(|pattern| (canonical(pattern), (*name).clone())).collect::<Aliases>())
        }) {
            aliases.extend(found?);
        }
    } else {
        let text = String::from_utf8_lossy(&depmod);
        for line in text.lines() {
            if let ["alias", pattern, module] = line.split_ascii_whitespace().collect::<Vec<_>>()[..] {
                aliases.push((canonical(pattern), canonical(module)));
            }
        }
    }
    let builtin = read_or_empty(kernel, "modules.builtin.modinfo");
    let builtin = builtin.split(|b| *b == 0).filter_map(|field| std::str::from_utf8(field).ok());
    aliases.extend(builtin.filter_map(|f| Some((canonical(f.split_once(".alias=")?.1), String::new()))));
    Ok(aliases)
}

/// `work` done on every item, on all processors; results in the items' order.
fn each_in_parallel<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    let share = items.len().div_ceil(threads).max(1);
    let work = &work;
    std::thread::scope(|scope| {
        let shares = items.chunks(share).map(|share| scope.spawn(move || share.iter().map(work).collect::<Vec<R>>()));
        let running: Vec<_> = shares.collect();
        let join = |thread: std::thread::ScopedJoinHandle<'_, Vec<R>>| match thread.join() {
            Ok(results) => results,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        running.into_iter().flat_map(join).collect()
    })
}

/// The entries `MODULE.alias=…` whose alias is a plain name.
fn request_aliases(modinfo: &[u8]) -> Vec<u8> {
    let plain = |entry: &&[u8]| {
        std::str::from_utf8(entry)
            .ok()
            .and_then(|entry| entry.split_once(".alias="))
            .is_some_and(|(_, alias)| !alias.contains([':', '*']))
    };
    modinfo.split(|b| *b == 0).filter(plain).flat_map(|entry| entry.iter().copied().chain([0])).collect()
}

fn read_or_empty(kernel: &Kernel, name: &str) -> Vec<u8> {
    fs::read(kernel.folder.join(name)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::modinfo::tests::module;
    use crate::preset::Preset;
    use rootbeam_init::modules::Policy;
    use rootbeam_init::modules::index::{Files, ModuleIndex};
    use rootbeam_init::modules::plan::{Plan, plan};

    /// A root with a kernel 6.1 of these modules.
    pub(crate) fn kernel(
        modules: &[(&str, &[&str])],
        builtin: &str,
        builtin_modinfo: &str,
    ) -> (tempfile::TempDir, Kernel) {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("lib/modules/6.1");
        for (path, fields) in modules {
            let path = folder.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, module(62, fields)).unwrap();
        }
        fs::write(folder.join("modules.builtin"), builtin).unwrap();
        fs::write(folder.join("modules.builtin.modinfo"), builtin_modinfo).unwrap();
        let kernel = Kernel::find(root.path(), None).unwrap();
        (root, kernel)
    }

    fn erofs() -> (tempfile::TempDir, Kernel) {
        kernel(
            &[
                ("kernel/fs/erofs.ko", &["alias=fs-erofs", "depends=libcrc32c,lz4"]),
                ("kernel/lib/libcrc32c.ko", &["softdep=pre: crc32c", "depends="]),
                ("kernel/lib/lz4.ko", &["depends=xx-base"]),
                ("kernel/lib/xx_base.ko", &[]),
                ("kernel/crypto/crc32c-intel.ko", &["alias=crc32c", "alias=crypto-crc32c"]),
                ("kernel/crypto/crc32c_generic.ko", &["alias=crypto-crc32c"]),
                ("kernel/other.ko", &["alias=pci:v1*"]),
            ],
            "kernel/crypto/sha256.ko\n",
            "sha256.alias=crypto-sha256\0sha256.alias=cpu:type:x86*\0sha256.license=GPL\0",
        )
    }

    #[test]
    fn brings_dependencies_softdeps_and_crypto_providers_and_nothing_else() {
        let (_root, kernel) = erofs();
        let mut collector = Collector::new(&kernel);
        collector.module("erofs").unwrap();
        let closure = collector.finish();
        let names: Vec<_> = closure.modules.keys().map(String::as_str).collect();
        assert_eq!(names, ["crc32c_generic", "crc32c_intel", "erofs", "libcrc32c", "lz4", "xx_base"]);
        assert_eq!(closure.unmet, BTreeSet::new());
    }

    #[test]
    fn init_plans_from_the_written_index_what_the_kernel_needs() {
        let (_root, kernel) = erofs();
        let mut collector = Collector::new(&kernel);
        collector.module("erofs").unwrap();
        let files: BTreeMap<_, _> = collector.finish().index_files(&kernel).into_iter().collect();
        let index = ModuleIndex::parse(Files {
            dep: &files["modules.dep"],
            alias: &files["modules.alias"],
            softdep: &files["modules.softdep"],
            builtin: &files["modules.builtin"],
            builtin_modinfo: &files["modules.builtin.modinfo"],
        });
        let order = |request: &str| match plan(&index, &Policy::default(), &BTreeSet::new(), request) {
            Plan::Load(loads) => loads.into_iter().map(|load| load.name).collect::<Vec<_>>(),
            other => panic!("{request}: {other:?}"),
        };
        assert_eq!(order("fs-erofs"), ["crc32c_intel", "libcrc32c", "xx_base", "lz4", "erofs"]);
        assert_eq!(order("crypto-crc32c"), ["crc32c_generic", "crc32c_intel"]);
        assert!(index.is_builtin("sha256") && index.is_builtin("crypto_sha256"));
        assert!(!files["modules.builtin.modinfo"].windows(4).any(|w| w == b"cpu:"));
    }

    #[test]
    fn what_overrides_a_driver_is_taken_and_left_where_that_would_be() {
        let (_root, kernel) = kernel(
            &[
                ("kernel/drivers/net/ethernet/intel/e1000e.ko", &["alias=pci:v1*"]),
                ("updates/dkms/e1000e.ko", &["alias=pci:v1*", "depends=helper"]),
                ("kernel/drivers/net/ethernet/intel/igb.ko", &[]),
                ("extra/igb.ko", &[]),
                ("updates/dkms/helper.ko", &[]),
                ("kernel/drivers/net/wireless/iwl.ko", &["alias=pci:v1*"]),
                ("updates/iwl.ko", &["alias=pci:v1*"]),
            ],
            "",
            "",
        );
        let packed = |preset: Preset, devices: &[&str]| {
            let mut collector = Collector::new(&kernel);
            preset.collect(&mut collector, &devices.iter().map(|device| (*device).to_owned()).collect()).unwrap();
            collector.finish().modules.into_values().map(|packed| packed.path).collect::<Vec<_>>()
        };
        let e1000e = ["updates/dkms/e1000e.ko", "updates/dkms/helper.ko"];
        assert_eq!(packed(Preset::Generic, &[]), [e1000e[0], e1000e[1], "extra/igb.ko"]);
        assert_eq!(packed(Preset::Host, &["pci:v1d2"]), e1000e);
    }

    #[test]
    fn refuses_unknown_names_and_incomplete_folders() {
        let (_root, kernel) = kernel(&[("kernel/a.ko", &["depends=gone"])], "kernel/b.ko\n", "");
        let mut collector = Collector::new(&kernel);
        assert_eq!(collector.module("b").map_err(|e| e.to_string()), Ok(()));
        let unknown = collector.module("no-such").unwrap_err().to_string();
        assert_eq!(unknown, "kernel 6.1 has no module no_such");
        let incomplete = collector.module("a").unwrap_err().to_string();
        assert_eq!(incomplete, "module a needs gone, which kernel 6.1 does not have: its folder is incomplete");
    }

    #[test]
    fn refuses_a_module_of_another_kernel() {
        let (_root, kernel) = kernel(&[("kernel/a.ko", &["vermagic=5.10 SMP"])], "", "");
        let error = Collector::new(&kernel).module("a").unwrap_err().to_string();
        assert_eq!(error, "module a was built for kernel 5.10, not for 6.1");
    }
}
