//! Which program becomes the real init, decided before the root is switched, while a failure can still be told.

use crate::label::printable;
use crate::sys::tree::Look;
use std::path::Path;

/// What a usable program needs besides itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Program {
    /// An ELF file that starts by itself.
    Static,
    /// An ELF file with this interpreter (PT_INTERP), or a script with this one (`#!`).
    Interpreted(String),
}

/// Why a file cannot be the real init.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// A directory, a device.
    #[error("is not a regular file")]
    NotAFile,
    /// No x bit.
    #[error("is not executable (mode {0:04o})")]
    NotExecutable(u32),
    /// No bytes.
    #[error("is empty")]
    Empty,
    /// An ELF file for other hardware.
    #[error("is a program for {found}, this machine is {running}")]
    OtherMachine {
        /// The program's machine.
        found: String,
        /// The kernel's.
        running: String,
    },
    /// Neither ELF nor script.
    #[error("is neither an ELF program nor a script")]
    Unknown,
    /// The interpreter is missing or unfit.
    #[error("needs {interpreter}, which {why}")]
    Interpreter {
        /// Its path.
        interpreter: String,
        /// What is the matter with it.
        why: String,
    },
}

/// Whether there is a program at `path` that can be executed, by what `judged` says of a file, none where it is not there; a
/// script's interpreter may be a script or a dynamic program again.
pub fn follow(path: &Path, mut judged: impl FnMut(&Path) -> Option<Result<Program, Unfit>>) -> Result<bool, Unfit> {
    let mut path = path.to_owned();
    let mut first = true;
    // The kernel follows five interpreters (BINPRM_MAX_RECURSION); three make every real chain.
    for _ in 0..4 {
        let interpreter =
            |why: String| Unfit::Interpreter { interpreter: printable(&path.to_string_lossy(), 120), why };
        let program = match judged(&path) {
            None if first => return Ok(false),
            None => return Err(interpreter("is not there".to_owned())),
            Some(judged) if first => judged?,
            Some(judged) => judged.map_err(|unfit| interpreter(unfit.to_string()))?,
        };
        match program {
            Program::Static => return Ok(true),
            Program::Interpreted(interpreter) => path = interpreter.into(),
        }
        first = false;
    }
    Ok(true)
}

/// Judges a file by what was seen of it; `machine` is `uname -m`.
pub fn judge(file: &Look, machine: &str) -> Result<Program, Unfit> {
    if !file.regular {
        return Err(Unfit::NotAFile);
    }
    // Root executes what has any x bit (execve(2), generic_permission).
    if file.mode & 0o111 == 0 {
        return Err(Unfit::NotExecutable(file.mode));
    }
    let head = file.head.as_slice();
    if head.is_empty() {
        Err(Unfit::Empty)
    } else if let Some(line) = head.strip_prefix(b"#!") {
        script(line).map(Program::Interpreted).ok_or(Unfit::Unknown)
    } else if head.starts_with(b"\x7fELF") {
        elf(head, machine)
    } else {
        Err(Unfit::Unknown)
    }
}

fn script(line: &[u8]) -> Option<String> {
    let line = line.split(|b| *b == b'\n').next()?;
    let word = line.split(u8::is_ascii_whitespace).find(|word| !word.is_empty())?;
    String::from_utf8(word.to_vec()).ok()
}

/// ELF header and program headers by gABI; both lie in the first page of every real program.
fn elf(head: &[u8], running: &str) -> Result<Program, Unfit> {
    let byte = |at: usize| head.get(at).copied();
    let little_endian = byte(5) == Some(1);
    let wide = byte(4) == Some(2);
    let number = |at: usize, size: usize| -> Option<usize> {
        let bytes = head.get(at..at.checked_add(size)?)?;
        let fold = |value: usize, byte: &u8| (value << 8) | usize::from(*byte);
        Some(if little_endian { bytes.iter().rev().fold(0, fold) } else { bytes.iter().fold(0, fold) })
    };
    let machine = number(18, 2).ok_or(Unfit::Unknown)?;
    let found = machine_name(machine, wide);
    if !little_endian || !runs_on(&found, running) {
        return Err(Unfit::OtherMachine { found, running: running.to_owned() });
    }
    let (table, entry, count) = if wide {
        (number(32, 8), number(54, 2), number(56, 2))
    } else {
        (number(28, 4), number(42, 2), number(44, 2))
    };
    let (table, entry, count) = (table.ok_or(Unfit::Unknown)?, entry.ok_or(Unfit::Unknown)?, count.unwrap_or(0));
    for index in 0..count.min(64) {
        let Some(at) = index.checked_mul(entry).and_then(|offset| offset.checked_add(table)) else { break };
        const PT_INTERP: usize = 3;
        if number(at, 4) != Some(PT_INTERP) {
            continue;
        }
        let (offset, size) =
            if wide { (number(at + 8, 8), number(at + 32, 8)) } else { (number(at + 4, 4), number(at + 16, 4)) };
        let path = offset.zip(size).and_then(|(start, size)| head.get(start..start.checked_add(size)?));
        let path = path.and_then(|path| String::from_utf8(path.strip_suffix(b"\0").unwrap_or(path).to_vec()).ok());
        // An interpreter's name beyond the first page is not judged here; the kernel will.
        return Ok(path.map_or(Program::Static, Program::Interpreted));
    }
    Ok(Program::Static)
}

fn machine_name(machine: usize, wide: bool) -> String {
    match (machine, wide) {
        (62, _) => "x86_64".to_owned(),
        (3, _) => "i386".to_owned(),
        (183, _) => "aarch64".to_owned(),
        (40, _) => "arm".to_owned(),
        (243, true) => "riscv64".to_owned(),
        (21, _) => "ppc64".to_owned(),
        (22, _) => "s390x".to_owned(),
        _ => format!("ELF machine {machine}"),
    }
}

fn runs_on(program: &str, running: &str) -> bool {
    program == running || matches!((program, running), ("i386", "x86_64" | "i686") | ("arm", "aarch64" | "armv7l"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(mode: u32, head: &[u8]) -> Look {
        Look { regular: true, mode, size: head.len() as u64, head: head.to_vec() }
    }

    /// The smallest ELF header of `machine`, with an interpreter if one is given.
    fn program(machine: u8, interpreter: Option<&str>) -> Vec<u8> {
        let mut elf = vec![0; 64 + 56];
        elf[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
        elf[18] = machine;
        elf[32] = 64;
        elf[54] = 56;
        if let Some(path) = interpreter {
            elf[56] = 1;
            elf[64] = 3;
            elf[64 + 8] = 120;
            elf[64 + 32] = path.len() as u8 + 1;
            elf.extend_from_slice(path.as_bytes());
            elf.push(0);
        }
        elf
    }

    #[test]
    fn takes_programs_and_scripts_of_this_machine() {
        assert_eq!(judge(&file(0o755, &program(62, None)), "x86_64"), Ok(Program::Static));
        let dynamic = program(62, Some("/lib64/ld-linux-x86-64.so.2"));
        let expected = Program::Interpreted("/lib64/ld-linux-x86-64.so.2".into());
        assert_eq!(judge(&file(0o755, &dynamic), "x86_64"), Ok(expected));
        let script = Program::Interpreted("/bin/sh".into());
        assert_eq!(judge(&file(0o755, b"#! /bin/sh -e\nexit"), "x86_64"), Ok(script));
        assert_eq!(judge(&file(0o755, &program(3, None)), "x86_64"), Ok(Program::Static));
    }

    #[test]
    fn refuses_each_unfit_file_with_its_reason() {
        let reason = |look: &Look| judge(look, "x86_64").unwrap_err().to_string();
        assert_eq!(reason(&file(0o644, b"#!/bin/sh\n")), "is not executable (mode 0644)");
        assert_eq!(reason(&file(0o755, b"")), "is empty");
        assert_eq!(reason(&file(0o755, b"MZ")), "is neither an ELF program nor a script");
        assert_eq!(reason(&file(0o755, b"#!\n")), "is neither an ELF program nor a script");
        let foreign = "is a program for aarch64, this machine is x86_64";
        assert_eq!(reason(&file(0o755, &program(183, None))), foreign);
        let directory = Look { regular: false, ..file(0o755, b"") };
        assert_eq!(reason(&directory), "is not a regular file");
    }

    #[test]
    fn cut_and_lying_headers_are_no_panic() {
        let good = program(62, Some("/lib/ld.so"));
        for length in 0..good.len() {
            let _ = judge(&file(0o755, &good[..length]), "x86_64");
        }
        for at in 0..good.len() {
            let mut lying = good.clone();
            lying[at] = 0xff;
            let _ = judge(&file(0o755, &lying), "x86_64");
        }
    }
}
