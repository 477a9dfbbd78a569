//! Programs that go into the archive: they must run where there is no dynamic linker, on the kernel's machine.

use elf::ElfBytes;
use elf::abi::{EM_AARCH64, EM_X86_64, ET_DYN, ET_EXEC, PT_INTERP};
use elf::endian::AnyEndian;

/// Why a program cannot be packed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// A script, or anything else.
    #[error("it is not an ELF program")]
    NotElf,
    /// It needs a dynamic linker.
    #[error("it is linked dynamically, and the archive has no libraries: take a statically linked one")]
    Dynamic,
    /// For another machine than the kernel.
    #[error("it is for {program}, and the kernel is for {kernel}")]
    Machine {
        /// The program's machine.
        program: String,
        /// The kernel's.
        kernel: String,
    },
}

/// Checks that `program` is static and for `machine`, an ELF machine number (the modules'), where that is known.
pub fn require_static(program: &[u8], machine: Option<u16>) -> Result<(), Unfit> {
    let elf = ElfBytes::<AnyEndian>::minimal_parse(program).map_err(|_| Unfit::NotElf)?;
    let segments = elf.segments().filter(|_| matches!(elf.ehdr.e_type, ET_EXEC | ET_DYN)).ok_or(Unfit::NotElf)?;
    if segments.iter().any(|segment| segment.p_type == PT_INTERP) {
        return Err(Unfit::Dynamic);
    }
    match machine.filter(|machine| *machine != elf.ehdr.e_machine) {
        Some(machine) => {
            Err(Unfit::Machine { program: machine_name(elf.ehdr.e_machine), kernel: machine_name(machine) })
        }
        None => Ok(()),
    }
}

/// The name of an ELF machine number, as `uname -m` prints it.
pub fn machine_name(machine: u16) -> String {
    match machine {
        EM_X86_64 => "x86_64".to_owned(),
        EM_AARCH64 => "aarch64".to_owned(),
        other => format!("ELF machine {other}"),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// An ELF program of one segment of type `segment`.
    pub(crate) fn program(machine: u16, segment: u32) -> Vec<u8> {
        let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
        file.extend(ET_EXEC.to_le_bytes());
        file.extend(machine.to_le_bytes());
        file.extend(1u32.to_le_bytes());
        file.extend(0u64.to_le_bytes());
        file.extend(64u64.to_le_bytes());
        file.extend([0u8; 12]);
        for half in [64u16, 56, 1, 64, 0, 0] {
            file.extend(half.to_le_bytes());
        }
        file.extend(segment.to_le_bytes());
        file.extend([0u8; 52]);
        file
    }

    #[test]
    fn takes_static_programs_of_the_right_machine_only() {
        assert_eq!(require_static(&program(EM_X86_64, 1), Some(EM_X86_64)), Ok(()));
        assert_eq!(require_static(&program(EM_AARCH64, 1), None), Ok(()));
        assert_eq!(require_static(&program(EM_X86_64, PT_INTERP), None), Err(Unfit::Dynamic));
        let wrong = Unfit::Machine { program: "aarch64".into(), kernel: "x86_64".into() };
        assert_eq!(require_static(&program(EM_AARCH64, 1), Some(EM_X86_64)), Err(wrong));
        let script = b"#!/bin/sh\n".as_slice();
        for bad in [script, b"", &program(EM_X86_64, 1)[..70], &crate::modinfo::tests::module(EM_X86_64, &[])] {
            assert_eq!(require_static(bad, None), Err(Unfit::NotElf));
        }
    }
}
