//! Which shared libraries a program is linked with, as its dynamic loader would find them: DT_NEEDED, DT_RPATH and
//! DT_RUNPATH of gABI and ld.so(8). Caches and settings of the loader are not read: what lies elsewhere is found when
//! the program starts.

use elf::ElfBytes;
use elf::abi::{DT_NEEDED, DT_RPATH, DT_RUNPATH, DT_STRTAB, PT_LOAD};
use elf::endian::AnyEndian;
use std::path::{Path, PathBuf};

/// More libraries than any real program names directly.
const MOST: usize = 256;

/// What a program asks of its loader.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Links {
    /// Names of libraries, in their order.
    pub libraries: Vec<String>,
    /// Folders to look into before the usual ones, `$ORIGIN` replaced.
    pub folders: Vec<PathBuf>,
}

impl Links {
    /// Reads `file`, the content of the program or library at `path`; none where it is no dynamic ELF file.
    pub fn parse(file: &[u8], path: &Path) -> Option<Self> {
        let elf = ElfBytes::<AnyEndian>::minimal_parse(file).ok()?;
        let entries: Vec<(i64, u64)> =
            elf.dynamic().ok()??.iter().map(|entry| (entry.d_tag, entry.d_val())).take(4096).collect();
        let values = |tag: i64| entries.iter().filter(move |(found, _)| *found == tag).map(|(_, value)| *value);
        // An address in memory; the segment that is loaded there says where in the file it is.
        let address = values(DT_STRTAB).next()?;
        let loaded = elf.segments()?.iter().find(|segment| {
            segment.p_type == PT_LOAD
                && (segment.p_vaddr..segment.p_vaddr.saturating_add(segment.p_filesz)).contains(&address)
        })?;
        let strings = usize::try_from((address - loaded.p_vaddr).checked_add(loaded.p_offset)?).ok()?;
        let text = |offset: u64| -> Option<String> {
            let rest = file.get(strings.checked_add(usize::try_from(offset).ok()?)?..)?;
            let text = rest.split(|byte| *byte == 0).next()?;
            String::from_utf8(text.to_vec()).ok()
        };
        let origin = path.parent().unwrap_or(Path::new("/"));
        let folder = |folder: &str| match folder.strip_prefix("$ORIGIN").or(folder.strip_prefix("${ORIGIN}")) {
            Some(rest) => origin.join(rest.trim_start_matches('/')),
            None => PathBuf::from(folder),
        };
        let searched: Vec<String> = values(DT_RUNPATH).chain(values(DT_RPATH)).filter_map(text).collect();
        Some(Self {
            // A name with a slash would be a path; no distribution has them.
            libraries: values(DT_NEEDED).filter_map(text).filter(|name| !name.contains('/')).take(MOST).collect(),
            folders: searched.iter().flat_map(|list| list.split(':')).filter(|f| !f.is_empty()).map(folder).collect(),
        })
    }

    /// Where a library may be, best first, on a machine of that name (`uname -m`).
    pub fn candidates(&self, library: &str, machine: &str) -> Vec<PathBuf> {
        let usual = [
            format!("/lib/{machine}-linux-gnu"),
            format!("/usr/lib/{machine}-linux-gnu"),
            "/lib64".to_owned(),
            "/usr/lib64".to_owned(),
            "/lib".to_owned(),
            "/usr/lib".to_owned(),
        ];
        self.folders.iter().cloned().chain(usual.map(PathBuf::from)).map(|folder| folder.join(library)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_of_this_system_names_the_c_library() {
        let path = Path::new("/bin/sh");
        let file = std::fs::read(path).unwrap();
        let links = Links::parse(&file, path).unwrap();
        assert!(links.libraries.iter().any(|name| name == "libc.so.6"), "{links:?}");
        let candidates = links.candidates("libc.so.6", std::env::consts::ARCH);
        assert!(candidates.iter().any(|path| path.exists()), "{candidates:?}");
    }

    #[test]
    fn folders_of_the_program_come_first_and_know_where_it_lies() {
        let links = Links { libraries: vec![], folders: vec!["/opt/lib".into()] };
        assert_eq!(links.candidates("libx.so.1", "x86_64").first(), Some(&PathBuf::from("/opt/lib/libx.so.1")));
    }

    #[test]
    fn cut_and_lying_files_are_no_panic() {
        let path = Path::new("/bin/true");
        let good = std::fs::read(path).unwrap();
        for length in (0..good.len()).step_by(97) {
            let _ = Links::parse(&good[..length], path);
        }
        let mut random = good.clone();
        for at in 0..good.len().min(4096) {
            random[at] ^= 0xff;
            let _ = Links::parse(&random, path);
            random[at] ^= 0xff;
        }
        assert_eq!(Links::parse(b"#!/bin/sh\n", path), None);
    }
}
