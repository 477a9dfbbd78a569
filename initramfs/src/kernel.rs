//! A kernel's modules on disk: where they are, of which release, and what its configuration tells.

use crate::compress::Packing;
use rootbeam_init::modules::names::of_path;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The most module files that are looked at; Debian's kernel has 4000.
const MAX_FILES: usize = 50_000;

/// The modules of one kernel release.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// The folder, `…/lib/modules/RELEASE`.
    pub folder: PathBuf,
    /// What `uname -r` says under this kernel.
    pub release: String,
    /// The files of each module by its canonical name, as paths below the folder: first the one that is loaded, then
    /// those that it overrides.
    pub files: BTreeMap<String, Vec<String>>,
    /// Canonical names of what is built in, where `modules.builtin` tells.
    pub builtin: Option<BTreeSet<String>>,
    /// The lines `CONFIG_…=…`, where a configuration was found.
    pub config: Option<Config>,
}

/// Whether a kernel can do something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Support {
    /// Built in.
    Builtin,
    /// As a module that is there.
    Module,
    /// Not at all.
    Missing,
    /// Nothing tells: neither configuration nor `modules.builtin` was found.
    Unknown,
}

/// Why a folder is not a kernel's.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// Reading failed.
    #[error("{0}: {1}")]
    Io(PathBuf, io::Error),
    /// No modules there.
    #[error("{0} holds no kernel modules: give /lib/modules/RELEASE, or a folder that has lib/modules/RELEASE")]
    NoModules(PathBuf),
    /// Several releases, and none was chosen.
    #[error("{0} holds the modules of several kernels: choose one with --kernel-release, of {1}")]
    Several(PathBuf, String),
    /// The chosen release is not there.
    #[error("{folder} holds no modules of kernel {wanted}; it has {found}")]
    NotThere {
        /// The folder that was given.
        folder: PathBuf,
        /// The release that was asked for.
        wanted: String,
        /// Those that are there.
        found: String,
    },
    /// A name that cannot be a release.
    #[error("{0} is no kernel release")]
    Release(PathBuf),
}

impl Kernel {
    /// Finds the modules below `given`: itself, or `lib/modules/RELEASE` or `usr/lib/modules/RELEASE` below it. The
    /// configuration is looked for beside the modules and in the `boot` folder of the same root.
    pub fn find(given: &Path, release: Option<&str>) -> Result<Self, KernelError> {
        let folder = choose(given, release)?;
        let name = |path: &Path| path.file_name().and_then(|name| name.to_str()).map(str::to_owned);
        let resolved = folder.canonicalize().map_err(|error| KernelError::Io(folder.clone(), error))?;
        let release = name(&resolved).filter(|r| is_release(r)).ok_or(KernelError::Release(resolved.clone()))?;
        let mut files: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for path in module_files(&resolved)? {
            if let Some(module) = of_path(&path) {
                files.entry(module).or_default().push(path);
            }
        }
        let depmod = fs::read_to_string(resolved.join("modules.dep")).unwrap_or_default();
        let chosen: BTreeSet<&str> = depmod.lines().filter_map(|line| Some(line.split_once(':')?.0)).collect();
        for paths in files.values_mut() {
            // As depmod's default search order has it: `updates` before the kernel's own. Distributions have further
            // folders in theirs; where depmod has not run, `extra` comes before `kernel` and `weak-updates` after it.
            paths.sort_by_key(|path| (!path.starts_with("updates/"), !chosen.contains(path.as_str())));
        }
        let builtin = fs::read_to_string(resolved.join("modules.builtin")).ok();
        let builtin = builtin.map(|text| text.lines().filter_map(of_path).collect());
        let config = config_paths(&resolved, &release).into_iter().find_map(|path| fs::read_to_string(path).ok());
        Ok(Self { folder: resolved, release, files, builtin, config: config.map(|text| Config::parse(&text)) })
    }

    /// The root that the modules belong to: the folder above lib/modules or usr/lib/modules.
    pub fn root(&self) -> Option<&Path> {
        root_of(&self.folder)
    }

    /// The file that is loaded of this module, as a path below the folder.
    pub fn file(&self, module: &str) -> Option<&str> {
        self.files.get(module)?.first().map(String::as_str)
    }

    /// Whether the kernel has the feature of this module, whose option is `option`.
    pub fn support(&self, module: &str, option: &str) -> Support {
        let configured = self.config.as_ref().map(|config| config.get(option));
        if self.builtin.as_ref().is_some_and(|names| names.contains(module)) || configured == Some(Some("y")) {
            Support::Builtin
        } else if self.files.contains_key(module) {
            Support::Module
        } else if self.builtin.is_some() || configured.is_some() {
            Support::Missing
        } else {
            Support::Unknown
        }
    }

    /// Whether the kernel can unpack an initramfs that is packed so.
    pub fn unpacks(&self, packing: Packing) -> Support {
        match (packing.compression().kernel_option(), &self.config) {
            (None, _) => Support::Builtin,
            (Some(_), None) => Support::Unknown,
            (Some(option), Some(config)) if config.get(option) == Some("y") => Support::Builtin,
            _ => Support::Missing,
        }
    }
}

/// A kernel configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config(BTreeMap<String, String>);

impl Config {
    /// Reads the lines `CONFIG_X=value`; an option that is not set stands in a comment and is absent.
    pub fn parse(text: &str) -> Self {
        let options = text.lines().filter(|line| line.starts_with("CONFIG_")).filter_map(|line| line.split_once('='));
        Self(options.map(|(option, value)| (option.to_owned(), value.trim().to_owned())).collect())
    }

    /// The value of an option: `y`, `m`, a number, a quoted text.
    pub fn get(&self, option: &str) -> Option<&str> {
        self.0.get(option).map(String::as_str)
    }
}

fn is_release(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'+' | b'~' | b'-');
    (1..=64).contains(&name.len()) && name.bytes().all(plain) && name.as_bytes()[0].is_ascii_alphanumeric()
}

fn choose(given: &Path, release: Option<&str>) -> Result<PathBuf, KernelError> {
    if is_modules_folder(given) {
        let found = given.canonicalize().ok().and_then(|path| Some(path.file_name()?.to_str()?.to_owned()));
        return match (release, found) {
            (Some(wanted), Some(found)) if wanted != found => {
                Err(KernelError::NotThere { folder: given.to_owned(), wanted: wanted.to_owned(), found })
            }
            _ => Ok(given.to_owned()),
        };
    }
    fs::read_dir(given).map_err(|error| KernelError::Io(given.to_owned(), error))?;
    let mut found: BTreeMap<String, PathBuf> = BTreeMap::new();
    for parent in [given.join("lib/modules"), given.join("usr/lib/modules"), given.to_owned()] {
        for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
            let Ok(name) = entry.file_name().into_string() else { continue };
            if is_release(&name) && is_modules_folder(&entry.path()) {
                found.entry(name).or_insert(entry.path());
            }
        }
    }
    let names = || found.keys().cloned().collect::<Vec<_>>().join(", ");
    match release {
        _ if found.is_empty() => Err(KernelError::NoModules(given.to_owned())),
        Some(wanted) => found.get(wanted).cloned().ok_or_else(|| KernelError::NotThere {
            folder: given.to_owned(),
            wanted: wanted.to_owned(),
            found: names(),
        }),
        None if found.len() > 1 => Err(KernelError::Several(given.to_owned(), names())),
        None => found.into_values().next().ok_or_else(|| KernelError::NoModules(given.to_owned())),
    }
}

fn is_modules_folder(path: &Path) -> bool {
    ["kernel", "modules.dep", "modules.order", "modules.builtin"].iter().any(|name| path.join(name).exists())
}

/// Paths of all module files below `folder`, sorted. Symbolic links (`build`, `source`) are not followed.
fn module_files(folder: &Path) -> Result<BTreeSet<String>, KernelError> {
    let mut paths = BTreeSet::new();
    let mut folders = vec![String::new()];
    while let Some(prefix) = folders.pop() {
        let here = folder.join(&prefix);
        let error = |error| KernelError::Io(here.clone(), error);
        for entry in fs::read_dir(&here).map_err(error)? {
            let entry = entry.map_err(error)?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            let kind = entry.file_type().map_err(error)?;
            let path = if prefix.is_empty() { name } else { format!("{prefix}/{name}") };
            if kind.is_dir() {
                folders.push(path);
            } else if kind.is_file() && of_path(&path).is_some() && paths.len() < MAX_FILES {
                paths.insert(path);
            }
        }
    }
    Ok(paths)
}

fn root_of(folder: &Path) -> Option<&Path> {
    let lib = folder.parent().filter(|p| p.ends_with("modules"))?.parent().filter(|p| p.ends_with("lib"))?;
    let above = lib.parent()?;
    if above.ends_with("usr") { above.parent() } else { Some(above) }
}

fn config_paths(folder: &Path, release: &str) -> Vec<PathBuf> {
    let mut paths = vec![folder.join("config"), folder.join("build/.config")];
    if let Some(root) = root_of(folder) {
        paths.push(root.join("boot").join(format!("config-{release}")));
    }
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, content) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        root
    }

    #[test]
    fn finds_modules_by_folder_by_root_and_by_merged_root() {
        for lib in ["lib", "usr/lib"] {
            let root = root(&[
                (&format!("{lib}/modules/6.1/kernel/fs/loop-x.ko.xz"), ""),
                (&format!("{lib}/modules/6.1/updates/loop_x.ko"), ""),
                ("boot/config-6.1", "CONFIG_RD_ZSTD=y\n# CONFIG_RD_XZ is not set\n"),
            ]);
            for given in [root.path().to_owned(), root.path().join(lib).join("modules/6.1")] {
                let kernel = Kernel::find(&given, None).unwrap();
                assert_eq!(kernel.release, "6.1");
                assert_eq!(kernel.file("loop_x"), Some("updates/loop_x.ko"));
                assert_eq!(kernel.root().unwrap(), root.path().canonicalize().unwrap());
                assert_eq!(kernel.unpacks(Packing::Zstd), Support::Builtin);
                assert_eq!(kernel.unpacks(Packing::Xz), Support::Missing);
                assert_eq!(kernel.unpacks(Packing::None), Support::Builtin);
            }
        }
    }

    #[test]
    fn of_several_files_of_a_module_the_one_that_depmod_prefers_comes_first() {
        let of = |dep: &str| {
            let files = ["updates/dkms/a.ko", "kernel/a.ko", "extra/b.ko", "kernel/b.ko", "weak-updates/b.ko"];
            let mut files: Vec<_> = files.iter().map(|path| (format!("lib/modules/6.1/{path}"), "")).collect();
            files.push(("lib/modules/6.1/modules.dep".to_owned(), dep));
            let files: Vec<_> = files.iter().map(|(path, text)| (path.as_str(), *text)).collect();
            let root = root(&files);
            Kernel::find(root.path(), None)
                .unwrap()
                .files
                .into_values()
                .map(|paths| paths.join(" "))
                .collect::<Vec<_>>()
        };
        let a = "updates/dkms/a.ko kernel/a.ko";
        assert_eq!(of(""), [a, "extra/b.ko kernel/b.ko weak-updates/b.ko"]);
        assert_eq!(of("kernel/b.ko: kernel/a.ko\n"), [a, "kernel/b.ko extra/b.ko weak-updates/b.ko"]);
        assert_eq!(of("weak-updates/b.ko:\n"), [a, "weak-updates/b.ko extra/b.ko kernel/b.ko"]);
    }

    #[test]
    fn asks_for_a_choice_among_several_and_names_them() {
        let root = root(&[("lib/modules/6.1/kernel/a.ko", ""), ("lib/modules/6.12/kernel/a.ko", "")]);
        let error = Kernel::find(root.path(), None).unwrap_err().to_string();
        assert!(error.ends_with("choose one with --kernel-release, of 6.1, 6.12"), "{error}");
        assert_eq!(Kernel::find(root.path(), Some("6.12")).unwrap().release, "6.12");
        let error = Kernel::find(root.path(), Some("5.10")).unwrap_err().to_string();
        assert!(error.ends_with("holds no modules of kernel 5.10; it has 6.1, 6.12"), "{error}");
        let nothing = tempfile::tempdir().unwrap();
        assert!(matches!(Kernel::find(nothing.path(), None), Err(KernelError::NoModules(_))));
    }

    #[test]
    fn tells_builtin_module_missing_and_unknown_apart() {
        let known = root(&[
            ("lib/modules/6.1/kernel/loop.ko", ""),
            ("lib/modules/6.1/modules.builtin", "kernel/net/packet/af_packet.ko\n"),
            ("boot/config-6.1", "CONFIG_OVERLAY_FS=y\n"),
        ]);
        let kernel = Kernel::find(known.path(), None).unwrap();
        assert_eq!(kernel.support("af_packet", "CONFIG_PACKET"), Support::Builtin);
        assert_eq!(kernel.support("overlay", "CONFIG_OVERLAY_FS"), Support::Builtin);
        assert_eq!(kernel.support("loop", "CONFIG_BLK_DEV_LOOP"), Support::Module);
        assert_eq!(kernel.support("squashfs", "CONFIG_SQUASHFS"), Support::Missing);
        let bare = root(&[("lib/modules/6.1/kernel/loop.ko", "")]);
        let kernel = Kernel::find(bare.path(), None).unwrap();
        assert_eq!(kernel.support("squashfs", "CONFIG_SQUASHFS"), Support::Unknown);
        assert_eq!(kernel.unpacks(Packing::Zstd), Support::Unknown);
    }
}
