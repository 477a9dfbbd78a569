//! What a module says of itself: the section `.modinfo` of its file, `KEY=VALUE` strings ended by zero bytes.

use elf::ElfBytes;
use elf::endian::AnyEndian;
use rootbeam_init::modules::index::Softdeps;
use rootbeam_init::modules::names::canonical;

/// A module's own description.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Modinfo {
    /// Canonical names of the modules whose symbols it uses.
    pub depends: Vec<String>,
    /// Patterns of devices and requests that it serves.
    pub aliases: Vec<String>,
    /// What it would like to have before and after it.
    pub softdeps: Softdeps,
    /// Files that it may ask for, below lib/firmware.
    pub firmware: Vec<String>,
    /// Kernel release and options that it was built for; its first word is the release.
    pub vermagic: String,
    /// Machine number of the ELF file: 62 for x86-64, 183 for aarch64.
    pub machine: u16,
}

/// The file is not a kernel module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is not an ELF file with a section .modinfo")]
pub struct NotAModule;

impl Modinfo {
    /// Reads the description in an uncompressed module file.
    pub fn parse(file: &[u8]) -> Result<Self, NotAModule> {
        let elf = ElfBytes::<AnyEndian>::minimal_parse(file).map_err(|_| NotAModule)?;
        let header = elf.section_header_by_name(".modinfo").ok().flatten().ok_or(NotAModule)?;
        let (section, _) = elf.section_data(&header).map_err(|_| NotAModule)?;
        Ok(Self { machine: elf.ehdr.e_machine, ..Self::of_section(section) })
    }

    /// Reads the bytes of the section.
    pub fn of_section(section: &[u8]) -> Self {
        let mut modinfo = Self::default();
        let fields = section.split(|b| *b == 0).filter_map(|field| std::str::from_utf8(field).ok());
        for (key, value) in fields.filter_map(|field| field.split_once('=')) {
            match key {
                "depends" => {
                    modinfo.depends.extend(value.split(',').filter(|name| !name.is_empty()).map(canonical));
                }
                "alias" => modinfo.aliases.push(value.to_owned()),
                "softdep" => {
                    let softdeps = Softdeps::parse(value.split_ascii_whitespace());
                    modinfo.softdeps.before.extend(softdeps.before);
                    modinfo.softdeps.after.extend(softdeps.after);
                }
                "firmware" => modinfo.firmware.push(value.to_owned()),
                "vermagic" => value.clone_into(&mut modinfo.vermagic),
                _ => {}
            }
        }
        modinfo
    }

    /// The kernel release that the module was built for.
    pub fn release(&self) -> &str {
        self.vermagic.split(' ').next().unwrap_or_default()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// An ELF file of the given machine whose only content is a section `.modinfo`.
    pub(crate) fn module(machine: u16, fields: &[&str]) -> Vec<u8> {
        let modinfo: Vec<u8> = fields.iter().flat_map(|field| [field.as_bytes(), b"\0"].concat()).collect();
        let names = b"\0.modinfo\0.shstrtab\0";
        let (at_modinfo, at_names) = (64, 64 + modinfo.len());
        let at_headers = (at_names + names.len()).next_multiple_of(8);
        let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
        file.extend(1u16.to_le_bytes());
        file.extend(machine.to_le_bytes());
        file.extend(1u32.to_le_bytes());
        file.extend([0u8; 16]);
        file.extend((at_headers as u64).to_le_bytes());
        file.extend([0u8; 4]);
        for half in [64u16, 0, 0, 64, 3, 2] {
            file.extend(half.to_le_bytes());
        }
        file.extend(&modinfo);
        file.extend(names);
        file.resize(at_headers, 0);
        let mut section = |name: u32, kind: u32, offset: usize, size: usize| {
            file.extend(name.to_le_bytes());
            file.extend(kind.to_le_bytes());
            file.extend([0u8; 16]);
            file.extend((offset as u64).to_le_bytes());
            file.extend((size as u64).to_le_bytes());
            file.extend([0u8; 24]);
        };
        section(0, 0, 0, 0);
        section(1, 1, at_modinfo, modinfo.len());
        section(10, 3, at_names, names.len());
        file
    }

    #[test]
    fn reads_what_a_module_says_of_itself() {
        let file = module(
            62,
            &[
                "alias=fs-erofs",
                "depends=libcrc32c,lz4-x",
                "depends=",
                "softdep=pre: crc32c a-b post: c",
                "firmware=tigon/tg3.bin",
                "vermagic=6.1.0-9-amd64 SMP mod_unload ",
                "license=GPL",
            ],
        );
        let expected = Modinfo {
            depends: vec!["libcrc32c".into(), "lz4_x".into()],
            aliases: vec!["fs-erofs".into()],
            softdeps: Softdeps { before: vec!["crc32c".into(), "a_b".into()], after: vec!["c".into()] },
            firmware: vec!["tigon/tg3.bin".into()],
            vermagic: "6.1.0-9-amd64 SMP mod_unload ".into(),
            machine: 62,
        };
        assert_eq!(Modinfo::parse(&file), Ok(expected));
        assert_eq!(Modinfo::parse(&file).unwrap().release(), "6.1.0-9-amd64");
    }

    #[test]
    fn refuses_what_is_no_module() {
        let file = module(62, &["license=GPL"]);
        for bad in [b"".as_slice(), b"\x7fELF", b"#!/bin/sh", &file[..100], &file[..file.len() - 1]] {
            assert_eq!(Modinfo::parse(bad), Err(NotAModule));
        }
    }
}
