//! What modules there are: the files that depmod writes beside them, read into one index.

use super::names::{MAX_NAME, canonical, of_path};
use std::collections::{BTreeMap, BTreeSet};

/// The most bytes of one index file that are read; Debian's largest has 1.5 MB.
pub const MAX_BYTES: usize = 32 << 20;

/// A module that can be loaded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Module {
    /// Path of the file below the release's folder.
    pub path: String,
    /// Names of the modules it needs, in the order in which they are loaded.
    pub needs: Vec<String>,
    /// Names or aliases to try before it.
    pub before: Vec<String>,
    /// Names or aliases to try after it.
    pub after: Vec<String>,
}

/// All that the files `modules.*` say. Names are canonical throughout.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModuleIndex {
    modules: BTreeMap<String, Module>,
    aliases: Vec<(String, String)>,
    builtin: BTreeSet<String>,
    builtin_aliases: Vec<(String, String)>,
}

/// The contents of the index files, each empty where it does not exist.
#[derive(Clone, Copy, Debug, Default)]
pub struct Files<'a> {
    /// `modules.dep`.
    pub dep: &'a [u8],
    /// `modules.alias`.
    pub alias: &'a [u8],
    /// `modules.softdep`.
    pub softdep: &'a [u8],
    /// `modules.builtin`.
    pub builtin: &'a [u8],
    /// `modules.builtin.modinfo`.
    pub builtin_modinfo: &'a [u8],
}

impl ModuleIndex {
    /// Reads the index files. A line that is not understood is left out, as kmod does: the files are the packer's,
    /// and one odd line must not cost the machine its network.
    pub fn parse(files: Files<'_>) -> Self {
        let mut index = Self::default();
        for (path, needs) in lines(files.dep).filter_map(dep_line) {
            if let Some(name) = of_path(path) {
                index.modules.insert(name, Module { path: path.to_owned(), needs, ..Module::default() });
            }
        }
        for line in lines(files.softdep) {
            index.softdep_line(line);
        }
        index.aliases = lines(files.alias).filter_map(alias_line).collect();
        index.builtin = lines(files.builtin).filter_map(|line| of_path(line.trim())).collect();
        index.builtin_aliases = builtin_aliases(files.builtin_modinfo).collect();
        index
    }

    /// The loadable module of this canonical name.
    pub fn module(&self, name: &str) -> Option<&Module> {
        self.modules.get(name)
    }

    /// Every loadable module with its name, in the order of names.
    pub fn modules(&self) -> impl Iterator<Item = (&str, &Module)> {
        self.modules.iter().map(|(name, module)| (name.as_str(), module))
    }

    /// The modules that an alias stands for, in the order of the file.
    pub fn by_alias(&self, alias: &str) -> Vec<&str> {
        resolve(&self.aliases, alias)
    }

    /// Whether the kernel has this name or alias built in.
    pub fn is_builtin(&self, name: &str) -> bool {
        self.builtin.contains(name) || !resolve(&self.builtin_aliases, name).is_empty()
    }

    /// Whether nothing is known: an archive for a kernel with all drivers built in.
    pub fn is_empty(&self) -> bool {
        self.modules.is_empty() && self.builtin.is_empty()
    }

    fn softdep_line(&mut self, line: &str) {
        let mut words = line.split_ascii_whitespace();
        let (Some("softdep"), Some(name)) = (words.next(), words.next()) else { return };
        let Some(module) = self.modules.get_mut(&canonical(name)) else { return };
        let softdeps = Softdeps::parse(words);
        module.before.extend(softdeps.before);
        module.after.extend(softdeps.after);
    }
}

/// The words of a soft dependency: `pre: a b post: c`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Softdeps {
    /// To try before.
    pub before: Vec<String>,
    /// To try after.
    pub after: Vec<String>,
}

impl Softdeps {
    /// Reads the words after the module's name.
    pub fn parse<'a>(words: impl Iterator<Item = &'a str>) -> Self {
        let mut softdeps = Self::default();
        let mut before = None;
        for word in words {
            match (word, before) {
                ("pre:", _) => before = Some(true),
                ("post:", _) => before = Some(false),
                (name, Some(true)) => softdeps.before.push(canonical(name)),
                (name, Some(false)) => softdeps.after.push(canonical(name)),
                (_, None) => {}
            }
        }
        softdeps
    }
}

/// The modules whose pattern matches `alias`, each once.
fn resolve<'a>(aliases: &'a [(String, String)], alias: &str) -> Vec<&'a str> {
    let mut found: Vec<&str> = Vec::new();
    for (pattern, module) in aliases {
        if super::names::matches(pattern, alias) && !found.contains(&module.as_str()) {
            found.push(module);
        }
    }
    found
}

fn lines(bytes: &[u8]) -> impl Iterator<Item = &str> {
    let bytes = bytes.get(..MAX_BYTES).unwrap_or(bytes);
    bytes.split(|b| *b == b'\n').filter_map(|line| std::str::from_utf8(line).ok()).filter(|l| !l.starts_with('#'))
}

/// `kernel/a.ko: kernel/b.ko kernel/c.ko`. The file is meant from right to left: c is loaded first.
fn dep_line(line: &str) -> Option<(&str, Vec<String>)> {
    let (path, needs) = line.split_once(':')?;
    let path = path.trim();
    let inside = !path.starts_with('/') && path.split('/').all(|part| !matches!(part, "" | "." | ".."));
    inside.then(|| (path, needs.split_ascii_whitespace().rev().filter_map(of_path).collect()))
}

/// `alias PATTERN MODULE`.
fn alias_line(line: &str) -> Option<(String, String)> {
    let mut words = line.split_ascii_whitespace();
    let ("alias", pattern, module) = (words.next()?, words.next()?, words.next()?) else { return None };
    (pattern.len() <= MAX_NAME).then(|| (canonical(pattern), canonical(module)))
}

/// `MODULE.alias=PATTERN`, each ended by a zero byte.
fn builtin_aliases(bytes: &[u8]) -> impl Iterator<Item = (String, String)> {
    let bytes = bytes.get(..MAX_BYTES).unwrap_or(bytes);
    bytes.split(|b| *b == 0).filter_map(|entry| {
        let (module, pattern) = std::str::from_utf8(entry).ok()?.split_once(".alias=")?;
        (pattern.len() <= MAX_NAME).then(|| (canonical(pattern), canonical(module)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_all_files_into_one_index() {
        let index = ModuleIndex::parse(Files {
            dep: b"kernel/a-b.ko: kernel/c.ko kernel/d.ko\nkernel/c.ko: kernel/d.ko\nkernel/d.ko:\n",
            alias: b"# Aliases\nalias fs-ab a-b\nalias pci:v*d* c\n",
            softdep: b"softdep a-b pre: crypto-x y post: z\n",
            builtin: b"kernel/net/packet/af-packet.ko\n",
            builtin_modinfo: b"af_packet.alias=net-pf-17\0af_packet.license=GPL\0",
        });
        let names: Vec<_> = index.modules().map(|(name, _)| name).collect();
        assert_eq!(names, ["a_b", "c", "d"]);
        let expected = Module {
            path: "kernel/a-b.ko".into(),
            needs: vec!["d".into(), "c".into()],
            before: vec!["crypto_x".into(), "y".into()],
            after: vec!["z".into()],
        };
        assert_eq!(index.module("a_b"), Some(&expected));
        assert_eq!(index.by_alias("fs_ab"), ["a_b"]);
        assert_eq!(index.by_alias("pci:v1d2"), ["c"]);
        assert!(index.is_builtin("af_packet") && index.is_builtin("net_pf_17"));
        assert!(!index.is_builtin("c"));
    }

    #[test]
    fn leaves_out_paths_that_lead_out_of_the_folder() {
        let index = ModuleIndex::parse(Files {
            dep: b"/etc/x.ko:\n../y.ko:\na/../z.ko:\nno colon\n\xff\xfe.ko:\nok.ko:\n",
            ..Files::default()
        });
        assert_eq!(index.modules().map(|(name, _)| name).collect::<Vec<_>>(), ["ok"]);
    }
}
